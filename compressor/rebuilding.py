"""From a folder's description and weights to the network: bounded, and without a quiet cast.

The network is built on the meta device, compared with the header of the weights, and given storage
then. Only a network that holds more than its weights' file restores is built a second time, with
values.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressor import manifest, models
from compressor.errors import RunError, UsageError, foreign
from compressor.models._bounds import Limits, TooLarge, Watch, watched
from compressor.surgery import dry_run, meta_copy, replay

if TYPE_CHECKING:
    from compressor.artefact import Artefact

# The header of a network with 5,000 tensors takes about one megabyte.
_MAX_HEADER = 16 * 2**20
# What the weights' file calls the types of tensors, by their names in torch.
_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
Header = Mapping[str, tuple[str, tuple[int, ...]]]  # type and shape of every tensor, by name


class _Building:
    """One dense network, as often as it takes, within the limits that its weights set."""

    def __init__(self, made: "Artefact", trust: tuple[str, ...], limits: Limits) -> None:
        self.made = made
        self.trust = trust
        self.limits = limits
        self.foreign_code = bool(models.trusted(made.spec.factory))

    def dense(self) -> tuple[nn.Module, Watch]:
        """The network, and what saw it being built."""
        try:
            with watched(self.limits, foreign_code=self.foreign_code) as watch:
                return self.made.spec.build(self.trust), watch
        except TooLarge:
            raise RunError(
                f"{self.made.folder / 'spec.json'} describes a far larger network than "
                f"{self.made.weights.name} holds: the folder mixes files of different networks, "
                "or was tampered with"
            ) from None

    def without_storage(self) -> tuple[nn.Module | None, Watch | None]:
        """The cut network on the meta device, and what saw it being built.

        (None, None) where the builder needs real values.
        """
        try:
            with torch.device("meta"):
                dense, watch = self.dense()
            return replay(dense, self.made.plan), watch
        except (UsageError, RunError):
            raise
        except (RuntimeError, NotImplementedError):
            return None, None

    def misfit(self, net: nn.Module) -> str:
        """Why the cut network cannot run where the dense one can; "" where it does.

        Only a failure that the dense network does not have is a verdict on the plan.
        """
        size = self.made.spec.input_size
        # what a class of the user's keeps from a first forward, it shall not keep from this one
        reason = _failure(net, size, copied=self.foreign_code)
        if not reason:
            return ""
        with torch.device("meta"):
            dense, _ = self.dense()
        return "" if _failure(dense, size) else reason


def rebuild(made: "Artefact", trust: tuple[str, ...]) -> nn.Module:
    """The network in eval mode, with the tensors of its file."""
    from safetensors.torch import load_file

    from compressor.artefact import fill

    weights = made.weights
    held = header(weights)
    models.import_library(made.spec.factory)
    building = _Building(made, trust, Limits.of(len(held), weights.stat().st_size))
    with _as_ours(made.folder), _float32(), torch.random.fork_rng(devices=[]):
        # Without storage first: a lying spec.json must not allocate what it asks for.
        net, watch = building.without_storage()
        if net is not None:
            _compare(held, net, str(weights))
            if made.plan.operations and (reason := building.misfit(net)):
                raise RunError(
                    f"{made.folder / 'plan.json'} leaves a network that cannot run ({reason}): "
                    "the folder mixes files of different networks, or was tampered with"
                )
        if net is None or watch is None or _needs_values(net, watch.left()):
            net = replay(building.dense()[0], made.plan)
            _compare(held, net, str(weights))
        else:
            _give_storage(net)
    if made.sealed is not None:  # its size is known to be the network's by now
        manifest.check(made.folder, weights.name, made.sealed)
    fill(net, load_file(weights))
    if reason := made.plan.broken(net):
        raise RunError(
            f"{weights} does not fit its plan: {foreign(reason)}; the folder mixes files of "
            "different networks"
        )
    return net.eval()


def header(weights: Path) -> Header:
    """What the weights' file says that it holds: no tensor is read."""
    from safetensors import SafetensorError, safe_open

    try:
        if not weights.is_file():
            raise RunError(f"{manifest.absent(weights)}: restore the folder or make it again")
        with weights.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > _MAX_HEADER:
            raise RunError(f"{weights} has a header of {size:,} bytes: not read")
        with safe_open(weights, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {n: (s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    except (SafetensorError, OSError, MemoryError) as error:
        raise RunError(f"{weights} cannot be read ({foreign(error)}): make it again") from None


def plan_tensors(path: Path, weights: Path, sealed: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """The tensors beside a plan, by name.

    path: their file; sealed: its entry in the manifest, None where that was compared before.
    They are read before the network is built, so the file may be no larger than that of the
    weights: a mask has one byte for each weight.
    """
    from safetensors.torch import load_file

    if sealed is not None:
        size = weights.stat().st_size if weights.is_file() else 0
        manifest.check(path.parent, path.name, sealed, most=size + _MAX_HEADER)
    header(path)  # bounded, and an error of ours where it is none
    return load_file(path)


@contextmanager
def _float32() -> Iterator[None]:
    """A network is what was saved, whatever its loader's session computes in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _needs_values(net: nn.Module, left: list[Tensor]) -> bool:
    """Whether a network on the meta device holds more than its state dict.

    left: the tensors made while it was built that something still holds.
    """
    saved = {id(tensor) for tensor in net.state_dict(keep_vars=True).values()}
    found = [*net.parameters(), *net.buffers(), *left]
    found += [part for module in net.modules() for part in _parts(vars(module), 2)]
    tensors = [part for part in found if isinstance(part, Tensor)]
    if torch.device("meta") in (part for part in found if not isinstance(part, Tensor)):
        return True  # a module that remembers where it was built
    if any(t.is_meta and id(t) not in saved for t in tensors):
        return True
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return True
    storages = {t.untyped_storage()._cdata for t in tensors if id(t) in saved}
    return len(storages) < len(saved)


def _parts(value: Any, levels: int) -> Iterator[Any]:
    """Tensors and devices among a module's attributes, which may stand in lists and mappings."""
    if isinstance(value, Tensor | torch.device):
        yield value
    elif levels and isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parts(item, levels - 1)


def _give_storage(net: nn.Module) -> None:
    """Memory in place of meta tensors, in the same order; shared ones stay shared."""
    given: dict[int, Tensor] = {}
    for module in net.modules():
        for store in (module._parameters, module._buffers):
            for name, old in store.items():
                if old is None or not old.is_meta:
                    continue
                if id(old) not in given:
                    new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype)
                    if isinstance(old, nn.Parameter):
                        new = nn.Parameter(new, requires_grad=old.requires_grad)
                    vars(new).update(vars(old))
                    given[id(old)] = new
                store[name] = given[id(old)]


def _failure(net: nn.Module, input_size: tuple[int, int, int], copied: bool = False) -> str:
    """How a forward on the meta device ends that meets shapes which do not fit, else ""."""
    try:
        dry_run(meta_copy(net) if copied else net, (torch.empty(1, *input_size, device="meta"),))
    except (RunError, NotImplementedError):
        return ""
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        return foreign((str(error).splitlines() or [type(error).__name__])[0])
    except Exception:  # whatever else a forward raises that was never meant for this device
        return ""
    return ""


@contextmanager
def _as_ours(folder: Path) -> Iterator[None]:
    """What a builder makes of arguments that it was never meant for, as one line."""
    try:
        yield
    except (UsageError, RunError):
        raise
    except Exception as error:
        reason = foreign(f"{type(error).__name__}: {error}".splitlines()[0])
        raise UsageError(
            f"{folder / 'spec.json'} and plan.json describe no network that can be built "
            f"({reason}): restore the folder or make it again"
        ) from error


def _compare(held: Header, net: nn.Module, where: str) -> None:
    expected = {
        name: (_TYPES.get(str(value.dtype).removeprefix("torch."), ""), tuple(value.shape))
        for name, value in net.state_dict().items()
    }
    wrong = [name for name in expected if held.get(name) != expected[name]]
    wrong += [name for name in held if name not in expected]
    if wrong:
        name = wrong[0]
        found, due = (_described(table.get(name)) for table in (held, expected))
        how = f"is {found}, expected {due}" if name in expected else "has no place in the network"
        raise RunError(
            f"{where} does not fit its spec and plan: {foreign(name)} {how}; "
            "the folder mixes files of different networks"
        )


def _described(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if tensor is None else foreign(f"{tensor[0]} {list(tensor[1])}")
