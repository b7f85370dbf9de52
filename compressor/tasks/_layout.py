"""Which memory format a network can be trained in."""

import torch
from torch import nn


def overruns(net: nn.Module, device: torch.device) -> bool:
    """Whether training in channels_last would write where it must not.

    On processors oneDNN makes the weights' gradient of a 1x1 convolution with a stride in a
    workspace, and past its end where there are fewer input channels than fit a vector register
    (oneDNN issue 6035): the process dies, or the gradient is wrong. A cut network has such
    convolutions in its shortcuts.
    """
    if device.type != "cpu":
        return False
    block = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
    return any(
        isinstance(module, nn.Conv2d)
        and max(module.kernel_size) == 1
        and max(module.stride) > 1
        and module.in_channels // module.groups < block
        for module in net.modules()
    )
