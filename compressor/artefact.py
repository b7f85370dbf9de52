"""Artefacts: folders that hold one network, how it came about, and what it was measured to be.

    spec.json            factory and arguments of the DENSE network, input size, classes, task;
                         in a run's model/ folder how images are prepared for it and the classes'
                         names as well, which are no part of what it is built by
    plan.json            typed operations that were done to it: cuts in original indices first
    plan.safetensors     the bits of its masks, where it has any
    weights.safetensors  the tensors of the network as it is now
    notes.json           what the stage that made it has to say: the picked epoch, kept widths ...
    lineage.json         role -> key of the artefact that played it
    metrics.json         figures measured on the reloaded network (in a run's model/ folder)
    manifest.json        size and SHA-256 of the files above: what is not in it is not trusted

Loading = build, replay the plan, load the tensors (`rebuilding`). No pickle, no module is ever
imported because a file names it: builders are those of `compressor.models`, other classes must be
trusted by name. Only what the manifest lists is read, and a symbolic link in its place is not.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor import manifest
from compressor.data import Preprocess, Unrecorded
from compressor.errors import RunError, UsageError, foreign
from compressor.manifest import NAME as MANIFEST
from compressor.manifest import digest, read_json, text_of, write_json
from compressor.surgery import EMPTY_PLAN, Plan

FORMAT = 1
WEIGHTS = "weights.safetensors"
PLAN_TENSORS = "plan.safetensors"
EXTRAS = "extras"  # a folder of what is worth a look and no part of the network
_REQUIRED = ("spec.json", "plan.json", WEIGHTS)
_OPTIONAL = ("lineage", "notes", "metrics")


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

    def handed_on(self) -> "Spec":
        """The spec of the network that a training leaves, where that is of a form of its own."""
        from compressor import models

        return replace(self, arguments=models.handed_on(self.factory, self.arguments))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "input_size": list(self.input_size)}

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Spec":
        # late: the models import torchvision
        from compressor.models._bounds import check_plain

        try:
            if data["format"] != FORMAT:
                raise UsageError(
                    f"{where} has format {foreign(data['format'])}, this version reads {FORMAT}: "
                    "use the version of compressor that wrote it"
                )
            check_plain(data["arguments"], f"{where}: arguments")
            size = tuple(data["input_size"])
            if not all(type(n) is int for n in (*size, data["num_classes"])):
                raise TypeError("input_size and num_classes are whole numbers")
            spec = cls(
                factory=str(data["factory"]),
                arguments=dict(data["arguments"]),
                input_size=size,
                num_classes=data["num_classes"],
                task=str(data["task"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"{where} does not describe a network ({foreign(repr(error))})"
            ) from None
        if spec.num_classes < 1:
            raise UsageError(f"{where}: num_classes={spec.num_classes} must be at least 1")
        if len(size) != 3 or min(size) < 1:
            raise UsageError(
                f"{where}: input_size={foreign(list(size))} is not channels, height, width"
            )
        return spec


@dataclass(frozen=True)
class Artefact:
    """One finished stage: where it lies and what it holds."""

    folder: Path
    key: str
    spec: Spec
    plan: Plan = EMPTY_PLAN
    lineage: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    sealed: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """The weights' entry in the manifest, until they have been compared with it."""

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def network(self, trust: Iterable[str] = ()) -> nn.Module:
        """The network in eval mode, read from the folder."""
        from compressor.rebuilding import rebuild

        return rebuild(self, tuple(trust))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The size of every tensor, read from the file's header alone."""
        from compressor.rebuilding import header

        return {name: shape for name, (_, shape) in header(self.weights).items()}


def write(
    folder: Path,
    *,
    spec: Spec,
    plan: Plan,
    net: nn.Module,
    lineage: Mapping[str, str],
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write `net` and what is known of it into an existing folder (no manifest yet).

    Raises RunError for a network that does not keep to its plan.
    """
    from safetensors.torch import save_file

    if reason := plan.broken(net):
        raise RunError(f"the network does not keep to its plan: {reason}")
    write_json(folder / "spec.json", spec.to_json())
    write_json(folder / "plan.json", plan.to_json())
    if beside := plan.tensors():
        save_file({name: t.cpu().contiguous() for name, t in beside.items()}, folder / PLAN_TENSORS)
    write_json(folder / "lineage.json", dict(lineage))
    write_json(folder / "notes.json", dict(notes or {}))
    save_file(stored(net), folder / WEIGHTS)


def stored(net: nn.Module) -> dict[str, torch.Tensor]:
    """The network's tensors by name, as a file of weights holds them.

    Cloned: tied tensors share memory, which the format refuses; they are tied again on loading.
    """
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in net.state_dict().items()
    }


def read(folder: Path, key: str = "", *, checked: bool = False) -> Artefact:
    """The artefact that lies in `folder`.

    checked: whether its files have been compared with its manifest. If not, what is read here is,
    and the weights are when the network is made: their size is known to be right by then.
    """
    files = manifest.listing(folder)
    for name in _REQUIRED:
        if name not in files:
            raise UsageError(f"{folder} holds no network (its manifest lists no {name})")
    found = {}
    for name in ("spec", "plan", *_OPTIONAL):
        found[name] = _read_listed(folder, f"{name}.json", files, checked)
    return Artefact(
        folder=folder,
        key=key or folder.name,
        spec=Spec.from_json(found.pop("spec"), str(folder / "spec.json")),
        plan=Plan.from_json(found.pop("plan"), _plan_tensors(folder, files, checked)),
        sealed=None if checked else files[WEIGHTS],
        **found,
    )


def _plan_tensors(
    folder: Path, files: Mapping[str, Any], checked: bool
) -> Mapping[str, torch.Tensor]:
    """What lies beside plan.json; {} where the manifest lists no such file."""
    if PLAN_TENSORS not in files:
        return {}
    # late: it imports torchvision
    from compressor.rebuilding import plan_tensors

    sealed = None if checked else files[PLAN_TENSORS]
    return plan_tensors(folder / PLAN_TENSORS, folder / WEIGHTS, sealed)


def _read_listed(folder: Path, name: str, files: Mapping[str, Any], checked: bool) -> Any:
    """The values of a description; {} where the manifest lists none."""
    if name not in files:
        return {}
    if not checked:
        manifest.check(folder, name, files[name], most=manifest.MAX_JSON_BYTES)
    return read_json(folder / name)


def load(path: str | Path, trust: Iterable[str] = ()) -> nn.Module:
    """The network of an artefact folder, on the CPU, in eval mode, ready to run.

    path: an artefact folder (`outputs/runs/.../model`) or the run folder that holds it.
    trust: dotted names of classes outside compressor, torchvision and timm that may be built.
    Raises UsageError for a folder that is none of ours or asks for something that is not trusted,
    RunError for a damaged one.

    Beside the module tree it has `preprocess`, a PIL image or uint8 pixels to its input, and
    `classes`, the list of the classes' names (None where the folder tells none). A network with
    such attributes of its own keeps those: `feeding` reads the folder's.
    """
    made = read(find(path))
    net = made.network(trust)
    preprocess, classes = feeding(made.folder, made.spec)
    own = dir(net)
    for name, fact in (("preprocess", preprocess), ("classes", classes)):
        if name not in own:
            setattr(net, name, fact)
    return net


def add_feeding(folder: Path, preprocess: Preprocess, classes: Iterable[str]) -> None:
    """Note in a folder that is not sealed yet what its network takes and answers."""
    path = folder / "spec.json"
    facts = {"preprocess": preprocess.to_json(), "classes": list(classes)}
    write_json(path, {**read_json(path), **facts})


def feeding(folder: Path, spec: Spec) -> tuple[Preprocess | Unrecorded, list[str] | None]:
    """How images are prepared for a folder's network, and the names of its classes."""
    path = folder / "spec.json"
    data = read_json(path)
    preprocess: Preprocess | Unrecorded = Unrecorded(str(path))
    if data.get("preprocess") is not None:
        preprocess = Preprocess.from_json(data["preprocess"], str(path))
        if preprocess.input_size != spec.input_size:
            raise UsageError(
                f"{path}: its 'preprocess' makes images of {list(preprocess.input_size)}, the "
                f"network takes {list(spec.input_size)}: restore the folder or make it again"
            )
    classes = data.get("classes")
    if classes is None:
        return preprocess, None
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not named or len(classes) != spec.num_classes:
        raise UsageError(
            f"{path}: 'classes' is no list of {spec.num_classes} names: restore the folder or "
            "make it again"
        )
    return preprocess, classes


def content(made: Artefact) -> dict[str, str]:
    """Digests of what the network is; how it is fed and what its classes are called is left out."""
    spec = hashlib.sha256(text_of(made.spec.to_json()).encode()).hexdigest()
    names = [*_REQUIRED[1:], *([PLAN_TENSORS] if made.plan.tensors() else [])]
    return {"spec.json": spec, **{name: digest(made.folder / name) for name in names}}


def find(path: str | Path) -> Path:
    """An artefact's folder, or the one that a run folder holds."""
    folder = Path(path)
    if not (folder / MANIFEST).exists() and (folder / "model" / MANIFEST).exists():
        return folder / "model"
    return folder


def fill(net: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load tensors by name, with the versions that the network's own modules ask for."""
    state = net.state_dict()
    state.update(tensors)  # keeps the state's _metadata, which a plain dict would lack
    net.load_state_dict(state)
