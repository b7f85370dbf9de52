"""Regularisers: what dense training pays for beside its loss. One file each, named by the method.

Run: compress-run regularize=slimming prune=bn_scale
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Handle(Protocol):
    """What torch answers to the registration of a hook."""

    def remove(self) -> None: ...


class Regularizer:
    """Chosen by the config group `regularize`; acts in the train stage. Every hook may stay away.

    is_none: whether no hook does anything.
    """

    is_none: bool = False

    def attach(self, net: nn.Module) -> Iterable[Handle]:
        """Register hooks on the modules of `net`, once in each process before the first step.

        The handles are removed when the training is done, so that the network goes on without them.
        """
        return ()

    def before_step(self, net: nn.Module, progress: float) -> None:
        """Called before each forward pass. progress: of the training's epochs, in [0, 1)."""

    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose features `losses` reads, as in `distill.Term.layers`."""
        return ()

    def losses(
        self,
        net: nn.Module,
        outputs: Mapping[str, Any],
        criterion: Callable[[Tensor], Tensor],
    ) -> Mapping[str, Tensor]:
        """Scalars from a batch that are added to its loss, and logged, by name.

        outputs: the task's, "logits" among them, and "features" of `layers`, by name a list of
        tensors. criterion: logits (B, K) -> the loss on the batch's labels.
        """
        return {}

    def penalties(self, net: nn.Module) -> Mapping[str, Tensor]:
        """Scalars from the weights that are added to the loss of a step, and logged, by name.

        Raises UsageError where `net` has nothing to act on; asked once before anything is trained.
        """
        return {}
