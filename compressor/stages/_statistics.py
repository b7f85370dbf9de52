"""Sums that selectors ask for, added up over batches by taps in forward passes of the network."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressor.errors import RunError, UsageError
from compressor.prune import Gate, Observer, Selector, Target, part, thinet
from compressor.prune._product import own_weight
from compressor.seeding import generator
from compressor.stages._derivatives import Loss, differentiate
from compressor.surgery import Group
from compressor.taps import Tap, tapped

MEMORY_LIMIT = 4 << 30  # bytes that the activations of one forward of all images may take


def watched(
    net: nn.Module, groups: Sequence[Group], selector: Selector, reconstruct: str
) -> dict[str, tuple[Observer | Gate, ...]]:
    """What is to be observed for every group; all empty where no data is needed.

    Groups that the selector cannot judge are named all at once.
    """
    found, refused = {}, {}
    for group in groups:
        try:
            found[group.name] = observers_of(net, group, selector, reconstruct)
        except UsageError as error:
            refused[group.name] = str(error)
    if refused:
        text = next(iter(refused.values()))
        if len(refused) > 1:
            names = ",".join(refused)
            text += f" (it is one of {len(refused)} such layers: prune.skip=[{names}])"
        raise UsageError(text)
    return found


def collect(
    net: nn.Module,
    groups: Sequence[Group],
    selector: Selector,
    reconstruct: str,
    batches: Iterable[Any],
    seed: int,
    loss: Loss | None = None,
    labelled: Iterable[Any] | None = None,
) -> dict[str, Tensor]:
    """All statistics of all groups from one pass over `batches` (images, or tuples of them first).

    loss: for selectors with gates, which take a second pass (stages/_derivatives.py), over
    `labelled`, (images, targets), where these are others. Returns
    "<group>/<observer>/<name>" -> float64 sum, on the CPU. Needs no data and makes no pass where
    neither the selector nor `reconstruct` asks for any. The network stays as it is.
    """
    watch = watched(net, groups, selector, reconstruct)
    totals = Totals(seed)
    readers = readers_of(watch, totals)
    if readers:
        with judging(net), tapped(net, readers):
            for images in images_of(batches, net):
                net(images)
    with judging(net):
        gates = gates_of(watch, groups)
        differentiate(net, gates, batches if labelled is None else labelled, loss, totals.put)
    return totals.everything(watch)


class Totals:
    """Additive statistics by group and observer, each observer with a generator of its own.

    target: (module, which call of it) -> what paired observers compare with.
    """

    def __init__(
        self, seed: int, target: Callable[[str, int], Target | None] = lambda module, call: None
    ) -> None:
        self.seed, self.target = seed, target
        self.sums: dict[str, dict[str, Tensor]] = {}
        self.generators: dict[tuple[str, str], torch.Generator] = {}
        self.calls: Counter[tuple[str, str, Tap]] = Counter()

    def add(self, group: str, observer: Observer, module: nn.Module, x: Tensor) -> None:
        place = (group, observer.key)
        if place not in self.generators:
            self.generators[place] = generator(self.seed, "observe", *place)
        call = (*place, observer.tap)
        more = (self.target(observer.tap.module, self.calls[call]),) if observer.paired else ()
        self.calls[call] += 1
        found = observer.measure(module, x, self.generators[place], *more)
        self.put(group, observer.key, found)

    def put(self, group: str, key: str, values: Mapping[str, Tensor]) -> None:
        sums = self.sums.setdefault(group, {})
        for name, value in values.items():
            place = f"{key}/{name}"
            sums[place] = sums[place] + value if place in sums else value

    def take(self, group: str) -> dict[str, Tensor]:
        """One group's statistics as `rank` wants them; they are forgotten here."""
        return {key: value.cpu() for key, value in self.sums.pop(group, {}).items()}

    def everything(self, watch: Mapping[str, Sequence[Observer | Gate]]) -> dict[str, Tensor]:
        result = {}
        for group, observers in watch.items():
            taken = self.take(group)
            if observers and not taken:
                raise RunError(
                    f"the statistics of '{group}' saw no data; check prune.images, or leave it out "
                    f"with prune.skip=[{group}]"
                )
            result.update({f"{group}/{key}": value for key, value in taken.items()})
        return result


class Enough(Exception):  # noqa: N818 (it is no error: the rest of the pass is not needed)
    """Leaves a forward pass after the last group of a run."""


def observers_of(
    net: nn.Module, group: Group, selector: Selector, reconstruct: str
) -> tuple[Observer | Gate, ...]:
    """The selector's, and the rows that rescaling needs if the selector has none."""
    found = selector.observers(group, net)
    if reconstruct != "rescale":
        return tuple(found)
    keys = {observer.key for observer in found}
    more = [one for one in thinet.observers(group, net) if one.key not in keys]
    for path in (path for slot in group.consumers for path in slot.callers):
        if not own_weight(net.get_submodule(path)):
            raise UsageError(
                f"prune.reconstruct=rescale scales the weight of '{path}', which that layer "
                "changes before it multiplies with it; take prune.reconstruct=none or "
                f"prune.skip=[{group.name}]"
            )
    return (*found, *more)


def gates_of(
    watch: Mapping[str, Sequence[Observer | Gate]], groups: Iterable[Group]
) -> list[tuple[Group, Gate]]:
    """What is to be known of the loss's derivatives."""
    return [(g, one) for g in groups for one in watch[g.name] if isinstance(one, Gate)]


def readers_of(watch: Mapping[str, Sequence[Observer | Gate]], totals: Totals) -> dict[Tap, Any]:
    places: dict[Tap, list[tuple[str, Observer]]] = {}
    for group, observers in watch.items():
        for observer in observers:
            if isinstance(observer, Observer):
                places.setdefault(observer.tap, []).append((group, observer))

    def reader(here: list[tuple[str, Observer]]) -> Any:
        def read(module: nn.Module, x: Tensor) -> None:
            for group, observer in here:
                totals.add(group, observer, module, x)

        return read

    return {tap: reader(here) for tap, here in places.items()}


def stopping(readers: Mapping[Tap, Any], calls: Mapping[str, int]) -> dict[Tap, Any]:
    """Readers of which the last one to read in a forward ends it. calls: of each module in one."""
    awaited = sum(calls[tap.module] if tap.call is None else 1 for tap in readers)
    seen = 0

    def counted(reader: Any) -> Any:
        def read(module: nn.Module, x: Tensor) -> None:
            nonlocal seen
            reader(module, x)
            seen += 1
            if seen % awaited == 0:
                raise Enough

        return read

    return {tap: counted(reader) for tap, reader in readers.items()}


def mine(group: Group, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One group's part of what `collect` returned, under the names that `rank` knows."""
    return part(statistics, f"{group.name}/")


def gather(
    net: nn.Module, batches: Iterable[Any], memory_limit: int
) -> tuple[list[Tensor], Counter[str], bool]:
    """All images, as one batch if a forward of it fits into so many bytes.

    Also how often each module runs in one forward, in order, and whether it is one batch.
    """
    images = list(images_of(batches, net))
    if not images:
        raise RunError("the statistics saw no image; check prune.images and the train part")
    calls, peak = trace(net, images[0][:1])
    joined = peak * sum(map(len, images)) <= memory_limit
    return [torch.cat(images)] if joined else images, calls, joined


def images_of(batches: Iterable[Any], net: nn.Module) -> Iterator[Tensor]:
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    for batch in batches:
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        yield images.to(device)


@contextmanager
def judging(net: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode comes back.

    Not inference mode: parameters that a cut creates under it could never be trained again.
    """
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class _Peak(TorchDispatchMode):
    """The largest sum of bytes that the tensors made under it held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.held = {k: v for k, v in self.held.items() if not v[0].expired()}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.held[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return out


def count_calls(net: nn.Module, images: Tensor) -> Counter[str]:
    """How often each module runs in one eval-mode forward, in the order of their first calls."""
    calls: Counter[str] = Counter()
    taps = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
        for name, module in net.named_modules(remove_duplicate=False)
    ]
    try:
        with judging(net):
            net(images)
    finally:
        for tap in taps:
            tap.remove()
    return calls


def trace(net: nn.Module, image: Tensor) -> tuple[Counter[str], int]:
    """`count_calls`, and the bytes that one image needs."""
    with _Peak() as measured:
        calls = count_calls(net, image)
    return calls, measured.peak
