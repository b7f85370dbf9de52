"""What a training keeps of its network in every step, such as weights at 0 that a mask pruned."""

from torch import nn


class Holding(nn.Module):
    """Holds nothing. Buffers of a class that does stand in the checkpoint: they survive a kill."""

    def begin(self, net: nn.Module) -> None:
        """Called in each process before the first step, or after the last one of a killed fit."""

    def after_step(self, net: nn.Module) -> None:
        """Called after each step of the optimizer; changes the weights of `net` in place."""
