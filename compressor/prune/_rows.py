"""Sampled rows of a layer's product: what every input channel adds to one output value.

Only the sampled patches are read, so the cost does not depend on the size of the feature map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from compressor.prune._product import Product, product
from compressor.surgery import Slot

_ROWS = 2048  # rows in float64 at a time
_CHUNK = 65536  # numbers per working set: 256 kB stay in a core's second-level cache


@dataclass(frozen=True, eq=False)
class Rows:
    """R draws of one output value of a layer."""

    image: Tensor
    """(R,) index within the batch."""
    filter: Tensor
    """(R,) output filter, or output feature of a linear layer."""
    location: Tensor
    """(R, D) output position in each of the D spatial (linear: middle) dimensions."""


def draw(module: nn.Module, x: Tensor, samples: int, generator: torch.Generator) -> Rows:
    """`samples` random (filter, location) pairs for every image of the batch.

    module: the conv or linear layer whose input is x, (N, C, *spatial) or (N, *, C). One image
    takes the same numbers of the generator in whichever batch it comes, so rows do not depend on
    the batch size.
    """
    found = product(module, x)
    sizes = [found.weight.shape[0], *found.sizes]
    uniform = torch.rand(len(x) * samples, len(sizes), dtype=torch.float64, generator=generator).to(
        x.device
    )
    index = (uniform * torch.tensor(sizes, device=x.device)).long()
    image = torch.arange(len(x), device=x.device).repeat_interleave(samples)
    return Rows(image=image, filter=index[:, 0], location=index[:, 1:])


def contributions(module: nn.Module, x: Tensor, rows: Rows) -> Tensor:
    """x_c of ThiNet's eq. (4): each input channel's share of sampled outputs, bias left out.

    module: conv (any stride, padding, dilation, groups), transposed conv or linear, with input
    x: (N, C, *spatial) or (N, *, C). Returns (R, C / groups) float32, whose row sums are the
    layer's output minus bias. In a grouped conv a filter sees its own group only: column i is the
    group's i-th channel.
    """
    found = product(module, x)
    x, weight, groups = found.x.detach().float(), found.weight.detach().float(), found.groups
    if found.linear:
        middle = x.shape[1:-1]
        place = _flat(torch.cat([rows.image[:, None], rows.location], 1), (len(x), *middle))
        return x.reshape(-1, x.shape[-1])[place] * weight[rows.filter]
    x, left = _padded(found, x)
    sites, inside = _patches(found, x.shape[2:], left, rows.location)
    per_filter = len(weight) // groups
    if sites.shape[1] == 1 and groups == 1:
        values = x.flatten(2)[rows.image, :, sites[:, 0]]
        return values * weight.flatten(1)[rows.filter] * inside
    size = math.prod(x.shape[2:])
    pixels = x.flatten(2).transpose(1, 2).reshape(len(x) * size * groups, -1)
    source = (rows.image[:, None] * size + sites) * groups
    source += (rows.filter // per_filter)[:, None]
    taps = weight.flatten(2).transpose(1, 2)
    # One more row of zeros stands for every tap that falls into the padding.
    kernel = torch.cat([taps.reshape(-1, taps.shape[2]), taps.new_zeros(1, taps.shape[2])])
    tap = rows.filter[:, None] * taps.shape[1] + torch.arange(taps.shape[1], device=x.device)
    tap = torch.where(inside, tap, len(kernel) - 1)
    return _products(pixels, source, kernel, tap, rows.filter)


def places(module: nn.Module, x: Tensor, samples: int, generator: torch.Generator) -> Rows:
    """`samples` random output positions of every image, for all filters at once.

    x: the layer's input. Where there are no more positions than that, each is taken once.
    """
    sizes = product(module, x).sizes
    total = math.prod(sizes)
    if total <= samples:
        flat = torch.arange(total).repeat(len(x))
    else:
        uniform = torch.rand(len(x) * samples, dtype=torch.float64, generator=generator)
        flat = (uniform * total).long()
    location = torch.zeros(len(flat), len(sizes), dtype=torch.long)
    for d in reversed(range(len(sizes))):
        location[:, d] = flat % sizes[d]
        flat = flat // sizes[d]
    image = torch.arange(len(x)).repeat_interleave(min(samples, total))
    return Rows(image.to(x.device), torch.zeros_like(image).to(x.device), location.to(x.device))


def outputs(module: nn.Module, out: Tensor, rows: Rows) -> Tensor:
    """(R, F) float32: all filters of a layer's output at these positions."""
    out = out.detach()
    pixels = out if isinstance(module, nn.Linear) else out.movedim(1, -1)
    return pixels[(rows.image, *rows.location.unbind(1))].float()


def patches(module: nn.Module, x: Tensor, rows: Rows) -> Tensor:
    """(G, R, K * C) float32: what each of the G convolution groups reads for these outputs.

    Columns run over the K kernel positions, and within each over the group's C channels:
    `kernel` brings the weight into the same order.
    """
    of = product(module, x)
    x = of.x.detach().float()
    if of.linear:
        return x[(rows.image, *rows.location.unbind(1))][None]
    x, left = _padded(of, x)
    sites, inside = _patches(of, x.shape[2:], left, rows.location)
    size = math.prod(x.shape[2:])
    pixels = x.movedim(1, -1).reshape(len(x) * size, x.shape[1])
    found = pixels.index_select(0, (rows.image[:, None] * size + sites).flatten())
    found.mul_(inside.flatten()[:, None])
    found = found.view(len(sites), sites.shape[1], of.groups, -1)
    return found.permute(2, 0, 1, 3).flatten(2)


def kernel(weight: Tensor, groups: int, transposed: bool = False) -> Tensor:
    """(G, F / G, K * C): a layer's weight in the order of `patches`' columns."""
    weight = weight.detach().unflatten(0, (groups, -1))
    weight = weight.transpose(1, 2) if transposed else weight
    return weight.flatten(3).transpose(2, 3).flatten(2) if weight.dim() > 3 else weight


def from_kernel(columns: Tensor, shape: torch.Size, transposed: bool = False) -> Tensor:
    """The inverse of `kernel`: a weight of this shape."""
    width = shape[0] // len(columns) if transposed else shape[1]
    columns = columns.unflatten(2, (-1, width)).transpose(2, 3)
    return (columns.transpose(1, 2) if transposed else columns).reshape(shape)


def fan_in(module: nn.Module) -> int:
    """How many numbers one filter of a conv or linear layer multiplies."""
    shape = module.weight.shape
    if isinstance(module, _ConvNd) and module.transposed:
        return shape[0] // module.groups * math.prod(shape[2:])
    return math.prod(shape[1:])


def of_one_group(slot: Slot, along: Tensor, groups: int) -> Tensor:
    """Of something along a consumer's slot the part that one of its convolution groups reads.

    A transposed convolution lists the inputs of all groups, which are alike, one after the other.
    """
    return along[: len(along) // groups] if slot.dim == 0 else along


def blocks(classes: Tensor, size: int, width: int) -> Tensor:
    """(size, n) columns of a layer's `patches` that belong to each class.

    classes: (L,) class of every input of one convolution group, -1 for none; width: K * L.
    """
    columns = torch.arange(width).view(-1, len(classes))
    order = torch.argsort(classes, stable=True)[int((classes < 0).sum()) :]
    each = len(order) // size
    return columns[:, order].view(len(columns), size, each).transpose(0, 1).flatten(1)


def by_class(columns: Tensor, classes: Tensor, size: int) -> Tensor:
    """Sum the columns of each class; -1 belongs to none. (R, D) and (D,) -> (R, size).

    A linear layer after a flatten has H * W columns for every channel.
    """
    each = len(classes) // size if size else 0
    device = classes.device
    if each and torch.equal(classes, torch.arange(size, device=device).repeat_interleave(each)):
        return columns if each == 1 else columns.unflatten(1, (size, each)).sum(2)
    mine = classes >= 0
    total = columns.new_zeros(len(columns), size)
    return total.index_add_(1, classes[mine].to(columns.device), columns[:, mine])


def gram(rows: Tensor) -> Tensor:
    """X^T X in float64, upper triangle only.

    rows: (R, C). Returns (C, C), exactly symmetric. The products are float64's too: the rounding of
    float32's is larger than what columns that repeat each other leave of each other.
    """
    width = rows.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
    step = max(64, -(-width // 4))
    for block in rows.split(_ROWS):
        block = block.double()
        for i in range(0, width, step):
            total[i : i + step, i:] += block[:, i : i + step].T @ block[:, i:]
    return total.triu() + total.triu(1).T


def _padded(of: Product, x: Tensor) -> tuple[Tensor, Sequence[int]]:
    """The input and how much zero padding lies before its first position, per dimension."""
    if of.mode == "zeros":
        return x, of.before
    return F.pad(x, of.pads, mode=of.mode), [0] * len(of.before)


def _patches(
    of: Product, shape: torch.Size, left: Sequence[int], location: Tensor
) -> tuple[Tensor, Tensor]:
    """Flat input position of every tap of every row, and whether it is inside. Both (R, K)."""
    axes = []
    for d in range(len(shape)):
        offset = of.dilation[d] * torch.arange(of.weight.shape[2 + d], device=location.device)
        if of.transposed:
            # input i gives to the outputs i * stride - padding + offset
            away = location[:, d, None] + left[d] - offset
            axes.append(torch.where(away % of.stride[d] == 0, away // of.stride[d], -1))
        else:
            axes.append((location[:, d] * of.stride[d] - left[d])[:, None] + offset)
    sites = torch.zeros(len(location), 1, dtype=torch.long, device=location.device)
    inside = torch.ones_like(sites, dtype=torch.bool)
    for axis, length in zip(axes, shape, strict=True):
        valid = (axis >= 0) & (axis < length)
        sites = (sites[:, :, None] * length + axis.clamp(0, length - 1)[:, None, :]).flatten(1)
        inside = (inside[:, :, None] & valid[:, None, :]).flatten(1)
    return sites, inside


def _products(
    pixels: Tensor, source: Tensor, kernel: Tensor, tap: Tensor, filters: Tensor
) -> Tensor:
    """sum_k pixels[source[:, k]] * kernel[tap[:, k]], a cache-sized number of rows at a time."""
    rows, width = len(source), pixels.shape[1]
    step = rows if pixels.is_cuda else max(64, _CHUNK // max(width, 1))
    # Rows of one filter follow each other, so that its weights are read from memory once.
    order = torch.argsort(filters, stable=True)
    out = pixels.new_empty(rows, width)
    for chunk in order.split(step):
        total = pixels.new_zeros(len(chunk), width)
        for k in range(source.shape[1]):
            values = pixels.index_select(0, source[chunk, k])
            total.addcmul_(values, kernel.index_select(0, tap[chunk, k]))
        out[chunk] = total
    return out


def _flat(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Row-major flat position. index: (R, len(shape))."""
    flat = torch.zeros_like(index[:, 0])
    for d, length in enumerate(shape):
        flat = flat * length + index[:, d]
    return flat
