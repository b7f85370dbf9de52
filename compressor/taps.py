"""Reads, and where asked replaces, intermediate tensors of a network by module path."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compressor.errors import RunError, UsageError

Reader = Callable[[nn.Module, Tensor], Tensor | None]


@dataclass(frozen=True)
class Tap:
    """One place in a network: the input or the output of the module at this path."""

    module: str
    side: str
    call: int | None = None
    """Which call of the module within one forward of the network, from 0; None: every call."""

    def __post_init__(self) -> None:
        if self.side not in ("input", "output"):
            raise UsageError(
                f"a tap on '{self.module}' has side='{self.side}'; write 'input' or 'output'"
            )


@contextmanager
def tapped(net: nn.Module, taps: Mapping[Tap, Reader]) -> Iterator[None]:
    """Within the block, every forward of `net` shows each tapped tensor to its reader.

    A reader is called with (module, tensor); a tensor that it returns replaces the value. Calls
    are counted from 0 in each forward of `net` itself. All hooks are gone after the block.
    """
    modules = dict(net.named_modules(remove_duplicate=False))
    calls: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], list[tuple[Tap, Reader]]] = {}
    for tap, reader in taps.items():
        if tap.module not in modules:
            raise UsageError(_unknown(tap.module, modules))
        places.setdefault((tap.module, tap.side), []).append((tap, reader))

    def read(module: nn.Module, place: tuple[str, str], value: Any) -> Any:
        call = calls[place]
        calls[place] += 1
        for tap, reader in places[place]:
            if tap.call is not None and tap.call != call:
                continue
            if not isinstance(value, Tensor):
                raise RunError(
                    f"the {place[1]} of '{place[0]}' is a {type(value).__name__}, not a tensor; "
                    "tap a module inside it"
                )
            replaced = reader(module, value)
            value = value if replaced is None else replaced
        return value

    def before(place: tuple[str, str]) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (read(module, place, args[0]), *args[1:]), kwargs
            if not kwargs:
                raise RunError(f"'{place[0]}' was called without an input; tap its parent")
            first = next(iter(kwargs))
            return args, {**kwargs, first: read(module, place, kwargs[first])}

        return hook

    def after(place: tuple[str, str]) -> Callable[..., Any]:
        return lambda module, args, output: read(module, place, output)

    # The first hook of the root runs before any other, so counting starts afresh there.
    handles = [net.register_forward_pre_hook(lambda *_: calls.clear(), prepend=True)]
    try:
        for place in places:
            module = modules[place[0]]
            if place[1] == "input":
                handles.append(module.register_forward_pre_hook(before(place), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(after(place)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unknown(name: str, modules: Mapping[str, nn.Module]) -> str:
    near = difflib.get_close_matches(name, modules, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see the names in net.named_modules()"
    return f"the network has no module '{name}'; {hint}"
