"""What is going to be cut, before any data is seen: the groups in scope and how much of each."""

import difflib
from collections.abc import Mapping, Sequence

from compressor import surgery
from compressor.errors import UsageError
from compressor.stages._options import SelectOptions
from compressor.surgery import Group, Structure


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


def running(groups: Sequence[Group], calls: Mapping[str, int]) -> tuple[Group, ...]:
    """The groups that something reads in eval mode; calls: of every module in one forward.

    What only a head for training reads (GoogLeNet, Inception) cannot be judged, costs nothing where
    the network is used, and stays as it is.
    """
    return tuple(g for g in groups if any(calls[slot.module] for slot in g.consumers))


def uniform(groups: Sequence[Group], options: SelectOptions) -> dict[str, int]:
    """Group -> channels that it keeps when every layer loses the same fraction, `ratio`."""
    return {group.name: _keep(group, options) for group in groups}


def _keep(group: Group, options: SelectOptions) -> int:
    maker = group.producers[0]
    copies = max(1, int((maker.classes >= 0).sum()) // group.size)
    return surgery.keep_count(
        group.size, options.ratio, options.round_to, options.min_channels, groups=copies
    )


def _named(group: Group, name: str) -> bool:
    makers = [group.name, *(slot.module for slot in group.producers)]
    return name in makers or all(maker.startswith(f"{name}.") for maker in makers)
