"""From the classes of a trace to groups with names, kinds and slots, and to what is frozen."""

from __future__ import annotations

from torch import Tensor

from compressor.surgery._classes import Grouping
from compressor.surgery._kinds import Kinds
from compressor.surgery._shortcuts import shortcuts
from compressor.surgery._structure import Activation, Frozen, Group, Slot


def groups(grouping: Grouping) -> tuple[Group, ...]:
    """Groups in order of execution, each with the slots that its classes fill."""
    count = len(grouping.members)
    slots: list[dict[str, list[Slot]]] = [
        {"producers": [], "consumers": [], "followers": []} for _ in range(count)
    ]
    roles: list[dict[str, list[str]]] = [{"producer": [], "consumer": []} for _ in range(count)]
    place = {"producer": "producers", "bias": "producers", "consumer": "consumers"}
    # slots of one vector of ids share one tensor of classes, here and for all who read the groups
    shared: dict[int, dict[int, Tensor]] = {}
    kinds, mixing = Kinds(grouping), grouping.flag(grouping.ledger.marks.mixing)
    projections = shortcuts(grouping.ledger)
    for (name, dim), record in grouping.ledger.records.items():
        by_group = shared.get(id(record.vector))
        if by_group is None:
            by_group = shared[id(record.vector)] = grouping.classes_in(grouping.slots[name, dim])
        for number, classes in by_group.items():
            module = name.rpartition(".")[0]
            # what a consumer reads went through this: statistics and criteria ask for "relu"
            after = record.after if record.role == "consumer" else ""
            slots[number][place.get(record.role, "followers")].append(
                Slot(
                    parameter=name,
                    dim=dim,
                    classes=classes,
                    module=module,
                    after=after,
                    callers=tuple(record.callers),
                    shortcut=name in projections and record.role == "producer",
                )
            )
            if record.role in ("producer", "consumer"):
                roles[number][record.role].append(name)
    active = _activations(grouping)
    taken: dict[str, int] = {}
    found = []
    for number, parts in enumerate(slots):
        # a weight of the network itself stands for it
        module = parts["producers"][0].module or parts["producers"][0].parameter
        taken[module] = taken.get(module, 0) + 1
        kind = kinds.of(grouping.members[number], roles[number])
        found.append(
            Group(
                # channels of one layer can end in several groups: the later ones get a number
                name=module if taken[module] == 1 else f"{module}#{taken[module]}",
                size=grouping.members[number].numel(),
                producers=tuple(parts["producers"]),
                consumers=tuple(parts["consumers"]),
                followers=tuple(parts["followers"]),
                interior=kind == "interior",
                kind=kind,
                mixing=bool(mixing[grouping.members[number]].any()),
                activations=tuple(active.get(number, ())),
            )
        )
    return tuple(found)


def _activations(grouping: Grouping) -> dict[int, list[Activation]]:
    """Number of a group -> the nonlinearities that its channels pass, in order of execution."""
    active: dict[int, list[Activation]] = {}
    for number_of, site in enumerate(grouping.ledger.sites):
        for number, classes in grouping.classes_in(grouping.roots[site.vector]).items():
            active.setdefault(number, []).append(
                Activation(
                    op=site.op,
                    module=site.module,
                    call=site.call,
                    leaf=site.leaf,
                    classes=classes,
                    dim=site.dim or 0,
                    site=number_of,
                )
            )
    return active


def report(grouping: Grouping) -> tuple[Frozen, ...]:
    """The channels that are frozen, by the first operator that stopped them."""
    # a class that several operators stopped is listed once, under the one that ran first
    first: dict[int, int] = {}
    for number, event in enumerate(grouping.ledger.events):
        first.setdefault(int(grouping.roots[event.id]), number)
    # what a layer makes with a weight that is no parameter stands in no record: the event counts it
    channels = [event.channels for event in grouping.ledger.events]
    for key, record in grouping.ledger.records.items():
        if record.role == "producer":
            roots = grouping.slots[key]
            for root in roots[grouping.frozen[roots]].tolist():
                channels[first[root]] += 1
    total: dict[tuple[str, str, str], int] = {}
    for event, count in zip(grouping.ledger.events, channels, strict=True):
        if count:
            place = (event.module, event.operator, event.reason)
            total[place] = total.get(place, 0) + count
    return tuple(
        Frozen(module, operator, count, reason)
        for (module, operator, reason), count in total.items()
    )
