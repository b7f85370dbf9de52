"""Where the walk of a run begins (the config group `start`).

none      with a training, from the weights that the model is built with
weights   with a state dict from a file, for the run's `model`
run       with the network of a finished run: its spec, its plan and its weights

Run: compress-run start=run start.path=outputs/runs/.../model stages=[compress,recalibrate,finetune]

The command line is checked from here before torch is imported, so that heavy imports are late.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import UsageError, foreign
from compressor.options import checked

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.artefact import Spec
    from compressor.data import Preprocess
    from compressor.surgery import Plan

_PICKLED = (".pt", ".pth")  # what torch.save writes
# Names under which a checkpoint holds its state dict beside other things.
_NESTED = ("state_dict", "model_state_dict", "model")
_SHOWN = 3  # names in a message
_DEEPEST = 4  # wrappers around a network whose prefixes are taken off
_DATA = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}  # an example by its number of classes


@dataclass(frozen=True, eq=False)
class Started:
    """The network that a walk begins with.

    spec: the dense network; plan: what was done to it; net: on the CPU, in eval mode, its values
    are final. told: what the report says of it, plain values. notices: a line each.
    """

    spec: Spec
    plan: Plan
    net: nn.Module
    told: Mapping[str, Any]
    notices: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    """How images were prepared for it, where that is known."""

    def in_key(self) -> dict[str, Any]:
        """All that the network is, and nothing of where it was found."""
        return {
            "spec": self.spec.to_json(),
            "plan": self.plan.to_json(),
            "masks": _digest(self.plan.tensors()),
            "tensors": _digest(self.net.state_dict()),
        }


class Start:
    """Where a walk begins; a class of its own for each option of `start`.

    What is empty here may be overridden, in full; nothing else.
    """

    kind = "none"
    own_network = False
    """Whether the network is another than the run's `model` says."""

    @property
    def given(self) -> bool:
        """Whether there is a network before the first stage."""
        return self.kind != "none"

    def check(self) -> None:
        """UsageError where what it names cannot be read; torch is not needed."""

    def check_model(self, target: str, options: Mapping[str, Any]) -> None:
        """UsageError where a typed `model` is another network; torch is not needed.

        target: dotted name of the builder, "" where none was typed. options: typed values below
        `model`, by dotted name.
        """

    def sources(self) -> dict[str, str]:
        """Digests of the files that it reads, by the key that names them."""
        return {}

    def read(self, asked: Spec, trust: tuple[str, ...]) -> Started | None:
        """The network, None where there is none.

        asked: what the run's `model` and data make together. trust: dotted names of classes of the
        user's own that may be built. Raises UsageError for what does not fit, RunError for damage.
        """
        return None


class InitialWeights(Start):
    """The first stage is a training."""


class WeightsFile(Start):
    """path: a state dict of the run's model, .safetensors, .pt or .pth."""

    kind = "weights"

    @checked("start")
    def __init__(self, path: str | None = None) -> None:
        self.path = path

    def check(self) -> None:
        path = _named(self.path, "start=weights needs the file", "weights.safetensors")
        if path.suffix.lower() not in (".safetensors", *_PICKLED):
            raise UsageError(
                f"start.path={path} is no file of weights by its name: give a .safetensors, .pt or "
                ".pth file, or start=run for the folder of a run"
            )
        if not path.is_file():
            raise UsageError(f"start.path={path} is no file: give the path of the weights")

    def sources(self) -> dict[str, str]:
        return _file_digest(self.path)

    def read(self, asked: Spec, trust: tuple[str, ...]) -> Started | None:
        import torch

        from compressor.artefact import fill
        from compressor.surgery import EMPTY_PLAN

        self.check()
        path = Path(str(self.path))
        with torch.random.fork_rng(devices=[]):
            net = asked.build(trust)
        found, notices = read_state(path)
        found, prefix = without_prefix(found, net.state_dict())
        if prefix:
            notices.append(f"start.path={path}: '{prefix}' was taken off the names of its tensors")
        check_fits(found, net.state_dict(), asked, path)
        if asked.arguments.get("pretrained"):
            notices.append("model.pretrained=true does nothing beside start=weights")
        fill(net, found)
        told = {"kind": self.kind, "path": str(path), "model": _model(asked), "cut": False}
        return Started(asked, EMPTY_PLAN, net.eval(), told, tuple(notices))


class FinishedRun(Start):
    """path: a run's folder, or the model/ folder in it."""

    kind = "run"
    own_network = True

    @checked("start")
    def __init__(self, path: str | None = None) -> None:
        self.path = path

    def check(self) -> None:
        path = _named(self.path, "start=run needs the folder of a run", "outputs/runs/.../model")
        if path.is_file():
            raise UsageError(
                f"start.path={path} is a file: give the folder of a finished run, or type "
                "start=weights for a file of weights"
            )
        if not path.is_dir():
            raise UsageError(f"start.path={path} is no folder: give that of a finished run")
        if not (self._folder / "manifest.json").is_file():
            raise UsageError(
                f"start.path={path} holds no network (no model/manifest.json): give the folder of "
                "a finished run; members of a sweep leave theirs with export.enabled=true"
            )

    def check_model(self, target: str, options: Mapping[str, Any]) -> None:
        try:
            spec = json.loads((self._folder / "spec.json").read_text(encoding="utf-8"))
            factory, arguments = str(spec["factory"]), dict(spec["arguments"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # a damaged folder is told when it is read
        options = dict(options)
        target = str(options.pop("_target_", target))
        if target and target != factory:
            raise UsageError(
                f"model={_short_name(target)} is another network than that of start.path="
                f"{self.path}, {foreign(_short_name(factory))}: leave model out"
            )
        for name, value in options.items():
            there: Any = arguments
            for part in name.split("."):
                there = there.get(part) if isinstance(there, dict) else None
            if there != value:
                raise UsageError(
                    f"model.{name}={value} is not what the network of start.path={self.path} was "
                    f"built with, {foreign(there)}: leave model.{name} out"
                )

    def sources(self) -> dict[str, str]:
        return {} if self.path is None else _file_digest(self._folder / "manifest.json")

    def read(self, asked: Spec, trust: tuple[str, ...]) -> Started | None:
        from compressor import artefact, models
        from compressor.data import Preprocess
        from compressor.surgery import EMPTY_PLAN

        self.check()
        folder = artefact.find(str(self.path))
        made = artefact.read(folder)
        self._check_data(made.spec, asked)
        own = [name for name in models.trusted(made.spec.factory) if name not in trust]
        if own:
            raise UsageError(
                f"start.path={self.path} holds the class {foreign(own[0])}, none of this tool's: "
                f"if you trust it, type model=custom model._target_={foreign(own[0])}"
            )
        net = made.network(trust)  # compared with the folder's list
        fed, _ = artefact.feeding(folder, made.spec)
        told = {
            "kind": self.kind,
            "path": str(self.path),
            "model": _model(made.spec),
            "cut": made.plan != EMPTY_PLAN,
        }
        notices = []
        if made.spec.factory != asked.factory:
            here, other = (_short_name(spec.factory) for spec in (made.spec, asked))
            notices.append(
                f"start=run: the network is {here}; recipes that follow the model are those of "
                f"model={other}, unless you type model={here}"
            )
        known = fed if isinstance(fed, Preprocess) else None
        return Started(made.spec, made.plan, net, told, tuple(notices), known)

    @property
    def _folder(self) -> Path:
        """The artefact's folder, as `artefact.find` has it."""
        folder = Path(str(self.path))
        inside = folder / "model"
        here = (folder / "manifest.json").exists()
        return inside if not here and (inside / "manifest.json").exists() else folder

    def _check_data(self, found: Spec, asked: Spec) -> None:
        if tuple(found.input_size) != tuple(asked.input_size):
            sizes = ["x".join(map(str, spec.input_size)) for spec in (found, asked)]
            raise UsageError(
                f"start.path={self.path} takes images of {sizes[0]}, and the data have {sizes[1]}: "
                f"type dataset.image_size={found.input_size[-1]} "
                f"dataset.channels={found.input_size[0]}"
            )
        if found.num_classes != asked.num_classes:
            raise UsageError(
                f"start.path={self.path} knows {_other_classes(found.num_classes, asked)}"
            )


def of(config: Mapping[str, Any]) -> Start:
    """The start of a composed config; one without the group begins with a training."""
    from compressor.instantiation import made

    tree = config.get("start")
    return made(tree, Start) if tree else InitialWeights()


def check_stages(start: Start, stages: Sequence[str]) -> None:
    """UsageError for a list of stages that cannot begin there."""
    names = list(stages)
    if not start.given and names[:1] != ["train"]:
        raise UsageError(
            f"stages={names} must begin with train: train.epochs=0 skips the training, "
            "pretrain=rotnet comes before it by itself; to begin with a network that is trained "
            "already type start=run start.path=FOLDER, or start=weights start.path=FILE"
        )
    if "train" in names and "compress" in names[: names.index("train")]:
        raise UsageError(
            f"stages={names} trains a cut network by the recipe of train: put train before "
            "compress, or type finetune"
        )


def check_groups(start: Start, config: Mapping[str, Any]) -> None:
    """UsageError for groups that a start, or a walk without train, excludes."""
    check_stages(start, config["stages"])
    if start.given and config["pretrain"]["pretext"] is not None:
        raise UsageError(
            f"pretrain makes weights to begin with, and start={start.kind} gives others: type "
            "pretrain=none, or start=none"
        )
    if start.own_network and not config["scale"]["_target_"].startswith("compressor.scale.none."):
        raise UsageError(
            f"scale builds another network, and start={start.kind} takes one as it is: type "
            "scale=none"
        )
    if "train" in config["stages"]:
        return
    if config["finetune"]["mode"] == "rewind":
        raise UsageError(
            "finetune=rewind goes back into the training of this run, which has none: type "
            "finetune=finetune, or put train first in stages"
        )
    if config["baselines"]:
        raise UsageError(
            "baselines=true compares with trainings by the recipe of train, which this run does "
            "not have: type baselines=false, or put train first in stages"
        )


# -- files of weights -----------------------------------------------------------------------------


def read_state(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file by name, and notices. UsageError: it is damaged, or holds other things.

    Nothing of a file is run: of what `torch.save` wrote, tensors and plain values alone are read.
    """
    if path.suffix.lower() in _PICKLED:
        return _read_pickled(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path), []
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"start.path={path} cannot be read ({foreign(_line(error))}): it is damaged, or no "
            ".safetensors file; fetch or save it again"
        ) from None


def _read_pickled(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch raises whatever its bytes lead to
        raise UsageError(
            f"start.path={path} cannot be read as tensors alone ({type(error).__name__}): it is "
            "damaged, or holds other objects, which are not opened because they can run code; "
            "save torch.save(net.state_dict(), FILE)"
        ) from None
    notices = []
    if isinstance(found, Mapping):
        nested = next((n for n in _NESTED if isinstance(found.get(n), Mapping)), None)
        if nested:
            found = found[nested]
            notices.append(f"start.path={path}: its weights are those under '{nested}'")
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"start.path={path} holds no state dict: save net.state_dict()")
    strange = [name for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if strange or not found:
        what = f"'{foreign(strange[0])}' beside tensors" if strange else "nothing"
        raise UsageError(f"start.path={path} holds {what}: save net.state_dict() alone")
    return dict(found), notices


def without_prefix(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """The tensors under the names that the network has for them, and what was taken off, or "".

    A wrapper such as DataParallel's puts `module.` before all names. Only a prefix of all names is
    taken off, and only where no name fits without.
    """
    names, prefix = dict(found), ""
    for _ in range(_DEEPEST):
        first = {name.partition(".")[0] for name in names}
        nested = all("." in name for name in names)
        if len(first) != 1 or not nested or not expected.keys().isdisjoint(names):
            break
        prefix += f"{next(iter(first))}."
        names = {name.partition(".")[2]: value for name, value in names.items()}
    if expected.keys().isdisjoint(names):
        return dict(found), ""  # it is another network's whatever is taken off
    return names, prefix


def check_fits(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], spec: Spec, path: Path
) -> None:
    """UsageError where names, shapes or kinds of numbers are not those of the network."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    both = [name for name in expected if name in found]
    odd = [name for name in both if found[name].shape != expected[name].shape]
    kinds = [name for name in both if _kind(found[name]) != _kind(expected[name])]
    if not (missing or extra or odd or kinds):
        return
    if not (missing or extra or kinds) and (other := _classes_of(odd, found, expected, spec)):
        raise UsageError(f"start.path={path} knows {_other_classes(other, spec)}")
    parts = [
        f"{len(names)} {what} ({_few(names)})"
        for names, what in ((missing, "missing"), (extra, "unexpected"), (kinds, "no such numbers"))
        if names
    ]
    if odd:
        shapes = [
            f"{foreign(name)} {list(found[name].shape)} for {list(expected[name].shape)}"
            for name in odd[:_SHOWN]
        ]
        more = ", ..." if len(odd) > _SHOWN else ""
        parts.append(f"{len(odd)} of another shape ({', '.join(shapes)}{more})")
    raise UsageError(
        f"start.path={path} does not fit model={_short_name(spec.factory)}: of its tensors "
        f"{'; '.join(parts)}; choose the model that it was saved from, with its options; a network "
        "that was cut begins by start=run start.path=FOLDER"
    )


def _classes_of(
    odd: Sequence[str],
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    spec: Spec,
) -> int | None:
    """The file's number of classes, where that is all in which tensors of odd shapes differ."""
    sizes = set()
    for name in odd:
        theirs, ours = found[name].shape, expected[name].shape
        if len(theirs) != len(ours) or theirs[1:] != ours[1:] or ours[0] != spec.num_classes:
            return None
        sizes.add(theirs[0])
    return sizes.pop() if len(sizes) == 1 else None


def _other_classes(theirs: int, asked: Spec) -> str:
    example = f", such as dataset={_DATA[theirs]}" if theirs in _DATA else ""
    return (
        f"{theirs} classes, and the data have {asked.num_classes}: choose the data of its "
        f"classes{example}, or another start"
    )


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(foreign, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


def _named(path: str | None, needed: str, example: str) -> Path:
    if not path:
        raise UsageError(f"{needed}: type start.path={example}")
    return Path(path)


def _model(spec: Spec) -> dict[str, Any]:
    """The network as a config's `model` has it."""
    return {"_target_": spec.factory, **spec.arguments}


def _short_name(factory: str) -> str:
    return factory.rpartition(".")[2]


def _file_digest(path: str | Path | None) -> dict[str, str]:
    from compressor.manifest import digest

    return {"start.path": digest(Path(path))} if path and Path(path).is_file() else {}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and bytes; the order of the names does not count."""
    import torch

    whole = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        whole.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return whole.hexdigest()


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
