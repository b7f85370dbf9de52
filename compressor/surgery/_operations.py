"""The typed operations that a plan lists, behind one small protocol.

A plan keeps them in one order. Cuts stand first, in indices of the DENSE network: two cuts of one
dimension are one. All else follows in the order in which it was done, in indices of the network
that the cuts leave: a later cut goes in front, and a mask loses the entries that it takes out. What
ends the cutting of a layer (a gate or a factorisation, which no method makes yet) refuses the later
cut instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compressor.errors import UsageError, foreign
from compressor.surgery._tensors import cut_slots, named_tensors

Place = tuple[str, int]  # a state-dict name and a dimension of that tensor


class Operation(ABC):
    """One entry of a plan: something that was done to a network.

    A new kind is one subclass, and its name in `_plan.KINDS`.
    """

    op: ClassVar[str]
    """The kind's name in plan.json."""
    in_sizes: ClassVar[bool] = False
    """Whether the sizes of a network's tensors tell all that it changes of the network's work."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The entry in plan.json, with "op" first: plain values."""

    @classmethod
    @abstractmethod
    def from_json(
        cls, entry: Mapping[str, Any], where: str, tensors: Mapping[str, Tensor]
    ) -> Operation:
        """The operation of an entry whose "op" is this kind's.

        where: "plan operation 3"; tensors: the plan's sidecar, by the names of `tensors`.
        Raises UsageError, in one line, for anything that `to_json` does not write: the file may be
        anybody's.
        """

    def tensors(self) -> Mapping[str, Tensor]:
        """What of it is no text, for the plan's sidecar; no other operation has these names."""
        return {}

    @abstractmethod
    def apply(self, net: nn.Module) -> None:
        """Do it to a network in place, on whatever device that is, the meta device included.

        Raises UsageError for a network that it was not made for, before anything changes.
        """

    @abstractmethod
    def compose(self, later: Operation) -> tuple[tuple[Operation, ...], Operation | None]:
        """What stands in its place once `later` is done as well, and what remains of `later`.

        later: made on the network that this operation leaves. What remains of it is composed with
        the operations before this one, and stands at the end of the plan, or among the cuts.
        Raises UsageError where it cannot be done any more.
        """

    def broken(self, net: nn.Module) -> str:
        """How the values of a finished network deny this operation, for a message; "" if not.

        Sizes need no look: they are compared with those of the weights' file.
        """
        return ""


@dataclass(frozen=True)
class Cut(Operation):
    """Tensors that keep the same indices along one dimension each.

    slots: (state-dict name, dimension) pairs; kept: ascending original indices;
    producers: paths of the modules whose output channels these are.
    """

    op: ClassVar[str] = "cut"
    in_sizes: ClassVar[bool] = True

    group: str
    slots: tuple[Place, ...]
    kept: tuple[int, ...]
    producers: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        entry = {
            "op": self.op,
            "group": self.group,
            "slots": [[name, dim] for name, dim in self.slots],
            "kept": list(self.kept),
        }
        if self.producers:
            entry["producers"] = list(self.producers)
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], where: str, tensors: Mapping[str, Tensor]) -> Cut:
        check_fields(entry, {"op", "group", "slots", "kept"}, {"producers"}, where)
        group, slots, kept = entry["group"], entry["slots"], entry["kept"]
        producers = entry.get("producers", [])
        if not isinstance(group, str):
            raise UsageError(f"{where}: 'group' is {foreign(group)}; it must be a name")
        where = f"{where} ('{foreign(group)}')"
        if not isinstance(slots, list) or not slots:
            raise UsageError(f"{where}: 'slots' must be a list of [name, dimension]")
        for slot in slots:
            good = isinstance(slot, list | tuple) and len(slot) == 2
            if not good or not isinstance(slot[0], str) or not is_count(slot[1]):
                raise UsageError(f"{where}: slot {foreign(slot)} must be [name, dimension]")
        if not isinstance(kept, list) or not kept or not all(is_count(i) for i in kept):
            raise UsageError(f"{where}: 'kept' must be a list of indices, none negative, not empty")
        if any(a >= b for a, b in zip(kept, kept[1:], strict=False)):
            raise UsageError(f"{where}: 'kept' must be ascending without repetition")
        if not isinstance(producers, list) or not all(isinstance(p, str) for p in producers):
            raise UsageError(f"{where}: 'producers' must be a list of module paths")
        return cls(group, tuple((n, d) for n, d in slots), tuple(kept), tuple(producers))

    @cached_property
    def slot_set(self) -> frozenset[Place]:
        return frozenset(self.slots)

    @cached_property
    def produced(self) -> frozenset[Place]:
        """The slots along which the producers make their channels."""
        paths = set(self.producers)
        return frozenset(s for s in self.slots if module_of(s) in paths and may_produce(s))

    def of(self, parameter: str) -> dict[int, tuple[int, ...]]:
        """Dimension of that tensor -> the indices that it keeps, for those that are cut."""
        return {dim: self.kept for name, dim in self.slots if name == parameter}

    def apply(self, net: nn.Module) -> None:
        cut_slots(net, dict.fromkeys(self.slots, self.kept))

    def compose(self, later: Operation) -> tuple[tuple[Operation, ...], Operation | None]:
        """A later cut of the same slots is taken into this one, in original indices."""
        if isinstance(later, Mask):
            later.check_size({dim: len(kept) for dim, kept in self.of(later.parameter).items()})
        if not isinstance(later, Cut) or self.slot_set.isdisjoint(later.slot_set):
            return (self,), later
        # what both cut: this one has kept some original indices, the later one some of these
        both = [slot for slot in self.slots if slot in later.slot_set]
        if later.kept[-1] >= len(self.kept):
            raise UsageError(
                f"the later plan keeps index {later.kept[-1]} of '{both[0][0]}', of which the "
                f"earlier one leaves {len(self.kept)}; make it on the cut network"
            )
        kept = tuple(self.kept[index] for index in later.kept)
        alone = [slot for slot in self.slots if slot not in later.slot_set]
        made = [make_cut(self.group, both, kept, self.produced | later.produced)]
        if alone:
            made.append(make_cut(self.group, alone, self.kept, self.produced))
        # what the later one alone cuts may meet an earlier operation still
        rest = [slot for slot in later.slots if slot not in self.slot_set]
        left = make_cut(later.group, rest, later.kept, later.produced) if rest else None
        return tuple(made), left


@dataclass(frozen=True, eq=False)
class Mask(Operation):
    """Weights of one tensor that are zero. They are stored and multiplied as before.

    parameter: state-dict name; bits: bool, of the tensor's shape, False where its weight is zero.
    """

    op: ClassVar[str] = "mask"
    in_sizes: ClassVar[bool] = True  # no multiplication goes away

    parameter: str
    bits: Tensor

    def __post_init__(self) -> None:
        if self.bits.dtype != torch.bool:
            raise UsageError(
                f"the mask of '{foreign(self.parameter)}' is {self.bits.dtype}; it must be of bool"
            )

    # dataclass would compare tensors by ==, which is no yes or no
    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Mask) and self.parameter == other.parameter
        return same and torch.equal(self.bits, other.bits)

    def __hash__(self) -> int:
        return hash((self.parameter, self.bits.shape))

    def to_json(self) -> dict[str, Any]:
        zeros = self.bits.numel() - int(self.bits.sum())
        return {"op": self.op, "parameter": self.parameter, "zeros": zeros}

    def tensors(self) -> Mapping[str, Tensor]:
        return {f"mask.{self.parameter}": self.bits}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], where: str, tensors: Mapping[str, Tensor]) -> Mask:
        check_fields(entry, {"op", "parameter", "zeros"}, set(), where)
        parameter, zeros = entry["parameter"], entry["zeros"]
        if not isinstance(parameter, str):
            raise UsageError(f"{where}: 'parameter' is {foreign(parameter)}; it must be a name")
        where = f"{where} ('{foreign(parameter)}')"
        bits = tensors.get(f"mask.{parameter}")
        if bits is None:
            raise UsageError(f"{where}: its bits are missing beside the plan")
        if bits.dtype != torch.bool:
            raise UsageError(f"{where}: its bits are {bits.dtype}; they must be bool")
        # plan.json alone says how many weights are zero; it may not say otherwise than the bits
        if not is_count(zeros) or zeros != bits.numel() - int(bits.sum()):
            raise UsageError(f"{where}: 'zeros' is {foreign(zeros)}, another number than its bits")
        return cls(parameter, bits)

    def check_size(self, sizes: Mapping[int, int]) -> None:
        """Refuse a mask of another size. sizes: dimension -> entries of the tensor along it."""
        for dim, size in sizes.items():
            if dim >= self.bits.ndim or self.bits.shape[dim] != size:
                raise UsageError(
                    f"the mask of '{foreign(self.parameter)}' has shape {tuple(self.bits.shape)}; "
                    f"of dimension {dim} the cut leaves {size}: make it on the cut network"
                )

    def apply(self, net: nn.Module) -> None:
        tensor = self._tensor(net)
        # in place: tied tensors stay tied, and an optimizer keeps its parameter
        with torch.no_grad():
            tensor.masked_fill_(~self.bits.to(tensor.device), 0)

    def _tensor(self, net: nn.Module) -> Tensor:
        tensor = named_tensors(net).get(self.parameter)
        if tensor is None:
            raise UsageError(
                f"the plan masks '{foreign(self.parameter)}', which this network lacks; wrong "
                "network"
            )
        if tensor.shape != self.bits.shape or not tensor.is_floating_point():
            raise UsageError(
                f"the plan's mask of '{self.parameter}' has shape {tuple(self.bits.shape)}; this "
                f"network's is {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            )
        return tensor

    def compose(self, later: Operation) -> tuple[tuple[Operation, ...], Operation | None]:
        """A later mask of the same tensor is taken into this one; a later cut makes it smaller."""
        if isinstance(later, Mask) and later.parameter == self.parameter:
            later.check_size(dict(enumerate(self.bits.shape)))
            return (Mask(self.parameter, self.bits & later.bits),), None
        if isinstance(later, Cut):
            # this mask comes to stand behind the cut, so it is in the cut network's indices
            bits = self.bits
            for dim, kept in later.of(self.parameter).items():
                if dim >= bits.ndim or kept[-1] >= bits.shape[dim]:
                    raise UsageError(
                        f"the later plan keeps index {kept[-1]} of '{self.parameter}' dimension "
                        f"{dim}, whose mask has shape {tuple(self.bits.shape)}; make it on the "
                        "masked network"
                    )
                bits = bits.index_select(dim, torch.tensor(kept, device=bits.device))
            # a mask of which nothing is left claims nothing
            return (() if bool(bits.all()) else (Mask(self.parameter, bits),)), later
        return (self,), later

    def broken(self, net: nn.Module) -> str:
        tensor = self._tensor(net)
        count = int((tensor.detach() != 0)[~self.bits.to(tensor.device)].sum())
        return f"{count} masked weights of '{self.parameter}' are not zero" if count else ""


def make_cut(
    group: str, slots: Iterable[Place], kept: tuple[int, ...], produced: Iterable[Place]
) -> Cut:
    """produced: of all slots those whose modules are producers."""
    slots = tuple(slots)
    paths = dict.fromkeys(module_of(slot) for slot in slots if slot in produced)
    return Cut(group, slots, kept, tuple(paths))


def module_of(slot: Place) -> str:
    return slot[0].rpartition(".")[0]


def may_produce(slot: Place) -> bool:
    return not slot[0].endswith("bias")


def is_count(value: Any) -> bool:
    """A whole number that is not negative; JSON's true is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_fields(
    entry: Mapping[str, Any], required: set[str], optional: set[str], where: str
) -> None:
    """Refuse an entry with other fields: what is not understood is not passed over."""
    if not required <= set(entry) <= required | optional:
        raise UsageError(
            f"{where} has fields {foreign(sorted(map(str, entry)))}; expected {sorted(required)}"
        )
