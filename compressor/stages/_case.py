"""One network that is to be cut: its groups, and what its channels are judged by on the dense one.

Sums and orders are entries of the cache: they know nothing of ratios and budgets, so that all of a
sweep, its tables of sensitivity and its processes share one pass of statistics.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compressor.instantiation import sources
from compressor.prune import Ranking, Selector
from compressor.seeding import derive
from compressor.stages import Context, Given
from compressor.stages._classes import alike
from compressor.stages._counts import choose, running
from compressor.stages._pruning import Pruning
from compressor.stages._select import judge
from compressor.stages._statistics import collect, count_calls, watched
from compressor.stages._structures import structure_of
from compressor.stages.noise import CLEAN
from compressor.surgery import Group, Structure

VERSION = 3
# Images in a batch of the statistics: a constant, because the rows that are drawn depend on it.
BATCH = 128


@dataclass(frozen=True, eq=False)
class Case:
    """groups: what is cut. idle: names of groups in scope that nothing reads in eval mode."""

    given: Given
    context: Context
    pruning: Pruning
    net: nn.Module
    examples: tuple[Tensor, ...]
    structure: Structure
    groups: tuple[Group, ...]
    idle: tuple[str, ...]

    @classmethod
    def of(cls, given: Given, pruning: Pruning, context: Context) -> "Case":
        """pruning: by a selector."""
        device = context.machine.device
        net = given.network(context.trust).to(device)
        examples = context.task.example_inputs(given.spec.input_size, 2)
        examples = tuple(x.to(device) for x in examples)
        structure = structure_of(net, given.spec, given.plan, examples)
        chosen = choose(structure, pruning.widths)
        groups = running(chosen, count_calls(net, examples[0]))
        idle = tuple(group.name for group in chosen if group not in groups)
        return cls(given, context, pruning, net, examples, structure, groups, idle)

    @property
    def selector(self) -> Selector:
        return self.pruning.method

    @cached_property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Images of the train part that have a label, and the one that the criterion reads."""
        judging, index = self.context.judging, self.context.labelled
        targets = None if judging is None else judging.targets
        return list(_batches(self.context, self.pruning.images, index, targets))

    @cached_property
    def labelled(self) -> list[tuple[Tensor, Tensor]] | None:
        """Those whose label it may read, None where they are all of `batches`."""
        judging = self.context.judging
        if judging is None or judging.index is self.context.labelled:
            return None
        return list(_batches(self.context, self.pruning.images, judging.index, judging.targets))

    def loss(self, answer: Any, targets: Tensor) -> Tensor:
        """The sum over the images of each one's loss, the task's own."""
        task = self.context.task
        return len(targets) * task.loss(task.outputs(answer), targets)

    @cached_property
    def statistics(self) -> dict[str, Tensor]:
        """One pass over the dense network, kept for every ratio of the same selector."""
        reconstruct = self.pruning.repair.reconstruct
        if not any(watched(self.net, self.groups, self.selector, reconstruct).values()):
            return {}

        def take(folder: Path) -> None:
            tensors = {name: value.contiguous() for name, value in self._collect().items()}
            save_file(tensors, folder / "statistics.safetensors")

        parts = self.parts(rows=reconstruct == "rescale")
        folder = self.context.remember("statistics", parts, take)
        return load_file(folder / "statistics.safetensors")

    @cached_property
    def rankings(self) -> dict[str, Ranking]:
        """Every group judged on the dense network."""

        def take(folder: Path) -> None:
            tensors = {}
            for group, ranking in self._rank().items():
                tensors[f"{group}/order"] = ranking.order.cpu().contiguous()
                if ranking.cost is not None:
                    tensors[f"{group}/cost"] = ranking.cost.cpu().double().contiguous()
            save_file(tensors, folder / "rankings.safetensors")

        folder = self.context.remember("rankings", self.parts(), take)
        found = load_file(folder / "rankings.safetensors")
        return {
            g.name: Ranking(found[f"{g.name}/order"], found.get(f"{g.name}/cost"))
            for g in self.groups
        }

    def parts(self, **more: Any) -> dict[str, Any]:
        """What an entry depends on that knows the network and the selector, and no target."""
        judging = self.context.judging
        if judging is not None and judging.key != CLEAN:
            more["labels"] = judging.key
        if self.context.alike is not None:
            more["drawn"] = self.context.alike.key
        return {
            "version": VERSION,
            "parent": self.given.parent.key if self.given.parent else "",
            "selector": dict(self.pruning.arguments),
            "code": sources(self.pruning.arguments),
            "groups": [group.name for group in self.groups],
            "images": self.pruning.images,
            "data": self.context.data_key,
            "seed": self.context.seed,
            **more,
        }

    def _rank(self) -> dict[str, Ranking]:
        # the sums of a wide network are large: they are kept only where a cut needs them again
        kept = self.pruning.statistics == "dense"
        statistics = self.statistics if kept else self._collect("none")
        return judge(self.net, self.groups, self.selector, statistics, self.context.seed)

    def _collect(self, reconstruct: str | None = None) -> dict[str, Tensor]:
        return collect(
            self.net, self.groups, self.selector, reconstruct or self.pruning.repair.reconstruct,
            self.batches, self.context.seed, self.loss, self.labelled,
        )  # fmt: skip


def _batches(
    context: Context, images: int, index: Tensor | None, targets: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `images` of `index` in the train part, in the stage's own order, not augmented.

    Where classes are unequal that order takes them in turns.
    """
    seed = derive(context.seed, "images")
    if context.alike is not None:
        index = torch.arange(context.data.size("train")) if index is None else index
        index = index[alike(context.alike.targets[index], seed)]
    loader = context.data.loader(
        "train", BATCH, seed=seed, shuffle=context.alike is None,
        targets=targets, indices=index, workers=context.machine.workers,
    )  # fmt: skip
    left = images
    for inputs, targets, _ in loader:
        yield inputs[:left], targets[:left]
        left -= len(inputs)
        if left <= 0:
            return
