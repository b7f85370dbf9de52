"""Artefacts: folders that hold one network, how it came about, and what it was measured to be.

    spec.json            factory and arguments of the DENSE network, input size, classes, task
    plan.json            typed operations that were done to it, in original indices
    weights.safetensors  the tensors of the network as it is now
    metrics.json         figures measured on the reloaded network
    lineage.json         role -> key of the artefact that played it
    manifest.json        size and SHA-256 of the files above: what is not in it is not trusted

Loading = build, replay the plan, load the tensors. No pickle, no module is ever imported because a
file names it: builders are those of `compressor.models`, other classes must be trusted by name.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.errors import RunError, UsageError
from compressor.surgery import EMPTY_PLAN, Plan, replay

FORMAT = 1
WEIGHTS = "weights.safetensors"
_REQUIRED = ("spec.json", "plan.json", WEIGHTS)
# A description is text that a person could read; anything larger is not one of ours.
_MAX_JSON_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Spec:
    """How to build the dense network: plain values only."""

    factory: str
    arguments: Mapping[str, Any]
    input_size: tuple[int, int, int]
    num_classes: int
    task: str = "classification"

    def build(self, trust: Iterable[str] = (), *, download: bool = False) -> nn.Module:
        """The dense network with fresh weights; pretrained ones are fetched only on request."""
        from compressor import models

        arguments = dict(self.arguments)
        return models.build(
            self.factory,
            arguments,
            self.num_classes,
            self.input_size,
            trust=tuple(trust),
            download=download,
        )

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "input_size": list(self.input_size)}

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Spec":
        try:
            if data["format"] != FORMAT:
                raise UsageError(
                    f"{where} has format {data['format']}, this version reads {FORMAT}: "
                    "use the version of compressor that wrote it"
                )
            size = tuple(int(n) for n in data["input_size"])
            spec = cls(
                factory=str(data["factory"]),
                arguments=dict(data["arguments"]),
                input_size=size,
                num_classes=int(data["num_classes"]),
                task=str(data["task"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{where} does not describe a network ({error!r})") from None
        if len(size) != 3 or min(size) < 1 or spec.num_classes < 1:
            raise UsageError(f"{where}: input_size={list(size)} is not channels, height, width")
        return spec


@dataclass(frozen=True)
class Artefact:
    """One finished stage: where it lies and what it holds."""

    folder: Path
    key: str
    spec: Spec
    plan: Plan = EMPTY_PLAN
    lineage: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def network(self, trust: Iterable[str] = ()) -> nn.Module:
        """The network in eval mode, read from the folder."""
        return _read_network(self.folder, self.spec, self.plan, trust)


def write(
    folder: Path,
    *,
    spec: Spec,
    plan: Plan,
    net: nn.Module,
    lineage: Mapping[str, str],
) -> None:
    """Write spec, plan, weights and lineage of `net` into an existing folder (no manifest yet)."""
    from safetensors.torch import save_file

    _dump(folder / "spec.json", spec.to_json())
    _dump(folder / "plan.json", plan.to_json())
    _dump(folder / "lineage.json", dict(lineage))
    # Cloned: tied tensors share memory, which the format refuses; they are tied again on loading.
    tensors = {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in net.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS)


def seal(folder: Path) -> None:
    """Write the manifest: from here on a changed byte is noticed."""
    entries = {
        path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "manifest.json"
    }
    _dump(folder / "manifest.json", {"format": FORMAT, "files": entries})


def verify(folder: Path) -> frozenset[str]:
    """The names of the folder's files, each compared with the manifest.

    Raises RunError when the folder is damaged, UsageError when it is none of ours.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give the model/ folder of a finished run")
    listing = folder / "manifest.json"
    if not listing.is_file():
        raise UsageError(
            f"{folder} is no artefact (it has no manifest.json): give the model/ folder of a run"
        )
    manifest = _parse(listing)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(e, dict) for e in files.values()):
        raise RunError(f"{listing} is damaged: restore the folder or make it again")
    for name, entry in files.items():
        if Path(name).name != name or name in ("", ".", ".."):
            raise UsageError(f"{listing} names {name!r}, which lies outside its folder: not loaded")
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise RunError(f"{path} is missing: restore the folder or make it again")
        if path.stat().st_size != entry.get("bytes") or _digest(path) != entry.get("sha256"):
            raise RunError(
                f"{path} is damaged (its size or checksum differs): restore it or make it again"
            )
    return frozenset(files)


def read(folder: Path, key: str = "", *, checked: bool = False) -> Artefact:
    """The artefact that lies in `folder`, compared with its manifest unless that was done."""
    files = frozenset(_REQUIRED) if checked else verify(folder)
    for name in _REQUIRED:
        if name not in files:
            raise UsageError(f"{folder} holds no network (its manifest lists no {name})")
    spec = Spec.from_json(_parse(folder / "spec.json"), str(folder / "spec.json"))
    plan = Plan.from_json(_parse(folder / "plan.json"))
    optional = {
        name: _parse(folder / f"{name}.json") if (folder / f"{name}.json").is_file() else {}
        for name in ("lineage", "metrics")
    }
    return Artefact(folder=folder, key=key or folder.name, spec=spec, plan=plan, **optional)


def read_plan(folder: Path) -> Plan:
    """The plan of a folder that is still being written, before its manifest exists."""
    return Plan.from_json(_parse(folder / "plan.json"))


def load(path: str | Path, trust: Iterable[str] = ()) -> nn.Module:
    """The network of an artefact folder, on the CPU, in eval mode, ready to run.

    path: an artefact folder (`outputs/runs/.../model`) or the run folder that holds it.
    trust: dotted names of classes outside compressor, torchvision and timm that may be built.
    Raises UsageError for a folder that is none of ours or asks for something that is not trusted,
    RunError for a damaged one.
    """
    folder = Path(path)
    if not (folder / "manifest.json").exists() and (folder / "model" / "manifest.json").exists():
        folder = folder / "model"
    return read(folder).network(trust)


def _read_network(folder: Path, spec: Spec, plan: Plan, trust: Iterable[str]) -> nn.Module:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    trust = tuple(trust)
    weights = folder / WEIGHTS
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise RunError(f"{weights} cannot be read ({error}): make it again") from None
    _check_shapes(spec, plan, shapes, str(weights), trust)
    with torch.random.fork_rng(devices=[]):
        net = replay(spec.build(trust), plan)
    _compare(shapes, net, str(weights))
    fill(net, load_file(weights))
    return net.eval()


def fill(net: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load tensors by name, with the versions that the network's own modules ask for."""
    state = net.state_dict()
    state.update(tensors)  # keeps the state's _metadata, which a plain dict would lack
    net.load_state_dict(state)


def _check_shapes(
    spec: Spec,
    plan: Plan,
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
    trust: tuple[str, ...],
) -> None:
    """Compare on the meta device first: a lying spec.json must not allocate what it asks for."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            net = replay(spec.build(trust), plan)
    except UsageError:
        raise
    except (RuntimeError, NotImplementedError):
        return  # a builder that needs real values; its sizes are compared after it is built
    _compare(shapes, net, where)


def _compare(shapes: Mapping[str, tuple[int, ...]], net: nn.Module, where: str) -> None:
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    wrong = [name for name in expected if shapes.get(name) != expected[name]]
    wrong += [name for name in shapes if name not in expected]
    if wrong:
        name = wrong[0]
        raise RunError(
            f"{where} does not fit its spec and plan: {name} is {shapes.get(name)}, "
            f"expected {expected.get(name)}; the folder mixes files of different networks"
        )


def _parse(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise RunError(f"{path} is too large for a description: not read")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): restore it or make it again") from None


def _dump(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
