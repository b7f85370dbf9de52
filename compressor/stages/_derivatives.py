"""Derivatives of the loss with respect to a factor on every channel, for selectors with gates.

A channel's factor stands at the input of every layer that reads it, so that its derivative is the
first-order effect of the cut, through gates, concatenations and residual sums as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressor.prune import Gate
from compressor.surgery import Group, Slot
from compressor.taps import Tap, tapped

# Images that run backwards together: what autograd keeps of them stays small. No figure depends on
# it, because every image has a loss and factors of its own.
CHUNK = 16

Loss = Callable[[Any, Tensor], Tensor]
"""(what the network answers, targets) -> the sum over the images of each one's own loss."""


def differentiate(
    net: nn.Module,
    gates: Sequence[tuple[Group, Gate]],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Loss,
    put: Callable[[str, str, Mapping[str, Tensor]], None],
) -> None:
    """Hand what the gates measure to `put`, from one pass forwards and backwards.

    net: in eval mode; its flags and gradients stay as they are. batches: (images, targets). put:
    called with (group, key, named sums).
    """
    if not gates:
        return
    groups = {group.name: group for group, _ in gates}
    device = next(net.parameters()).device
    chunk = 0
    with _fixed(net), torch.enable_grad():
        for inputs, targets, *_ in batches:
            chunk = chunk or _chunk(net, groups, inputs[:1].to(device))
            for x, y in zip(inputs.split(chunk), targets.split(chunk), strict=True):
                found = _derivatives(net, groups, x.to(device), y.to(device), loss)
                for group, gate in gates:
                    put(group.name, gate.key, gate.measure(found[group.name]))


def _derivatives(
    net: nn.Module, groups: Mapping[str, Group], x: Tensor, targets: Tensor, loss: Loss
) -> dict[str, Tensor]:
    """Group -> (N, group.size) derivatives of each image's own loss."""
    factors = {
        name: torch.ones(len(x), group.size, dtype=x.dtype, device=x.device, requires_grad=True)
        for name, group in groups.items()
    }

    def multiply(slots: Sequence[tuple[str, Slot]]) -> Any:
        return lambda module, value: value * _factor(module, value, slots, factors)

    taps = {Tap(module, "input"): multiply(slots) for module, slots in _entrances(groups).items()}
    with tapped(net, taps):
        value = loss(net(x), targets)
    # what the loss does not depend on in eval mode has the derivative 0
    found = torch.autograd.grad(value, list(factors.values()), materialize_grads=True)
    return dict(zip(factors, found, strict=True))


def _factor(
    module: nn.Module,
    value: Tensor,
    slots: Sequence[tuple[str, Slot]],
    factors: Mapping[str, Tensor],
) -> Tensor:
    """The factors of all groups that this layer reads, in the shape of its input."""
    dim = value.dim() - 1 if isinstance(module, nn.Linear) else 1
    columns = [value.new_ones(len(next(iter(factors.values()))), 1)]
    index = torch.zeros_like(slots[0][1].classes)
    start = 1
    for name, slot in slots:
        columns.append(factors[name])
        index = torch.where(slot.classes >= 0, slot.classes + start, index)
        start += factors[name].shape[1]
    # a grouped convolution's weight speaks of one group's inputs
    index = index.repeat(value.shape[dim] // len(index)).to(value.device)
    shape = [1] * value.dim()
    shape[0], shape[dim] = len(columns[0]), len(index)
    return torch.cat(columns, 1).index_select(1, index).view(shape)


def _entrances(groups: Mapping[str, Group]) -> dict[str, list[tuple[str, Slot]]]:
    """Path of every layer that reads a group -> (group, slot) of all that it reads."""
    found: dict[str, list[tuple[str, Slot]]] = {}
    for name, group in groups.items():
        for slot in group.consumers:
            for path in slot.callers:
                found.setdefault(path, []).append((name, slot))
    return found


def _chunk(net: nn.Module, groups: Mapping[str, Group], image: Tensor) -> int:
    """How many images run together: one where a layer's rows are no images (windows, frames)."""
    rows: set[int] = set()
    taps = {
        Tap(module, "input"): lambda _, value: rows.add(len(value)) for module in _entrances(groups)
    }
    with torch.no_grad(), tapped(net, taps):
        net(torch.cat([image, image]))
    return CHUNK if rows <= {2} else 1


@contextmanager
def _fixed(net: nn.Module) -> Iterator[None]:
    """No derivative of any weight is taken or remembered; every flag comes back."""
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
