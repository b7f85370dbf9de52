"""A network as its spec and plan say, before any stage: its costs, its groups, what runs in it.

That takes no weight, so the network has no storage where its builder and its forward allow it. It
is looked at once a process: a plan asks for it in several places, and the other members of a sweep
over one architecture ask again.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from compressor import surgery
from compressor.artefact import Spec
from compressor.cache import key_of
from compressor.errors import RunError, UsageError
from compressor.instantiation import sources
from compressor.measure import count_macs, count_params
from compressor.models._bounds import Limits, TooLarge, watched
from compressor.stages._statistics import count_calls
from compressor.stages._structures import structure_of
from compressor.surgery import EMPTY_PLAN, Plan, Structure

_MOST = 4  # networks at hand: the dense one, the unscaled one, a teacher
_known: dict[str, "Blank"] = {}


@dataclass(frozen=True)
class Blank:
    """net: to be looked at only, its weights say nothing. figures: its "macs" and "params"."""

    net: nn.Module
    figures: dict[str, int]
    spec: Spec
    trust: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    """What it is called with, a batch of 2."""
    plan: Plan = EMPTY_PLAN
    """What was done to it before the walk."""

    @property
    def structure(self) -> Structure:
        return structure_of(self.net, self.spec, self.plan, self.inputs)

    @cached_property
    def calls(self) -> Counter[str]:
        """How often each module runs in one eval-mode forward."""
        images = self.inputs[0]
        like = next(self.net.parameters(), images)
        return count_calls(self.net, images.to(like.device))

    def with_storage(self) -> nn.Module:
        """One more of it, with fresh weights: to be timed, or judged by values."""
        with torch.random.fork_rng(devices=[]):
            return surgery.replay(self.spec.build(self.trust), self.plan)


def blank(spec: Spec, trust: Iterable[str], task: Any, plan: Plan = EMPTY_PLAN) -> Blank:
    """Refuses an image that the network cannot take, before its trace would fail over that."""
    code = sources({"_target_": spec.factory})
    key = key_of(spec=spec.to_json(), code=code, plan=plan.to_json())
    found = _known.pop(key, None) or _look(spec, tuple(trust), task, plan)
    _known[key] = found  # the last used one stands last
    while len(_known) > _MOST:
        del _known[next(iter(_known))]
    return found


def _look(spec: Spec, trust: tuple[str, ...], task: Any, plan: Plan) -> Blank:
    net = surgery.replay(without_storage(spec, trust), plan)
    try:
        macs = count_macs(net, spec.input_size)
    except UsageError:
        # a forward that wants values, unless it is the image's fault: then this says so
        net = surgery.replay(_with_storage(spec, trust), plan)
        macs = count_macs(net, spec.input_size)
    figures = {"macs": macs, "params": count_params(net)}
    return Blank(net, figures, spec, trust, task.example_inputs(spec.input_size, 2), plan)


def without_storage(spec: Spec, trust: Iterable[str] = ()) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return spec.build(trust)
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, RunError):
                raise
            return _with_storage(spec, trust)


def _with_storage(spec: Spec, trust: Iterable[str]) -> nn.Module:
    """Ends before a tensor is filled with which the network is larger than the memory."""
    limits = Limits(modules=sys.maxsize, tensors=sys.maxsize, bytes=memory())
    try:
        with torch.random.fork_rng(devices=[]), watched(limits, foreign_code=True):
            return spec.build(trust)
    except TooLarge:
        raise too_large("weights") from None


def parameter_bytes(net: nn.Module, copies: int = 1) -> int:
    """Bytes of all weights. copies: of each weight that is trained, itself included."""
    return sum(
        p.numel() * p.element_size() * (copies if p.requires_grad else 1) for p in net.parameters()
    )


def memory() -> int:
    """Bytes of memory that this machine has, used or not."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def too_large(what: str, size: int | None = None) -> UsageError:
    """what: of the network, that takes so many bytes (None: more than the memory has)."""
    takes = "more" if size is None else f"{size / 1e9:.3g} GB"
    return UsageError(
        f"the network's {what} take {takes}, and this machine has {memory() / 1e9:.3g} GB: lower "
        "model.width or scale.width, or choose a smaller model"
    )
