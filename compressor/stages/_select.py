"""Which channels stay: collects a selector's statistics, ranks, and repairs what is kept.

No artefacts and no configuration here; the compress stage wraps these functions. Two schedules:
`collect` + `select` judge every group on the dense network in one pass; `sequential` judges each
group on the network as it already is, cut and rescaled in front of it.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressor import surgery
from compressor.errors import RunError, UsageError
from compressor.prune import Observer, Ranking, Selector, thinet
from compressor.seeding import generator
from compressor.surgery import Group, Slot, Structure
from compressor.taps import Tap, tapped

MEMORY_LIMIT = 4 << 30  # bytes that the activations of one forward of all images may take


@dataclass(frozen=True)
class SelectOptions:
    """What every option of the config group `prune` shares (configs/prune/_base.yaml)."""

    ratio: float = 0.5
    scope: str = "interior"
    round_to: int | None = None
    min_channels: int = 1
    reconstruct: str = "none"
    statistics: str = "dense"
    images: int = 1024
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", tuple(self.skip))
        if not 0 < self.ratio < 1:
            raise UsageError(
                f"prune.ratio={self.ratio} is the fraction of channels removed: it must be above "
                "0 and below 1; to remove nothing type prune=none"
            )
        _one_of("scope", self.scope, ("interior", "all", "mixing"))
        _one_of("reconstruct", self.reconstruct, ("none", "rescale"))
        _one_of("statistics", self.statistics, ("dense", "sequential"))
        for name in ("round_to", "min_channels", "images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"prune.{name}={value} must be 1 or more")

    @classmethod
    def split(cls, tree: Mapping[str, Any]) -> tuple["SelectOptions", dict[str, Any]]:
        """The shared options of a `prune` sub-tree, and the rest: the selector's own."""
        names = {f.name for f in fields(cls)}
        shared = {k: v for k, v in tree.items() if k in names}
        return cls(**shared), {k: v for k, v in tree.items() if k not in names}


@dataclass(frozen=True, eq=False)
class Selection:
    """keep: group -> sorted class ids; groups that lose nothing are not in it."""

    keep: dict[str, Tensor]
    rankings: dict[str, Ranking]
    residual: dict[str, float] = field(default_factory=dict)
    """Group -> ||y - X_S w||^2 / ||y||^2 after rescaling, the largest over its consumers."""


def choose(structure: Structure, options: SelectOptions) -> tuple[Group, ...]:
    """The groups in scope, without the skipped ones.

    A name in skip is a group's, a producer's, or a module that contains the whole group.
    """
    groups = structure.select(options.scope)
    skipped: set[str] = set()
    for name in options.skip:
        hit = {g.name for g in groups if _named(g, name)}
        if not hit and not any(_named(g, name) for g in structure.groups):
            known = [slot.module for g in structure.groups for slot in g.producers]
            near = difflib.get_close_matches(name, known, n=3) or known[:3]
            raise UsageError(
                f"prune.skip names '{name}', which makes no channel that could be cut; "
                f"did you mean {', '.join(near)}?"
            )
        skipped |= hit
    left = tuple(g for g in groups if g.name not in skipped)
    if not left:
        raise UsageError(
            f"prune.scope={options.scope} with prune.skip={list(options.skip)} leaves no channels "
            "to cut in this network; skip less or type prune.scope=all"
        )
    return left


def watched(
    net: nn.Module, groups: Sequence[Group], selector: Selector, reconstruct: str
) -> dict[str, tuple[Observer, ...]]:
    """What is to be observed for every group; all empty where no data is needed."""
    return {group.name: _observers(net, group, selector, reconstruct) for group in groups}


def collect(
    net: nn.Module,
    groups: Sequence[Group],
    selector: Selector,
    reconstruct: str,
    batches: Iterable[Any],
    seed: int,
) -> dict[str, Tensor]:
    """All statistics of all groups from one pass over `batches` (images, or tuples of them first).

    Returns "<group>/<observer>/<name>" -> float64 sum, on the CPU. Needs no data and makes no
    pass where neither the selector nor `reconstruct` asks for any. The network stays as it is.
    """
    watch = watched(net, groups, selector, reconstruct)
    if not any(watch.values()):
        return {}
    totals = _Totals(seed)
    with _judging(net), tapped(net, _readers(watch, totals)):
        for images in _images(batches, net):
            net(images)
    return totals.everything(watch)


def select(
    net: nn.Module,
    groups: Sequence[Group],
    selector: Selector,
    statistics: Mapping[str, Tensor],
    options: SelectOptions,
    seed: int,
) -> Selection:
    """Rank every group and keep a prefix. net: the network whose weights are judged."""
    weights = net.state_dict()
    rankings = {g.name: _rank(g, selector, _mine(g, statistics), weights, seed) for g in groups}
    keep = {}
    for group in groups:
        kept = _kept(group, rankings[group.name], options)
        if len(kept) < group.size:
            keep[group.name] = kept
    return Selection(keep, rankings)


def apply_rescale(
    net: nn.Module,
    groups: Sequence[Group],
    keep: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
) -> dict[str, float]:
    """Multiply the consumers' input weights of the CUT network by ThiNet's least-squares factors.

    groups: those of the dense network; statistics: `collect`'s with reconstruct="rescale".
    Returns each group's residual energy, as in `Selection.residual`.
    """
    factors: dict[tuple[str, int], Tensor] = {}
    alive: dict[tuple[str, int], Tensor] = {}
    rest: dict[str, float] = {}
    for group in groups:
        if group.name not in keep:
            continue
        kept = keep[group.name].cpu()
        for slot in group.consumers:
            place = (slot.parameter, slot.dim)
            classes = slot.classes
            mine = torch.isin(classes, kept)
            scale = factors.setdefault(place, torch.ones(len(classes), dtype=torch.float64))
            alive.setdefault(place, torch.ones(len(classes), dtype=torch.bool))
            alive[place] &= _stays(slot, kept)
            by_class, left = _factors(group, slot, kept, _mine(group, statistics))
            rest[group.name] = max(left, rest.get(group.name, 0.0))
            scale[mine] = by_class[classes[mine]]
    for (parameter, dim), scale in factors.items():
        _scale(net, parameter, dim, scale[alive[parameter, dim]])
    return rest


def sequential(
    net: nn.Module,
    structure: Structure,
    groups: Sequence[Group],
    selector: Selector,
    options: SelectOptions,
    batches: Iterable[Any],
    seed: int,
    memory_limit: int = MEMORY_LIMIT,
) -> Selection:
    """Cut (and rescale) group after group, front to back, IN PLACE, each on what is already cut.

    One forward of all images serves every group with one consumer, as long as it fits into
    `memory_limit` bytes: the hook in front of the consumer measures, ranks, cuts and passes the
    narrower tensor on. Other groups take a pass of their own, up to their last consumer.
    """
    cutter = _Cutter(net, selector, options, seed)
    if not any(cutter.observers(group) for group in groups):
        for group in groups:
            cutter.cut(group, {})
        return cutter.done
    images = list(_images(batches, net))
    if not images:
        raise RunError("the statistics saw no image; check prune.images and the train part")
    with _judging(net):
        calls, peak = _trace(net, images[0][:1])
        joined = peak * sum(map(len, images)) <= memory_limit
        run: list[Group] = []
        for group in groups:
            if joined and _one_pass(group, calls):
                run.append(group)
                continue
            cutter.in_one_pass(run, images)
            run = []
            cutter.in_own_pass(group, images, calls)
        cutter.in_one_pass(run, images)
    return cutter.done


class _Cutter:
    """The state of a sequential run: what is cut, and what each position was in the beginning."""

    def __init__(
        self,
        net: nn.Module,
        selector: Selector,
        options: SelectOptions,
        seed: int,
    ) -> None:
        self.net, self.selector, self.options, self.seed = net, selector, options, seed
        self.totals = _Totals(seed)
        self.alive: dict[tuple[str, int], Tensor] = {}
        self.done = Selection({}, {})

    def observers(self, group: Group) -> tuple[Observer, ...]:
        return _observers(self.net, group, self.selector, self.options.reconstruct)

    def now(self, group: Group) -> Group:
        """The group with the positions that earlier cuts of other groups have left."""

        def current(slot: Slot) -> Slot:
            alive = self.alive.get((slot.parameter, slot.dim))
            return slot if alive is None else replace(slot, classes=slot.classes[alive])

        return replace(
            group,
            producers=tuple(map(current, group.producers)),
            followers=tuple(map(current, group.followers)),
            consumers=tuple(map(current, group.consumers)),
        )

    def in_one_pass(self, groups: Sequence[Group], images: Sequence[Tensor]) -> None:
        """One forward of all images; every group is cut in front of its only consumer."""
        if not groups:
            return
        left = {group.name for group in groups}
        watch: dict[str, tuple[Observer, ...]] = {}
        deciders = {}
        for group in groups:
            entrance = Tap(group.consumers[0].module, "input")
            observers = self.observers(group)
            watch[group.name] = tuple(o for o in observers if o.tap != entrance)
            here = tuple(o for o in observers if o.tap == entrance)
            deciders[entrance] = self._decider(group, here, left)
        readers = {**_readers(watch, self.totals), **deciders}
        try:
            with tapped(self.net, readers):
                self.net(torch.cat(list(images)))
        except _Enough:
            pass
        if left:
            raise RunError(
                f"a forward pass never reached the consumer of '{min(left)}'; "
                f"leave it out with prune.skip=[{min(left)}]"
            )

    def _decider(self, group: Group, here: tuple[Observer, ...], left: set[str]) -> Any:
        def decide(module: nn.Module, x: Tensor) -> Tensor:
            for observer in here:
                self.totals.add(group.name, observer, module, x)
            kept = self.cut(group, self.totals.take(group.name))
            left.discard(group.name)
            if not left:
                raise _Enough
            return _narrowed(module, x, group.consumers[0], kept)

        return decide

    def in_own_pass(self, group: Group, images: Sequence[Tensor], calls: Mapping[str, int]) -> None:
        """Statistics from the start of the network up to the last tap, then the cut."""
        watch = {group.name: self.observers(self.now(group))}
        readers = _stopping(_readers(watch, self.totals), calls)
        for batch in images:
            with tapped(self.net, readers), suppress(_Enough):
                self.net(batch)
        self.cut(group, self.totals.take(group.name))

    def cut(self, group: Group, statistics: Mapping[str, Tensor]) -> Tensor:
        """Rank, cut and rescale one group. Returns the kept class ids."""
        now, weights = self.now(group), self.net.state_dict()
        ranking = _rank(now, self.selector, statistics, weights, self.seed)
        kept = _kept(group, ranking, self.options)
        self.done.rankings[group.name] = ranking
        if len(kept) == group.size:
            return kept
        surgery.cut_group(self.net, group, kept)
        self.done.keep[group.name] = kept
        for slot in group.slots:
            place = (slot.parameter, slot.dim)
            stays = _stays(slot, kept)
            self.alive[place] = stays & self.alive.get(place, torch.ones_like(stays))
        if self.options.reconstruct == "rescale":
            for slot in now.consumers:
                factors, left = _factors(now, slot, kept, statistics)
                rest = self.done.residual.get(group.name, 0.0)
                self.done.residual[group.name] = max(left, rest)
                classes = slot.classes[_stays(slot, kept)]
                scale = torch.where(classes < 0, 1.0, factors[classes.clamp(min=0)])
                _scale(self.net, slot.parameter, slot.dim, scale)
        return kept


class _Totals:
    """Additive statistics by group and observer, each observer with a generator of its own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.sums: dict[str, dict[str, Tensor]] = {}
        self.generators: dict[tuple[str, str], torch.Generator] = {}

    def add(self, group: str, observer: Observer, module: nn.Module, x: Tensor) -> None:
        place = (group, observer.key)
        if place not in self.generators:
            self.generators[place] = generator(self.seed, "observe", *place)
        sums = self.sums.setdefault(group, {})
        for name, value in observer.measure(module, x, self.generators[place]).items():
            key = f"{observer.key}/{name}"
            sums[key] = sums[key] + value if key in sums else value

    def take(self, group: str) -> dict[str, Tensor]:
        """One group's statistics as `rank` wants them; they are forgotten here."""
        return {key: value.cpu() for key, value in self.sums.pop(group, {}).items()}

    def everything(self, watch: Mapping[str, tuple[Observer, ...]]) -> dict[str, Tensor]:
        result = {}
        for group, observers in watch.items():
            taken = self.take(group)
            if observers and not taken:
                raise RunError(
                    f"the statistics of '{group}' saw no data; check prune.images, or leave it out "
                    f"with prune.skip=[{group}]"
                )
            result.update({f"{group}/{key}": value for key, value in taken.items()})
        return result


class _Enough(Exception):  # noqa: N818 (it is no error: the rest of the pass is not needed)
    """Leaves a forward pass after the last group of a run."""


def _observers(
    net: nn.Module, group: Group, selector: Selector, reconstruct: str
) -> tuple[Observer, ...]:
    """The selector's, and the rows that rescaling needs if the selector has none."""
    found = {observer.key: observer for observer in selector.observers(group, net)}
    if reconstruct == "rescale":
        for observer in thinet.observers(group, net):
            found.setdefault(observer.key, observer)
    return tuple(found.values())


def _readers(watch: Mapping[str, tuple[Observer, ...]], totals: _Totals) -> dict[Tap, Any]:
    places: dict[Tap, list[tuple[str, Observer]]] = {}
    for group, observers in watch.items():
        for observer in observers:
            places.setdefault(observer.tap, []).append((group, observer))

    def reader(here: list[tuple[str, Observer]]) -> Any:
        def read(module: nn.Module, x: Tensor) -> None:
            for group, observer in here:
                totals.add(group, observer, module, x)

        return read

    return {tap: reader(here) for tap, here in places.items()}


def _stopping(readers: Mapping[Tap, Any], calls: Mapping[str, int]) -> dict[Tap, Any]:
    """Readers of which the last one to read in a forward ends it. calls: of each module in one."""
    awaited = sum(calls[tap.module] if tap.call is None else 1 for tap in readers)
    seen = 0

    def counted(reader: Any) -> Any:
        def read(module: nn.Module, x: Tensor) -> None:
            nonlocal seen
            reader(module, x)
            seen += 1
            if seen % awaited == 0:
                raise _Enough

        return read

    return {tap: counted(reader) for tap, reader in readers.items()}


def _mine(group: Group, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One group's part of what `collect` returned, under the names that `rank` knows."""
    prefix = f"{group.name}/"
    return {k.removeprefix(prefix): v for k, v in statistics.items() if k.startswith(prefix)}


def _rank(
    group: Group,
    selector: Selector,
    statistics: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    seed: int,
) -> Ranking:
    private = generator(seed, "rank", group.name)
    ranking = selector.rank(group, statistics, weights, private)
    if not torch.equal(ranking.order.cpu().sort().values, torch.arange(group.size)):
        raise RunError(
            f"{type(selector).__name__} ranked '{group.name}' with something other than an order "
            f"of its {group.size} channels; look for NaN in the network's activations or weights"
        )
    return ranking


def keep_count(group: Group, options: SelectOptions) -> int:
    """How many of the group's classes stay."""
    maker = group.producers[0]
    copies = max(1, int((maker.classes >= 0).sum()) // group.size)
    count = surgery.keep_count(
        group.size, options.ratio, options.round_to, options.min_channels, groups=copies
    )
    return min(count, group.size)


def _kept(group: Group, ranking: Ranking, options: SelectOptions) -> Tensor:
    """(n,) sorted class ids."""
    return ranking.order[: keep_count(group, options)].cpu().sort().values


def _factors(
    group: Group, slot: Slot, kept: Tensor, statistics: Mapping[str, Tensor]
) -> tuple[Tensor, float]:
    """(group.size,) rescale factor by class (1 where removed), and the residual energy."""
    key = f"rows:{slot.parameter}/gram"
    if key not in statistics:
        raise RunError(
            f"no rows of '{slot.module}' were collected; collect with reconstruct='rescale'"
        )
    w = thinet.rescale(statistics[key], kept)
    factors = torch.ones(group.size, dtype=torch.float64)
    factors[kept] = w.cpu()
    return factors, thinet.residual(statistics[key], kept, w)


@torch.no_grad()
def _scale(net: nn.Module, parameter: str, dim: int, factors: Tensor) -> None:
    weight = net.get_parameter(parameter)
    if weight.shape[dim] != len(factors):
        raise RunError(
            f"'{parameter}' has {weight.shape[dim]} inputs where the plan leaves {len(factors)}; "
            "rescale the network that this plan has cut"
        )
    shape = [1] * weight.dim()
    shape[dim] = -1
    weight.mul_(factors.to(weight).view(shape))


def _narrowed(module: nn.Module, x: Tensor, slot: Slot, kept: Tensor) -> Tensor:
    """The consumer's input without the removed channels; grouped convs lose them in each group."""
    stays = _stays(slot, kept)
    if isinstance(module, nn.Linear):
        return x.index_select(-1, stays.nonzero()[:, 0].to(x.device))
    stays = stays.repeat(x.shape[1] // len(stays))
    narrow = x.index_select(1, stays.nonzero()[:, 0].to(x.device))
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return narrow.contiguous(memory_format=torch.channels_last) if channels_last else narrow


def _stays(slot: Slot, kept: Tensor) -> Tensor:
    """(len(slot.classes),) bool: positions that a cut to these classes leaves."""
    return (slot.classes < 0) | torch.isin(slot.classes, kept)


def _one_pass(group: Group, calls: Mapping[str, int]) -> bool:
    """Whether everything that makes this group's channels has run when its consumer is reached."""
    return (
        group.interior
        and len(group.consumers) == 1
        and all(calls.get(slot.module, 0) == 1 for slot in group.slots)
        and all(bool((slot.classes >= 0).all()) for slot in group.slots)
    )


def _named(group: Group, name: str) -> bool:
    makers = [group.name, *(slot.module for slot in group.producers)]
    return name in makers or all(maker.startswith(f"{name}.") for maker in makers)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"prune.{name}='{value}' is unknown; type {' or '.join(allowed)}")


def _images(batches: Iterable[Any], net: nn.Module) -> Iterator[Tensor]:
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    for batch in batches:
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        yield images.to(device)


@contextmanager
def _judging(net: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode comes back.

    Not inference mode: parameters that a cut creates under it could never be trained again.
    """
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class _Peak(TorchDispatchMode):
    """The largest sum of bytes that the tensors made under it held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.held = {k: v for k, v in self.held.items() if not v[0].expired()}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.held[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return out


def _trace(net: nn.Module, image: Tensor) -> tuple[Counter[str], int]:
    """How often each module runs in one forward, and the bytes that one image needs."""
    calls: Counter[str] = Counter()
    taps = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
        for name, module in net.named_modules(remove_duplicate=False)
    ]
    try:
        with _Peak() as measured:
            net(image)
    finally:
        for tap in taps:
            tap.remove()
    return calls, measured.peak
