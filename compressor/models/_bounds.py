"""What a network may cost while it is built: a folder from anywhere names builders and arguments.

Arguments are looked at before; modules, tensors and bytes are counted while it is built. No process
is added, and a network of the sizes that networks have never meets one of these limits.
"""

import ctypes
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.errors import UsageError, foreign

# Paths through nested values, and how many there are: a builder's arguments are a handful.
MAX_NESTING, MAX_VALUES, MAX_TEXT = 8, 10_000, 1000
# The widest published layers have less than half a million units (arXiv:1312.6184).
MAX_NUMBER = 1_000_000
# torchvision's and timm's builders loop over the square of an image's side in places.
MAX_LIBRARY_NUMBER = 16_384
_DEPTH = 100  # modules inside one another
_SECONDS = 10.0  # processor time of the building thread; the largest of timm takes half a one


_FILLS = frozenset(f"aten::{name}_" for name in ("normal", "uniform", "fill", "zero", "erfinv"))


class TooLarge(BaseException):
    """Building went past a limit; no `except Exception` of a builder holds it up."""


class _Interrupted(TooLarge):
    """By the timer, at any bytecode."""


def check_plain(value: Any, where: str) -> None:
    """Refuse arguments that nest, repeat or run on as no builder's do.

    value: as JSON gives it. where: the file and key it comes from.
    """
    count, left = 0, [(value, 0)]
    while left:
        part, level = left.pop()
        count += 1
        inner = [*part, *part.values()] if isinstance(part, Mapping) else part
        if isinstance(part, str):
            inner = ()
            if len(part) > MAX_TEXT:
                raise UsageError(f"{where} holds a text of {len(part):,} characters: not read")
        elif not isinstance(part, Mapping | list | tuple):
            continue
        if level > MAX_NESTING or count + len(left) + len(inner) > MAX_VALUES:
            raise UsageError(f"{where} holds more nested values than any network takes: not read")
        left += [(item, level + 1) for item in inner]


def check_numbers(options: Mapping[str, Any], most: int = MAX_NUMBER) -> None:
    """Refuse numbers that are larger than any network's. options: a builder's, by name."""
    left = [(str(name), value) for name, value in options.items()]
    while left:
        name, value = left.pop()
        if isinstance(value, Mapping):
            left += [(f"{name}.{key}", item) for key, item in value.items()]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            left += [(name, item) for item in value]
        elif isinstance(value, float) and math.isnan(value):
            raise UsageError(f"model.{foreign(name)}={foreign(value)} is not a number")
        elif isinstance(value, int | float) and abs(value) > most:
            raise UsageError(
                f"model.{foreign(name)}={foreign(value)} is larger than any network's: give at "
                f"most {most:,}"
            )


@dataclass(frozen=True)
class Limits:
    """modules, tensors: how many may be registered. bytes: of all of these tensors together."""

    modules: int
    tensors: int
    bytes: int

    @classmethod
    def of(cls, tensors: int, held: int) -> "Limits":
        """For a network of which so many tensors and so many bytes are left after its cuts.

        Cuts make tensors smaller, not fewer; 1/64 of what is larger than 768 MiB is a strong cut.
        """
        most = 4 * tensors + 1000
        return cls(modules=10 * most, tensors=most, bytes=max(768 * 2**20, 64 * held))


class Watch(TorchDispatchMode):
    """Sees every tensor that is made inside, and ends what goes past the limits.

    limits: None only looks.
    """

    def __init__(self, limits: Limits | None) -> None:
        super().__init__()
        self.limits = limits
        self._made: list[ref] = []
        self._bytes = 0
        self._here = threading.get_ident()
        self._start = time.thread_time()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.name in _FILLS and args[0].is_meta:
            return args[0]  # nothing to fill, and the meta device takes its time for it
        if self.limits is not None:
            self.check_time()
            self._foresee(func, args, kwargs)
        out = func(*args, **kwargs)
        for tensor in out if isinstance(out, list | tuple) else (out,):
            # in-place operators hand on what they were given
            if isinstance(tensor, Tensor) and not any(tensor is given for given in args):
                self._made.append(ref(tensor))
        return out

    def check_time(self) -> None:
        if threading.get_ident() == self._here and time.thread_time() - self._start > _SECONDS:
            raise TooLarge

    def left(self) -> list[Tensor]:
        """The tensors made inside that something still holds."""
        return [tensor for tensor in (made() for made in self._made) if tensor is not None]

    def _foresee(self, func, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """Count what an operator is going to allocate, before it does."""
        if func.is_view or func._schema.name.endswith("_"):
            return
        given = [value for value in args if isinstance(value, Tensor)]
        if any(value.is_meta for value in given):
            return
        if not given and kwargs.get("device") is not None and kwargs["device"].type == "meta":
            return
        places = {"device": torch.device("meta")} if "device" in kwargs else {}
        try:
            shapes = func(*_on_meta(args), **{**_on_meta(kwargs), **places})
        except Exception:  # no shape can be told: what it makes follows from what is there
            return
        if isinstance(shapes, Tensor) and shapes.is_meta:
            self._bytes += shapes.numel() * shapes.element_size()
            if self._bytes > 2 * self.limits.bytes:  # parameters, and as much for making them
                raise TooLarge


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, dict):
        return {name: _on_meta(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_meta(item) for item in value)
    return value


@contextmanager
def watched(limits: Limits, *, foreign_code: bool = False) -> Iterator[Watch]:
    """Within the block, a network is built; TooLarge ends one that goes past the limits.

    foreign_code: a class that the user trusts is not timed, nor are its own sums weighed.
    """
    watch = Watch(None if foreign_code else limits)
    with ExitStack() as stack:
        for handle in _counted(limits, watch):
            stack.callback(handle.remove)
        stack.enter_context(watch)
        if not foreign_code:
            stack.enter_context(_deadline())  # innermost: it is off when the rest is taken down
        yield watch


def _counted(limits: Limits, watch: Watch) -> list:
    here = threading.get_ident()  # the hooks are the whole process's
    modules = tensors = size = 0
    heights: dict[int, tuple[ref, int]] = {}  # by id; the reference tells a later object from it

    def height(module: nn.Module) -> int:
        known = heights.get(id(module))
        return known[1] if known is not None and known[0]() is module else 0

    def tensor(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal tensors, size
        if value is None or threading.get_ident() != here:
            return
        tensors += 1
        size += 0 if is_lazy(value) else value.numel() * value.element_size()
        if tensors > limits.tensors or size > limits.bytes:
            raise TooLarge

    def part(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal modules
        if child is None or threading.get_ident() != here:
            return
        modules += 1
        now = max(height(parent), height(child) + 1)
        heights[id(parent)] = ref(parent), now
        if modules > limits.modules or now > _DEPTH:
            raise TooLarge
        if watch.limits is not None:
            watch.check_time()

    return [
        register_module_module_registration_hook(part),
        register_module_parameter_registration_hook(tensor),
        register_module_buffer_registration_hook(tensor),
    ]


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise TooLarge in this thread when it has computed for too long.

    Loops that make neither tensors nor modules meet no hook, so a timer interrupts them, as Ctrl-C
    would: at the next bytecode.
    """
    thread, guard, ended = threading.get_ident(), threading.Lock(), threading.Event()
    clock = getattr(time, "pthread_getcpuclockid", None)  # not on every system
    sent = arrived = False

    def used() -> float:
        return time.clock_gettime(clock(thread)) if clock else time.monotonic()

    end = used() + _SECONDS + 0.5  # hooks come first where there are any

    def interrupt() -> None:
        nonlocal sent
        while not ended.wait(max(end - used(), 0.1)):
            with guard:
                if used() < end or ended.is_set():
                    continue
                sent = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(_Interrupted)
                )
                return

    timer = threading.Thread(target=interrupt, daemon=True, name="deadline")
    timer.start()
    try:
        yield
    except _Interrupted:
        arrived = True
        raise
    finally:
        with guard:
            ended.set()
        if sent and not arrived:
            # one that is on its way must not reach the caller; taking it back would leave the
            # interpreter looking for it for ever (CPython 3.11)
            with suppress(_Interrupted):
                late = time.monotonic() + 0.1
                while time.monotonic() < late:
                    pass
