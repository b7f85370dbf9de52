"""Where in a network the features of a term are read."""

import torch
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.taps import Tap

WORDS = ("penultimate", "middle", "stages")


def places(net: nn.Module, name: str, whose: str) -> tuple[Tap, ...]:
    """The taps that a name stands for.

    name: "penultimate" is the input of the layer that answers the classes, "stages" the output of
    each of the network's stages, "middle" that of the middle one, as FitNets' hints; anything else
    is the path of a module. whose: "student" or "teacher", for the message.
    """
    if name == "penultimate":
        return (Tap(_head(net, whose), "input"),)
    stages = getattr(net, "stages", ())
    if name in WORDS and not stages:
        raise UsageError(
            f"the {whose} names no stages, so that '{name}' stands for nothing: give the path of a "
            f"module, such as {_some(net)}"
        )
    if name == "middle":
        return (Tap(stages[len(stages) // 2], "output"),)
    if name == "stages":
        return tuple(Tap(stage, "output") for stage in stages)
    paths = dict(net.named_modules(remove_duplicate=False))
    if not name or name not in paths:
        raise UsageError(
            f"the {whose} has no layer '{name}': give the path of a module, such as {_some(net)}, "
            f"or one of {', '.join(WORDS)}"
        )
    return (Tap(name, "output"),)


def pooled(features: Tensor) -> Tensor:
    """(B, D) of (B, D), or of feature maps (B, D, H, W) averaged over space, in float32."""
    features = features.float()
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features.flatten(1)


def unit(features: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays one."""
    # the eps belongs in the norm: masking NaN afterwards would leave NaN gradients
    return features / torch.sqrt((features**2).sum(dim=1, keepdim=True) + 1e-12)


def _head(net: nn.Module, whose: str) -> str:
    name = getattr(net, "head_name", "")
    if not name:
        linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
        name = linear[-1] if linear else ""
    if not name:
        raise UsageError(
            f"the {whose} has no layer that answers the classes, whose input would be the "
            f"penultimate features: give the path of a module, such as {_some(net)}"
        )
    return name


def _some(net: nn.Module) -> str:
    return ", ".join([path for path, _ in net.named_children()][-3:]) or "none (it has no module)"
