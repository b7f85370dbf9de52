"""Optimal Brain Surgeon over whole channels: the selection that knows of the refit.

Hassibi and Stork, NIPS 1993; over structures as in ZipLM, Kurtic et al. 2023, arXiv:2302.04089.
Run: compress-run prune=obs prune.ratio=0.5
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from compressor.prune import Observer, Ranking, Selector, Target, part, thinet
from compressor.prune._eliminate import Problem, eliminate, problem
from compressor.prune._product import own_weight, plain, require_readable
from compressor.prune._ridge import fits, system
from compressor.prune._ridge import observe as equations
from compressor.prune._rows import blocks, kernel, of_one_group, places
from compressor.surgery import Group, Slot
from compressor.taps import Tap


def observe(
    module: nn.Module,
    x: Tensor,
    generator: torch.Generator,
    target: Target | None = None,
    *,
    positions: int,
) -> dict[str, Tensor]:
    """Normal equations of the layer with input x, onto the target's outputs if there are any."""
    if target is None:
        return equations(module, x, places(module, x, positions, generator), None)
    return equations(module, x, target.rows, target.outputs)


class OBS(Selector):
    """ridge: pull towards the present weights, as a fraction of every input's own energy.

    The refit that follows pulls by the mean energy. In the selection's cost that would stand for
    what a channel does: one that never speaks but is read by large weights would be dear.
    positions: output positions drawn per image, each of which gives a row for every filter.
    """

    def __init__(self, *, ridge: float = 0.01, positions: int = 20) -> None:
        self.ridge, self.positions = ridge, positions

    def observers(self, group: Group, net: nn.Module) -> tuple[Observer, ...]:
        found = []
        measure = partial(observe, positions=self.positions)
        for slot in group.consumers:
            require_readable(net, slot, group.name)
            for path in slot.callers:
                module, tap = net.get_submodule(path), Tap(path, "input")
                if fits(module) and plain(module) and own_weight(module):
                    found.append(Observer(f"refit:{slot.parameter}", tap, measure, paired=True))
        # what is too wide for that, or multiplies with another weight than its parameter, is judged
        # as if one factor per channel were refitted
        rows = thinet.observers(group, net, self.positions)
        taken = {observer.tap for observer in found}
        return (*found, *(observer for observer in rows if observer.tap not in taken))

    def rank(
        self,
        group: Group,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> Ranking:
        found = [self._problem(slot, group.size, statistics, weights) for slot in group.consumers]
        order, cost = eliminate([one for one in found if one is not None], group.size)
        return Ranking(order.flip(0), cost.flip(0))

    def _problem(
        self,
        slot: Slot,
        size: int,
        statistics: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
    ) -> Problem | None:
        """One consumer's share, in units of its energy; None where it was never seen to run."""
        sums = part(statistics, f"refit:{slot.parameter}/")
        if not sums:
            return thinet.rescale_problem(part(statistics, f"rows:{slot.parameter}/"))
        groups = len(sums["gram"])
        start = kernel(weights[slot.parameter], groups, transposed=slot.dim == 0)
        one = system(sums, start, self.ridge, intercept=True, by_input=True)
        classes = of_one_group(slot, slot.classes.cpu(), groups)
        columns = blocks(classes, size, start.shape[2])
        energy = float(one.square.sum())
        return problem(one.matrix, one.cross, columns, 1 / energy if energy > 0 else 1.0)
