"""One forward pass of a network under watch: which module runs, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def unfused() -> Iterator[None]:
    """Attention by its own products: fused, a whole layer is one operator without a rule."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def watched(
    net: nn.Module, enter: Callable[[str], object], leave: Callable[[str, object], object]
) -> Iterator[None]:
    """enter(path) before a module's forward, leave(path, output) after it.

    A module that stands at two paths runs under the first one. After a forward that raised, those
    that were entered and not left say where.
    """
    handles = []
    for path, module in net.named_modules():
        handles += _watch(path, module, enter, leave)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(path: str, module: nn.Module, enter: Callable, leave: Callable) -> list:
    # what a hook returns would take the place of the module's arguments or output: nothing
    def before(module, args) -> None:
        enter(path)

    def after(module, args, output) -> None:
        leave(path, output)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def as_tree(value):
    """Outputs that are objects with fields count like dictionaries."""
    if hasattr(value, "__dict__") and not isinstance(value, Tensor | dict | tuple | list):
        return dict(vars(value))
    return value
