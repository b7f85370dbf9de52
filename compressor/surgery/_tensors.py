"""New, smaller tensors in the modules of a network, and the numbers that modules keep of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from compressor.errors import UsageError, foreign


def cut_slots(net: nn.Module, slots: Mapping[tuple[str, int], tuple[int, ...]]) -> None:
    """Cut a network in place. slots: (state-dict name, dimension) -> ascending indices that stay.

    Raises UsageError for a network that the indices were not made for, before anything changes.
    """
    names = named_tensors(net)
    kept: dict[str, dict[int, Tensor]] = {}
    tensors: dict[int, Tensor] = {}  # the slots of one operation share their indices
    for (name, dim), indices in slots.items():
        if name not in names:
            raise UsageError(
                f"the plan cuts '{foreign(name)}', which this network lacks; wrong network"
            )
        shape = tuple(names[name].shape)
        if dim >= len(shape):
            raise UsageError(
                f"the plan cuts dimension {foreign(dim)} of '{name}', whose shape is {shape}"
            )
        if indices[-1] >= shape[dim]:
            raise UsageError(
                f"the plan keeps index {foreign(indices[-1])} of '{name}' dimension {dim}, which "
                f"has {shape[dim]}; replay it on the dense network it was made for"
            )
        if id(indices) not in tensors:
            tensors[id(indices)] = torch.tensor(indices)
        kept.setdefault(name, {})[dim] = tensors[id(indices)]
    cut_tensors(net, kept)


def named_tensors(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name that they have: tied ones have several."""
    names: dict[str, Tensor] = dict(net.named_parameters(remove_duplicate=False))
    names.update(net.named_buffers(remove_duplicate=False))
    return names


def cut_tensors(net: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> None:
    """Slice tensors and adjust modules; a tensor shared by several owners stays shared."""
    # Tensors are looked up by identity, because a tied one stands in several modules under several
    # names: every owner gets the new one, and its own numbers are adjusted.
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    touched: dict[int, tuple[str, nn.Module]] = {}
    for path, module in net.named_modules():
        for store in (module._parameters, module._buffers):
            for leaf, tensor in store.items():
                if tensor is not None:
                    owners.setdefault(id(tensor), []).append((module, leaf))
        touched[id(module)] = (path, module)
    tensors = named_tensors(net)
    changed: dict[int, dict[str, Mapping[int, Tensor]]] = {}
    for name, dims in kept.items():
        old = tensors[name]
        new = _slice(old, dims)
        for module, leaf in owners[id(old)]:
            store = module._parameters if leaf in module._parameters else module._buffers
            store[leaf] = new
            changed.setdefault(id(module), {})[leaf] = dims
    for number, dims in changed.items():
        path, module = touched[number]
        _adjust(path, module, dims)
    _adjust_parametrised(net, kept)


def _adjust_parametrised(net: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> None:
    """Convolutions whose weight is made of a parameter of its size, in a module of its own."""
    for path, module in net.named_modules():
        if not isinstance(module, nn.modules.conv._ConvNd) or not is_parametrized(module, "weight"):
            continue
        prefix = f"{path}.parametrizations.weight.".removeprefix(".")
        for name, original in module.parametrizations.weight.named_parameters():
            if prefix + name in kept and original.shape == module.weight.shape:
                _adjust_convolution(path, module, kept[prefix + name])


def _slice(tensor: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    """A smaller copy with the type, device, memory format and requires_grad of the tensor."""
    with torch.no_grad():
        new = tensor.detach()
        # one dimension after the other: (O, I, k, k) -> (o, I, k, k) -> (o, i, k, k)
        for dim, indices in dims.items():
            new = new.index_select(dim, indices.to(new.device))
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        last = formats.get(tensor.ndim)
        if last is not None and not tensor.is_contiguous():
            if tensor.is_contiguous(memory_format=last):
                new = new.contiguous(memory_format=last)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def _adjust(path: str, module: nn.Module, dims: Mapping[str, Mapping[int, Tensor]]) -> None:
    """Bring a module's own numbers in line with its tensors."""
    # what prints, exports and counts reads these numbers, and group norm computes with them
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd):
        if "weight" in dims:
            _adjust_convolution(path, module, dims["weight"])
    elif isinstance(module, nn.Linear):
        if weight is not None:
            module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        size = next((t.shape[0] for t in (weight, module.running_mean) if t is not None), None)
        module.num_features = size if size is not None else module.num_features
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm):
        # one group per channel stays so; several channels a group are thinned out in each
        if module.num_groups == module.num_channels:
            module.num_groups = weight.shape[0]
        module.num_channels = weight.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.shape[0]


def _adjust_convolution(path: str, conv: nn.Module, dims: Mapping[int, Tensor]) -> None:
    """in_channels, out_channels and groups: a group with none of its entries left is gone."""
    out_dim = 1 if conv.transposed else 0
    if conv.groups > 1 and 0 in dims:
        # dimension 0 lists the channels of all groups one behind the other, in either layout
        whole = conv.in_channels if conv.transposed else conv.out_channels
        counts = torch.bincount(dims[0].cpu() // (whole // conv.groups), minlength=conv.groups)
        left = counts[counts > 0]
        if left.unique().numel() != 1:
            raise UsageError(
                f"the plan keeps unequal numbers of channels in the groups of '{path}': "
                f"{counts.tolist()}; all groups of a convolution must shrink alike"
            )
        conv.groups = left.numel()
    # dimension 1 lists the channels of one group
    sizes = [conv.weight.shape[0], conv.weight.shape[1] * conv.groups]
    conv.out_channels, conv.in_channels = sizes[out_dim], sizes[1 - out_dim]
