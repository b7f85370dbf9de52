"""What a target that refers to the dense network means for one that earlier rounds have cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compressor import surgery
from compressor.errors import RunError
from compressor.measure import count_macs, count_params
from compressor.stages import Given
from compressor.stages._counts import uniform
from compressor.stages._options import SelectOptions
from compressor.surgery import EMPTY_PLAN, Group, Structure


@dataclass(frozen=True, eq=False)
class Original:
    """The dense network (its weights do not count), its structure, measured MACs and parameters."""

    net: nn.Module
    structure: Structure
    figures: Mapping[str, int]

    @classmethod
    def of(
        cls,
        given: Given,
        net: nn.Module,
        structure: Structure,
        examples: tuple[Tensor, ...],
        trust: tuple[str, ...],
    ) -> "Original":
        """net, structure: the given network's, which is the dense one before the first cut."""
        if given.plan != EMPTY_PLAN:
            with torch.random.fork_rng(devices=[]):
                net = given.spec.build(trust).eval()
            structure = surgery.analyse(net, tuple(x.cpu() for x in examples))
        return cls(net, structure, figures_of(net, given.spec.input_size))

    def size(self, group: Group) -> int:
        return self.structure.group(group.name).size

    def here(
        self, options: SelectOptions, groups: Sequence[Group], figures: Mapping[str, int]
    ) -> SelectOptions:
        """The same target in terms of the given network, whose groups and figures these are.

        Widths that follow from the dense ones become the layers' own ratios, so that several rounds
        end in the very widths of one. Where layers share what goes (prune.allocation), only those
        with ratios of their own are so pinned. A latency is timed beside the dense network anyway.
        """
        if figures == self.figures:
            return options
        dense = [self.structure.group(group.name) for group in groups]
        named = [group for group in dense if options.ratio_of(group) is not None]
        shared = options.budget is not None or options.allocation != "uniform"
        counts = uniform(named if shared else dense, options)
        now = {group.name: group.size for group in groups}
        ratios = {name: 1 - min(count, now[name]) / now[name] for name, count in counts.items()}
        if options.budget is None:
            loose = [group for group in dense if group.name not in ratios]
            left = (1 - options.ratio) * sum(group.size for group in loose)
            ratio = 1 - left / max(1, sum(now[group.name] for group in loose))
            return replace(
                options, ratios=ratios, ratio=max(ratio, 1e-9) if loose else options.ratio
            )
        name, share = options.budget
        if name != "latency":
            share = share * self.figures[name] / figures[name]
        return replace(options, ratios=ratios, budget=(name, share))


def figures_of(net: nn.Module, input_size: tuple[int, int, int]) -> dict[str, int]:
    """Measured, not predicted."""
    return {"macs": count_macs(net, input_size), "params": count_params(net)}


def check_widths(groups: Sequence[Group], counts: Mapping[str, int], keep: Mapping) -> None:
    """Every layer has lost what it was to lose. keep: group -> class ids, if it lost any."""
    for group in groups:
        left = len(keep[group.name]) if group.name in keep else group.size
        if left != counts[group.name]:
            raise RunError(
                f"'{group.name}' keeps {left} of {group.size} channels where {counts[group.name]} "
                "were asked for; leave it out with prune.skip"
            )
