"""What one call of a layer computes, as the product of its weight with patches of its input.

Of PyTorch's own layers that follows from their attributes. A convolution with a forward of its own
(padding that depends on the image, standardised or masked weights) is asked: what it hands to the
one convolution that it calls is what it computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.errors import RunError, UsageError
from compressor.surgery import Slot

_PLAIN = {
    kind.forward
    for kind in (
        nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
        nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    )
}  # fmt: skip
_CONVOLUTIONS = ("aten::convolution", "aten::_convolution", "aten::cudnn_convolution")


@dataclass(frozen=True, eq=False)
class Product:
    """A layer's weight, and which inputs it multiplies for which output.

    weight: (F, C / groups, *kernel), a transposed convolution's too, or (F, C) if `linear`;
    x: (N, C, *spatial) or (N, *, C), to be padded by `before` in every dimension, or as F.pad does
    it with `pads` where `mode` is not zeros; sizes: of the output in every dimension that has
    positions.
    """

    weight: Tensor
    x: Tensor
    sizes: Sequence[int]
    groups: int = 1
    before: Sequence[int] = ()
    stride: Sequence[int] = ()
    dilation: Sequence[int] = ()
    pads: Sequence[int] = ()
    mode: str = "zeros"
    transposed: bool = False
    linear: bool = False


def plain(module: nn.Module) -> bool:
    """Whether it is a conv or linear layer that runs as PyTorch's own do."""
    return type(module).forward in _PLAIN and "forward" not in vars(module)


def groups_of(module: nn.Module) -> int:
    """1 for a linear layer."""
    return module.groups if isinstance(module, _ConvNd) else 1


def own_weight(module: nn.Module) -> bool:
    """Whether what a layer multiplies with is a parameter of its own, as it stands."""
    weight = module._parameters.get("weight")
    if weight is None or not isinstance(module, nn.Linear | _ConvNd):
        return False
    if plain(module):
        return True
    used = _asked(module, _example(module))[1]
    return used.untyped_storage()._cdata == weight.untyped_storage()._cdata


def product(module: nn.Module, x: Tensor) -> Product:
    """x: the input of a layer that `require_readable` lets pass."""
    if isinstance(module, nn.Linear):
        return Product(module.weight, x, list(x.shape[1:-1]), linear=True)
    mode, around = "zeros", ()
    if plain(module):
        weight, stride, dilation = module.weight, module.stride, module.dilation
        transposed, extra, groups = module.transposed, module.output_padding, module.groups
        mode, around = module.padding_mode, module._reversed_padding_repeated_twice
        # F.pad's order: the last dimension first, and of each what lies before and behind
        before, behind = around[-2::-2], around[-1::-2]
    else:
        x, weight, _, stride, before, dilation, transposed, extra, groups, *_ = _asked(module, x)
        behind = before
    dims = zip(x.shape[2:], weight.shape[2:], stride, dilation, before, behind, extra, strict=True)
    if transposed:
        sizes = [
            (length - 1) * step - first - last + gap * (size - 1) + more + 1
            for length, size, step, gap, first, last, more in dims
        ]
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    else:
        sizes = [
            (length + first + last - gap * (size - 1) - 1) // step + 1
            for length, size, step, gap, first, last, _ in dims
        ]
    return Product(weight, x, sizes, groups, before, stride, dilation, around, mode, transposed)


def told(path: str) -> str:
    """A module's path in a sentence."""
    return f"'{path}'" if path else "the network itself"


def require_readable(net: nn.Module, slot: Slot, group: str) -> None:
    """Refuse a reader of a group of which `product` cannot tell what it computes."""
    skip = f"leave it out with prune.skip=[{group}]"
    for path in slot.callers:
        module = net.get_submodule(path)
        if plain(module):
            continue
        if not isinstance(module, _ConvNd):
            raise UsageError(
                f"rows can be drawn of conv and linear layers, and {told(path)}, which reads "
                f"'{group}' with '{slot.parameter}', is a {type(module).__name__}; {skip}"
            )
        try:
            _asked(module, _example(module))
        except Exception as error:  # whatever a forward of one's own raises
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"'{path}', which reads '{group}', is a {type(module).__name__} with a forward of "
                f"its own, of which no rows can be drawn ({reason}); {skip}"
            ) from error


class _Watch(TorchDispatchMode):
    """Notes the arguments of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func._schema.name in _CONVOLUTIONS:
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


def _asked(module: _ConvNd, x: Tensor) -> tuple:
    """The arguments of the one convolution that the module's forward calls for x."""
    with torch.no_grad(), _Watch() as watch:
        module.forward(x.detach())  # no hook: one of them may have called this
    if len(watch.calls) != 1:
        raise RunError(f"it calls {len(watch.calls)} convolutions")
    (call,) = watch.calls
    if call[0].shape[:2] != x.shape[:2] or call[1].shape != module.weight.shape:
        raise RunError("its convolution has other channels than the layer")
    return call


def _example(module: _ConvNd) -> Tensor:
    weight = module.weight
    reach = [
        step + gap * (size - 1)
        for step, gap, size in zip(module.stride, module.dilation, module.kernel_size, strict=True)
    ]
    return torch.zeros(1, module.in_channels, *reach, dtype=weight.dtype, device=weight.device)
