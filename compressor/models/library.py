"""Any classification network that torchvision or timm builds by name.

Run: compress-run model=timm model.name=tinynet_e
     compress-run model=torchvision model.name=densenet121 dataset.image_size=224
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from compressor.errors import RunError, UsageError, foreign
from compressor.models._construction import class_layers, describe, initialise
from compressor.models._published import load_published

_NOTHING: Mapping = MappingProxyType({})
# What the two libraries call files, addresses and weights to load: a config or an artefact that
# names one could read any file or reach any host.
_LOADING = ("weights", "pretrained", "checkpoint", "cache_dir", "hf_hub", "url", "file")
_OURS = {
    "num_classes": "dataset.num_classes",
    "in_chans": "dataset.channels",
    "features_only": "a classification network",
}


def torchvision(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    name: str,
    pretrained: bool = False,
    arguments: Mapping = _NOTHING,
) -> nn.Module:
    """torchvision's classification network `name`; `arguments` go to its builder.

    The first convolution is replaced when the images have other than three channels.
    """
    from torchvision import models

    refuse_loading(arguments, "model.arguments")
    _refuse_path(name, "torchvision")
    _check_name(name, models.list_models(module=models), "torchvision classification")
    options = dict(arguments)
    if name in ("googlenet", "inception_v3"):
        # Their own default, said aloud: left unsaid it warns about a change to come.
        options.setdefault("init_weights", True)
    net = _call(models.get_model, name, weights=None, num_classes=num_classes, **options)
    fresh = []
    if input_size[0] != 3:
        fresh.append(_replace_input(net, input_size[0], name))
    heads = class_layers(net, num_classes)
    if pretrained:
        load_published(net, name, fresh=(*heads, *fresh))
    return describe(net, num_classes, input_size, heads[-1] if heads else "")


def timm(
    num_classes: int,
    input_size: tuple[int, int, int],
    *,
    name: str,
    pretrained: bool = False,
    arguments: Mapping = _NOTHING,
) -> nn.Module:
    """timm's network `name`, with or without a weight tag; `arguments` go to its builder."""
    import timm as library

    refuse_loading(arguments, "model.arguments")
    _refuse_path(name, "timm")
    architecture, _, tag = str(name).partition(".")
    renamed = [architecture] if library.is_model(architecture) else []
    _check_name(architecture, [*library.list_models(), *renamed], "timm")
    if tag:
        tagged = library.list_models(f"{architecture}.*", pretrained=True)
        _check_name(name, [architecture, *tagged], "timm")
    if pretrained and not library.is_model_pretrained(name):
        raise UsageError(f"timm publishes no weights for {name}; set model.pretrained=false")
    sizes = {"num_classes": num_classes, "in_chans": input_size[0]}
    # Always built first without weights, so that a wrong option is not taken for a bad download.
    net = _call(library.create_model, name, pretrained=False, **sizes, **arguments)
    if pretrained:
        try:
            net = library.create_model(name, pretrained=True, **sizes, **arguments)
        except Exception as error:  # a download can fail in as many ways as there are networks
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RunError(
                f"the published weights of {name} could not be fetched ({reason}); "
                "set model.pretrained=false or fill timm's hub cache"
            ) from error
    heads = class_layers(net, num_classes)
    return describe(net, num_classes, input_size, heads[-1] if heads else "")


def refuse_loading(arguments: Mapping, where: str) -> None:
    """UsageError for keywords that load a file or weights, or that are set elsewhere."""
    for key in arguments:
        if str(key).startswith(_LOADING):
            raise UsageError(
                f"{where}.{foreign(key)} is refused: weights, files and addresses are never taken "
                "from a model's arguments; use model.pretrained=true for the published weights"
            )
        if key in _OURS:
            raise UsageError(f"{where}.{key} is refused: it follows from {_OURS[key]}")


def _refuse_path(name: str, what: str) -> None:
    if any(part in str(name) for part in ("/", "\\", ":", "..")):
        raise UsageError(
            f"model.name={foreign(name)} looks like a path or a hub address; "
            f"give the plain name of a {what} network"
        )


def _check_name(name: str, known: Iterable[str], what: str) -> None:
    known = sorted(known)
    if name not in known:
        raise UsageError(
            f"model.name={foreign(name)} is not a {what} network; "
            f"{_hint(str(name)[:100], known, what)}"
        )


def _hint(name: str, known: list[str], what: str) -> str:
    """Where the name is the other library's, else the nearest ones, else how to see them all."""
    from timm import list_models as timms
    from torchvision.models import list_models as torchvisions

    there, others = ("torchvision", torchvisions) if what == "timm" else ("timm", timms)
    if name in others():
        return f"{there} has it: type model={there}"
    near = _near(name, known)
    if near:
        return f"did you mean {', '.join(near)}?"
    home = "timm" if what == "timm" else "torchvision.models"
    return (
        f"none of its {len(known):,} has a name like this; they are listed by python -c "
        f"'from {home} import list_models; print(list_models())'"
    )


def _near(name: str, known: list[str]) -> list[str]:
    """Of the same family first: resnet_foo is meant as a resnet, not as a tresnet."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close and difflib.SequenceMatcher(None, name, close[0]).ratio() > 0.9:
        return close  # a slip of one letter
    family = re.match(r"[a-z]*", name.lower())[0]
    kin = [each for each in known if family and re.match(r"[a-z]*", each)[0] == family]
    found = difflib.get_close_matches(name, kin, n=5, cutoff=0.0) if kin else close
    return sorted(found, key=lambda each: (len(each), each)) if kin else found


def _call(factory, name: str, **options) -> nn.Module:
    try:
        try:
            return factory(name, **options)
        except NotImplementedError:
            # RegNet computes its widths with tensors: not possible where the meta device is set.
            place = torch.get_default_device()
            with torch.device("cpu"):
                return factory(name, **options).to(place)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{name} cannot be built with model.arguments and these sizes: "
            f"{foreign((str(error).splitlines() or [type(error).__name__])[0])}"
        ) from error


def _replace_input(net: nn.Module, channels: int, name: str) -> str:
    """Swap the first convolution for one that takes `channels`; returns its path."""
    convolutions = ((p, m) for p, m in net.named_modules() if isinstance(m, nn.Conv2d))
    path, old = next(convolutions, ("", None))
    if old is None or old.in_channels != 3 or old.groups != 1:
        raise UsageError(
            f"model.name={name} takes three-channel images only and its first layer is no plain "
            f"convolution; set dataset.channels=3 (got {channels})"
        )
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        old.dilation,
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    net.set_submodule(path, initialise(new))
    return path
