"""What is going to be cut, before any data is seen: the groups in scope and how much of each."""

import difflib
import math
from collections.abc import Mapping, Sequence

from compressor import surgery
from compressor.errors import UsageError
from compressor.stages._options import WidthOptions, named, only_in_part
from compressor.surgery import Group, Structure


def choose(structure: Structure, options: WidthOptions) -> tuple[Group, ...]:
    """The groups in scope, without the skipped ones.

    A name in skip is a group's, or a module that makes or passes on some of its channels, or
    contains such a one: what runs through a protected layer is not cut.
    """
    groups = structure.select(options.scope)
    for name in options.ratios:
        if not any(named(g, name) for g in structure.groups):
            raise UsageError(_unknown("ratios", name, structure, options.scope))
    skipped: set[str] = set()
    for name in options.skip:
        hit = {g.name for g in groups if named(g, name)}
        if not hit and not any(named(g, name) for g in structure.groups):
            raise UsageError(_unknown("skip", name, structure, options.scope))
        skipped |= hit
    left = tuple(g for g in groups if g.name not in skipped)
    if not left:
        raise UsageError(_nothing(structure, options))
    return left


def in_part(structure: Structure, options: WidthOptions) -> list[str]:
    """A line for every name in skip and ratios that is told of more than lies in it."""
    found = []
    groups = structure.select(options.scope)
    for name in options.skip:
        more = [g for g in groups if named(g, name) and only_in_part(g, name)]
        found += [f"prune.skip=[{name}] also leaves {_whole(g, name)} as it is" for g in more]
    cut = [g for g in groups if not any(named(g, name) for name in options.skip)]
    for name, ratio in options.ratios.items():
        more = [g for g in cut if named(g, name) and only_in_part(g, name)]
        found += [
            f"prune.ratios: the {ratio:g} of '{name}' holds for all of {_whole(g, name)}"
            for g in more
            if options.ratio_of(g) == ratio
        ]
    return found


def _whole(group: Group, name: str) -> str:
    """A group of which only a part lies in the module `name`."""
    made = dict.fromkeys(slot.module or slot.parameter for slot in group.producers)
    return (
        f"'{group.name}', whose channels run through '{name}' (they are made by {_few(list(made))})"
    )


def _nothing(structure: Structure, options: WidthOptions) -> str:
    """Why nothing is left to cut, and which scopes have something."""
    seen = (
        f"prune.scope={options.scope} with prune.skip={list(options.skip)} leaves no channels to "
        "cut in this network"
    )
    wider = {
        "all": "residual streams, dense growth and hidden layers too",
        "mixing": "through layer and group norms too, which changes the function",
    }
    scopes = ("interior", *wider)
    hints: dict[int, str] = {}
    for scope in scopes[scopes.index(options.scope) + 1 :]:
        groups = structure.select(scope)
        more = [g for g in groups if not any(named(g, name) for name in options.skip)]
        if more:
            hint = f"prune.scope={scope} cuts {len(more)} layers ({wider[scope]})"
            hints.setdefault(len(more), hint)
    if hints:
        return f"{seen}; {', '.join(hints.values())}"
    if options.skip:
        return f"{seen}; skip less"
    return f"{seen}, nor has any other scope some; type prune=none for it"


def running(groups: Sequence[Group], calls: Mapping[str, int]) -> tuple[Group, ...]:
    """The groups that something reads in eval mode; calls: of every module in one forward.

    What only a head for training reads (GoogLeNet, Inception) cannot be judged, costs nothing where
    the network is used, and stays as it is.
    """
    return tuple(
        g for g in groups if any(calls[path] for slot in g.consumers for path in slot.callers)
    )


def uniform(
    groups: Sequence[Group], options: WidthOptions, ratio: float | None = None
) -> dict[str, int]:
    """Group -> channels that it keeps when every layer loses the same fraction.

    ratio: by default options.ratio; layers named in options.ratios have their own. A stated ratio
    that leaves a layer none of its channels is refused, unless prune.min_channels says how many.
    """
    counts = {}
    for group in groups:
        own = options.ratio_of(group)
        share = own if own is not None else options.ratio if ratio is None else ratio
        if own is not None or ratio is None:
            _check_left(group, options, share, "prune.ratio" if own is None else "prune.ratios")
        counts[group.name] = count(group, options, share)
    return counts


def count(group: Group, options: WidthOptions, ratio: float) -> int:
    """Channels that a group keeps when it loses this fraction of them."""
    return surgery.keep_count(
        group.size, min(ratio, 1 - 1e-9), options.round_to, options.least, groups=copies(group)
    )


def _check_left(group: Group, options: WidthOptions, ratio: float, stated: str) -> None:
    told = options.min_channels is not None or options.round_to is not None
    if not told and math.floor(group.size * (1 - ratio) + 1e-6) < 1:
        raise UsageError(
            f"{stated}={ratio} leaves 0 of {group.size} channels in '{group.name}'; lower it, or "
            "type prune.min_channels=1"
        )


def copies(group: Group) -> int:
    """How many channels of its layer one class of the group stands for."""
    maker = group.producers[0]
    return max(1, int((maker.classes >= 0).sum()) // group.size)


def _unknown(option: str, name: str, structure: Structure, scope: str) -> str:
    groups = structure.groups
    makers = list(dict.fromkeys(slot.module for g in groups for slot in g.producers))
    above = dict.fromkeys(part for maker in makers for part in _above(maker))
    known = [*makers, *(part for part in above if any(named(g, part) for g in groups))]
    layers = [g.name for g in structure.select(scope) or groups]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"such are {_few(layers)}"
    return f"prune.{option} names '{name}', which makes no channel that could be cut; {hint}"


def _above(module: str) -> list[str]:
    """The modules that hold this one, the outermost first."""
    parts = module.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
