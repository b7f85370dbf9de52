"""Collaborative learning: heads of one network on shared layers learn from one another's answers.

Song, Chai: Collaborative Learning for Deep Neural Networks. NeurIPS 2018, arXiv:1805.11761, eq. (3)
to (6). Head 0 is kept, a network of the ordinary shape.
Run: compress-run distill=collaborative distill.terms.collaborative.pattern=hierarchical
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from compressor.distill import Batch, Layers, Term
from compressor.distill._fork import Forked, alike, split_stages
from compressor.errors import UsageError
from compressor.options import Fraction, NotNegative, Positive, Range, checked


def consensus(heads: Sequence[Tensor], head: int, temperature: float) -> Tensor:
    """(B, K): softmax of the OTHER heads' mean logits over T; a target, so without a gradient."""
    others = [z.float() for j, z in enumerate(heads) if j != head]
    return (torch.stack(others).mean(dim=0) / temperature).softmax(dim=1).detach()


def collaborative_loss(
    heads: Sequence[Tensor],
    criterion: Callable[[Tensor], Tensor],
    beta: float = 0.5,
    temperature: float = 2.0,
    soft_t2: bool = False,
) -> Tensor:
    """sum_h beta * CE(z_h, y) + (1 - beta) * CE(softmax(z_h / T), consensus of the others).

    soft_t2: multiplies the second by T^2, as in KD; the public code does not, and whether the paper
    does is open.
    """
    scale = (1 - beta) * (temperature**2 if soft_t2 else 1.0)
    total = heads[0].new_zeros((), dtype=torch.float32)
    for number, z in enumerate(heads):
        q = consensus(heads, number, temperature)
        soft = -(q * (z.float() / temperature).log_softmax(dim=1)).sum(dim=1).mean()
        total = total + beta * criterion(z) + scale * soft
    return total


class Collaborative(Term):
    """All heads are trained at once, from one forward; a shared layer gets their mean gradient."""

    needs_teacher, owns_training, only_at = False, True, "train"

    @checked("distill.terms.collaborative")
    def __init__(
        self,
        weight: NotNegative = 1.0,
        heads: Annotated[int, Range(2)] = 4,
        beta: Fraction = 0.5,
        temperature: Positive = 2.0,
        soft_t2: bool = False,
        pattern: Literal["multi_instance", "simple", "hierarchical"] = "simple",
        split_at: Sequence[str] = (),
        rescale: bool = True,
    ) -> None:
        if pattern == "hierarchical" and heads & (heads - 1):
            raise UsageError(
                f"distill.terms.collaborative.heads={heads}: a tree of twofold forks has 2, 4 or 8"
            )
        self.weight = weight
        self.heads, self.beta, self.temperature = heads, beta, temperature
        self.soft_t2, self.pattern, self.rescale = soft_t2, pattern, rescale
        self.split_at = tuple(split_at)

    def layers(self) -> Layers:
        return tuple(f"out.{head}" for head in range(self.heads)), ()

    def check_student(self, net: nn.Module) -> None:
        self.forks(net)

    def kept(self, net: nn.Module) -> nn.Module:
        """Head 0, a plain network."""
        return net.net

    def student(self, net: nn.Module, another: Callable[[int], nn.Module] | None) -> nn.Module:
        """A `Forked`. another: the number of a head -> a network like `net` of other weights."""
        forks = self.forks(net)
        nets = [net, *(another(head) for head in range(1, self.heads))]
        if alike(nets[0], nets[1]):
            raise UsageError(
                "collaborative needs heads that begin differently: all of them have the same "
                "weights; set model.pretrained=false"
            )
        return Forked(nets, forks, rescale=self.rescale)

    def forks(self, net: nn.Module) -> list[tuple[str, int]]:
        """(stage, children), from below; multi_instance shares nothing."""
        if self.pattern == "multi_instance":
            return []
        key = "distill.terms.collaborative.split_at"
        if self.pattern == "simple":
            found = split_stages(net, self.split_at, key)
            if len(found) != 1:
                raise UsageError(f"{key}={list(found)}: pattern=simple has one fork, give one")
            return [(found[0], self.heads)]
        forks = self.heads.bit_length() - 1
        stages = list(getattr(net, "stages", ()))
        found = split_stages(net, self.split_at or stages[:-1][-forks:], key)
        if len(found) != forks:
            raise UsageError(
                f"{key}={list(found)}: a tree of {self.heads} heads has {forks} forks, one after "
                "each module listed"
            )
        return [(stage, 2) for stage in found]

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        heads = [student["features"][f"out.{head}"][0] for head in range(self.heads)]
        return collaborative_loss(heads, batch.criterion, self.beta, self.temperature, self.soft_t2)

    def ensemble(self, heads: Sequence[Tensor]) -> Tensor:
        return torch.stack([z.float() for z in heads]).mean(dim=0)
