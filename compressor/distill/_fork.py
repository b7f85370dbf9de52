"""Several heads on shared lower stages, made of whole networks of one architecture."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from compressor.errors import UsageError


class _Divide(torch.autograd.Function):
    """Identity whose gradient is divided by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: int) -> Tensor:
        ctx.by = by
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / ctx.by, None


class Forked(nn.Module):
    """nets[h]'s upper part on every head's path; below a fork the paths share nets[first]'s parts.

    In eval mode it is nets[0], a plain network; in train mode every head's logits pass `out.<h>`,
    where a tap finds them, and head 0's are the answer. Parts that no path uses are no parameters.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        forks: Sequence[tuple[str, int]],
        rescale: bool,
    ) -> None:
        """nets: one a head. forks: (stage after which to fork, children), from below; their
        product is the number of heads. rescale: a fork passes down the mean of its children's
        gradients instead of their sum.
        """
        super().__init__()
        self.net = nets[0]
        self.heads = len(nets)
        self.forks = tuple(forks)
        self.rescale = rescale
        stages = [stage for stage, _ in forks]
        cuts = [_cut(net, stages) for net in nets]
        parts, self.paths = {}, []
        for head in range(self.heads):
            path, share = [], math.prod(children for _, children in forks)
            for level in range(len(forks) + 1):
                # heads between two forks share the first one's part
                owner = head - head % share
                parts.setdefault(f"{owner}-{level}", cuts[owner][level])
                path.append(f"{owner}-{level}")
                if level < len(forks):
                    share //= forks[level][1]
            self.paths.append(path)
        self.parts = nn.ModuleDict(parts)
        self.out = nn.ModuleList(nn.Identity() for _ in nets)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.net(x)
        known: dict[str, Tensor] = {}
        answers = []
        for head, path in enumerate(self.paths):
            value = x
            for level, name in enumerate(path):
                if name not in known:
                    if level and self.rescale:
                        value = _Divide.apply(value, self.forks[level - 1][1])
                    known[name] = self.parts[name](value)
                value = known[name]
            answers.append(self.out[head](value))
        return answers[0]


def all_heads(forked: "Forked", x: Tensor) -> list[Tensor]:
    """Every head's logits in eval mode, without gradients."""
    forked.eval()
    answers = []
    with torch.no_grad():
        for path in forked.paths:
            value = x
            for name in path:
                value = forked.parts[name](value)
            answers.append(value)
    return answers


def split_stages(net: nn.Module, at: Sequence[str], key: str) -> list[str]:
    """The stages at which to fork; by default the last but one. key: names the option."""
    stages = list(getattr(net, "stages", ()))
    if not at:
        if len(stages) < 2:
            raise UsageError(
                f"the network names no stages to share: list in {key} the paths of modules, after "
                "which the heads part"
            )
        return [stages[-2]]
    paths = dict(net.named_modules())
    for name in at:
        if name not in paths or not name:
            raise UsageError(
                f"{key}={list(at)}: the network has no module '{name}'; its stages are "
                f"{', '.join(stages) or 'not named'}"
            )
    return list(at)


class _Tracer(fx.Tracer):
    def __init__(self, leaves: Sequence[str]) -> None:
        super().__init__()
        self.leaves = set(leaves)

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return path in self.leaves or super().is_leaf_module(module, path)


def _cut(net: nn.Module, stages: Sequence[str]) -> list[nn.Module]:
    """The network as a chain of len(stages) + 1 parts, which hold its own modules."""
    try:
        graph = _Tracer(stages).trace(net)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{type(net).__name__} cannot be split into trunk and heads, since its path depends "
            f"on values ({reason}): use another model"
        ) from error
    nodes = list(graph.nodes)
    ends = []
    for stage in stages:
        calls = [i for i, n in enumerate(nodes) if n.op == "call_module" and n.target == stage]
        if len(calls) != 1:
            raise UsageError(f"'{stage}' runs {len(calls)} times in a forward: fork at another one")
        ends.append(calls[0])
    if ends != sorted(ends):
        raise UsageError(f"the forks {', '.join(stages)} are not in the order of the network")
    starts = [0, *(end + 1 for end in ends)]
    stops = [*(end + 1 for end in ends), len(nodes)]
    parts = []
    for level, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        part, known = fx.Graph(), {}
        if level:
            known[nodes[start - 1]] = part.placeholder("x")
        for node in nodes[start:stop]:
            try:
                known[node] = part.node_copy(node, lambda n, known=known: known[n])
            except KeyError as missing:
                raise UsageError(
                    f"the network passes '{missing.args[0]}' by '{stages[level - 1]}': fork at "
                    "another module"
                ) from None
        if stop < len(nodes):
            part.output(known[nodes[stop - 1]])
        parts.append(fx.GraphModule(net, part, f"Part{level}"))
    return parts


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks hold the same weights: their heads would never differ."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
