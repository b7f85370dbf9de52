"""What a target that refers to the dense network means for one that earlier rounds have cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compressor.errors import RunError
from compressor.measure import count_macs, count_params
from compressor.stages import Given
from compressor.stages._counts import choose, copies, running, uniform
from compressor.stages._options import WidthOptions
from compressor.stages._statistics import count_calls
from compressor.stages._structures import structure_of
from compressor.surgery import Group, Plan, Structure


@dataclass(frozen=True, eq=False)
class Original:
    """The dense network (its weights do not count), its structure, measured MACs and parameters.

    The walk may begin with a network that was cut elsewhere: then it is that one.

    given: whether it is the given network itself, which no round has cut; groups: those in scope.
    """

    given: bool
    net: nn.Module
    structure: Structure
    groups: Mapping[str, Group]
    figures: Mapping[str, int]

    @classmethod
    def of(
        cls,
        given: Given,
        net: nn.Module,
        structure: Structure,
        groups: Sequence[Group],
        examples: tuple[Tensor, ...],
        options: WidthOptions,
        trust: tuple[str, ...],
    ) -> "Original":
        """net, structure, groups: the given network's."""
        whole = given.plan == given.base
        if not whole:
            with torch.random.fork_rng(devices=[]):
                net = given.dense(trust).eval()
            examples = tuple(x.cpu() for x in examples)
            structure = structure_of(net, given.spec, given.base, examples)
            groups = running(choose(structure, options), count_calls(net, examples[0]))
        figures = figures_of(net, given.spec.input_size)
        return cls(whole, net, structure, {group.name: group for group in groups}, figures)

    def known(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """Those of a cut network's groups that are the dense one's, with fewer channels.

        A grouped convolution with one channel a group is a depthwise one: its channels are another
        kind of thing then, which this target does not speak of.
        """
        return tuple(
            group
            for group in groups
            if group.name in self.groups and copies(group) == copies(self.groups[group.name])
        )

    def here(
        self, options: WidthOptions, groups: Sequence[Group], structure: Structure
    ) -> WidthOptions:
        """The same target in terms of the given network; groups: what of it is `known`.

        Widths that follow from the dense ones become the layers' own ratios, so that several rounds
        end in the very widths of one. Where layers share what goes (prune.allocation), only those
        with ratios of their own are so pinned. A latency is timed beside the dense network anyway.
        """
        if self.given:
            return options
        dense = [self.groups[group.name] for group in groups]
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
            share = share * self.figures[name] / getattr(structure, name)({})
        return replace(options, ratios=ratios, budget=(name, share))

    def removed(self, plan: Plan) -> float:
        """The fraction of the channels in scope that a plan has taken away."""
        gone = 0.0
        for group in self.groups.values():
            slot = group.producers[0]
            kept = plan.by_slot.get((slot.parameter, slot.dim))
            if kept is not None:
                gone += (len(slot.classes) - len(kept)) / copies(group)
        return gone / sum(group.size for group in self.groups.values())


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
