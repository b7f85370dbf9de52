"""Plans and single groups, done to a network."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from compressor.errors import RunError
from compressor.surgery._plan import EMPTY_PLAN, Plan, kept_mask
from compressor.surgery._structure import Group
from compressor.surgery._tensors import cut_slots, cut_tensors

# positions that are left of each slot after cut_group, in the indices of the traced network
_LEFT: WeakKeyDictionary[nn.Module, dict[tuple[str, int], Tensor]] = WeakKeyDictionary()


def replay(net: nn.Module, plan: Plan, done: Plan = EMPTY_PLAN) -> nn.Module:
    """Do to a freshly built dense network, in place, what the plan says; returns it.

    done: what of the plan was done to `net` before. A mask that is set again changes nothing.
    """
    # all cuts at once: one after another, each would walk over all modules
    cut_slots(net, plan.since(done))
    for operation in plan.uncut:
        operation.apply(net)
    return net


def duplicate(net: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """A deep copy, in which the parameters in `shared` are the very ones of `net`.

    What a module makes of its parameters before each forward, as weight norm does, is no leaf and
    cannot be copied as it is: the copy makes it anew.
    """
    memo: dict[int, object] = {id(tensor): tensor for tensor in shared}
    for module in net.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(net, memo)


def cut_group(net: nn.Module, group: Group, keep: Tensor) -> None:
    """Cut one group of the traced network in place; keep: class ids of the group.

    Other groups may have been cut before by this function: positions are looked up.
    """
    mask = kept_mask(group.size, keep, group.name)
    if bool(mask.all()):
        return
    left = _LEFT.setdefault(net, {})
    kept: dict[str, dict[int, Tensor]] = {}
    found: dict[tuple[str, int], Tensor] = {}
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for slot in group.slots:
        key = (slot.parameter, slot.dim)
        tensor = tensors.get(slot.parameter)
        if tensor is None:
            raise RunError(f"'{slot.parameter}' is not in this network; analyse it again")
        # cut before by this function, or as it was traced; anything else is another network
        size, traced = tensor.shape[slot.dim], slot.classes.numel()
        positions = torch.arange(traced) if size == traced else left.get(key)
        if positions is None or positions.numel() != size:
            raise RunError(
                f"'{slot.parameter}' has {size} entries along dimension {slot.dim}, the analysed "
                f"network {traced}; analyse the network again before cutting '{group.name}'"
            )
        # class -1 is of no group: such a position stays
        classes = slot.classes[positions]
        stay = ((classes < 0) | mask[classes.clamp_min(0)]).nonzero().flatten()
        kept.setdefault(slot.parameter, {})[slot.dim] = stay
        found[key] = positions[stay]
    cut_tensors(net, kept)
    left.update(found)
