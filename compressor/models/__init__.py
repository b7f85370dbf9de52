"""Networks by name. `__all__` lists the builders, and is the list of what an artefact may name.

Every builder is called as name(num_classes, input_size, **options), input_size = (C, H, W).
"""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from compressor.errors import UsageError, foreign
from compressor.models._bounds import MAX_LIBRARY_NUMBER, MAX_NUMBER, check_numbers
from compressor.models._construction import class_layers, describe
from compressor.models.library import refuse_loading, timm, torchvision
from compressor.models.mobilenet import mobilenet_v2
from compressor.models.resnet import resnet18, resnet34, resnet50
from compressor.models.resnet_cifar import resnet20, resnet56
from compressor.models.shallow_mimic import check_bottleneck, shallow_mimic
from compressor.models.vgg import vgg16_bn

__all__ = [
    "mobilenet_v2",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
    "resnet56",
    "shallow_mimic",
    "timm",
    "torchvision",
    "vgg16_bn",
]

_PREFIX = "compressor.models."
_LIBRARIES = ("timm", "torchvision")  # they build whatever network is named


def build(
    factory: str,
    arguments: Mapping,
    num_classes: int,
    input_size: Sequence[int],
    trust: Sequence[str] = (),
    *,
    download: bool = True,
) -> nn.Module:
    """The dense network that `factory` names, in train mode.

    factory: "compressor.models.<name>" with <name> in `__all__`, else the dotted name of a class
    (or of a function that returns a module), which must stand in `trust`. Such a class is given
    `num_classes` and `input_size` where its signature takes them. download: False ignores
    `pretrained`, for callers that fill the weights themselves: nothing is fetched then.
    """
    options = {str(key): value for key, value in arguments.items() if key != "_target_"}
    input_size = _check_sizes(num_classes, input_size)
    if not isinstance(factory, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", factory):
        raise UsageError(
            f"model._target_='{foreign(factory)}' is not a dotted name; "
            f"use {_PREFIX}<name> with one of {', '.join(__all__)}"
        )
    name = factory.removeprefix(_PREFIX)
    if factory == _PREFIX + name and name in __all__:
        if not download and "pretrained" in options:
            options["pretrained"] = False
        _check_options(name, options)
        check_numbers(options, MAX_LIBRARY_NUMBER if name in _LIBRARIES else MAX_NUMBER)
        return globals()[name](num_classes, input_size, **options)
    if factory not in ((trust,) if isinstance(trust, str) else trust):
        near = difflib.get_close_matches(name, __all__, n=1)
        hint = f" (near: {_PREFIX}{near[0]})" if near and factory.startswith(_PREFIX) else ""
        raise UsageError(
            f"{foreign(factory)} is not one of this tool's networks{hint}; if you trust it, "
            f'call compressor.load(path, trust=["{foreign(factory)}"])'
        )
    return _build_trusted(factory, options, num_classes, input_size)


def trusted(factory: str) -> tuple[str, ...]:
    """What the user's own command trusts by naming this class as its model."""
    return () if factory.startswith(_PREFIX) else (factory,)


def is_known(factory: str) -> bool:
    """Whether this tool's own code builds the network: its cuts are tested, layer by layer."""
    name = factory.removeprefix(_PREFIX)
    return factory == _PREFIX + name and name in __all__ and name not in _LIBRARIES


def import_library(factory: str) -> None:
    """What the builder is going to import, which takes seconds and is no part of building."""
    name = factory.removeprefix(_PREFIX)
    if factory == _PREFIX + name and name in __all__:
        importlib.import_module("timm" if name == "timm" else "torchvision.models")


def with_option(option: str) -> list[str]:
    """Names of the builders that take `option`, sorted."""
    builders = {name: inspect.signature(globals()[name]).parameters for name in __all__}
    return sorted(name for name, parameters in builders.items() if option in parameters)


def full_arguments(name: str, arguments: Mapping, key: str) -> dict:
    """A builder's options with those that are not given at their defaults, as its YAML has them.

    key: where `name` was typed, for the message.
    """
    if name not in __all__:
        near = difflib.get_close_matches(str(name), __all__, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"{key}.model={name} is not one of this tool's networks; {hint}it has "
            f"{', '.join(__all__)}"
        )
    _check_options(name, arguments)
    parameters = inspect.signature(globals()[name]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    full = {**defaults, **arguments}
    # of plain values, as in a spec's file
    return {n: dict(v) if isinstance(v, Mapping) else v for n, v in full.items()}


def handed_on(factory: str, arguments: Mapping) -> dict:
    """The options of the network that a training leaves, where that has a form of its own.

    A bottleneck that is multiplied out once it is trained is none afterwards.
    """
    if factory == _PREFIX + "shallow_mimic" and arguments.get("fold", True):
        return {**arguments, "bottleneck": 0}
    return dict(arguments)


def check_trained(factory: str, arguments: Mapping, input_size: tuple[int, int, int]) -> None:
    """Refuse a form that is for the training's sake alone and does it none."""
    if factory == _PREFIX + "shallow_mimic":
        check_bottleneck(input_size, **_given(shallow_mimic, arguments))


def _given(builder: Callable, arguments: Mapping) -> dict:
    """A builder's own options by name, its defaults where they are not given."""
    own = inspect.signature(builder).parameters.values()
    defaults = {p.name: p.default for p in own if p.kind is p.KEYWORD_ONLY}
    return {**defaults, **{k: v for k, v in arguments.items() if k in defaults}}


def _check_sizes(num_classes: int, input_size: Sequence[int]) -> tuple[int, int, int]:
    if not _is_count(num_classes, MAX_NUMBER):
        raise UsageError(
            f"num_classes={foreign(num_classes)} is not a positive integer up to {MAX_NUMBER:,}"
        )
    size = tuple(input_size) if isinstance(input_size, Sequence) else ()
    if len(size) != 3 or not all(_is_count(side, MAX_LIBRARY_NUMBER) for side in size):
        raise UsageError(
            f"input_size={foreign(input_size)} is not (channels, height, width) in positive "
            f"integers up to {MAX_LIBRARY_NUMBER:,}"
        )
    return size


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _check_options(name: str, options: Mapping) -> None:
    parameters = inspect.signature(globals()[name]).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option[:100], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise UsageError(f"model.{foreign(option)} is not an option of {name}; {hint}")
    required = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    for option in required:
        if not options.get(option):
            raise UsageError(f"model={name} needs model.{option}=<a name the library knows>")


def _build_trusted(
    factory: str, options: dict, num_classes: int, input_size: tuple[int, int, int]
) -> nn.Module:
    target = _import(factory)
    parameters = inspect.signature(target).parameters
    # configs/model/custom.yaml keeps a class's own keywords in one mapping.
    if "arguments" not in parameters and isinstance(options.get("arguments"), Mapping):
        nested = options.pop("arguments")
        options.update(nested)
    if factory.split(".")[0] in ("torchvision", "timm"):
        refuse_loading(options, "model.arguments")
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "num_classes" in parameters or open_ended:
        options.setdefault("num_classes", num_classes)
    if "input_size" in parameters:
        options.setdefault("input_size", input_size)
    try:
        inspect.signature(target).bind(**options)
        net = target(**options)
    except (TypeError, ValueError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{factory} cannot be built with {foreign(sorted(options))}: {foreign(line)}"
        ) from error
    if not isinstance(net, nn.Module):
        raise UsageError(
            f"{factory} returned a {type(net).__name__}; name a torch.nn.Module subclass "
            "or a function that returns one"
        )
    heads = class_layers(net, num_classes)
    return describe(net, num_classes, input_size, heads[-1] if heads else "")


def _import(factory: str) -> Callable[..., nn.Module]:
    """The class or function behind a trusted dotted name; UsageError when it is no network."""
    parts = factory.split(".")
    found, depth = None, 0
    for depth in range(len(parts), 0, -1):
        module = ".".join(parts[:depth])
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise UsageError(f"importing {module} for {factory} failed: {error}") from error
        except (ImportError, SyntaxError) as error:
            raise UsageError(f"importing {module} for {factory} failed: {error}") from error
    for part in parts[depth:]:
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    # A loader of the standard library or of torch runs what a file says: no trust covers that.
    homes = {parts[0], str(getattr(found, "__module__", None)).split(".")[0]} - {"None"}
    loader = not homes.isdisjoint({"torch", *sys.stdlib_module_names})
    if found is None or inspect.ismodule(found):
        raise UsageError(
            f"{factory} cannot be imported; check the name, and that its folder is on PYTHONPATH"
        )
    if loader or isinstance(found, type) or not callable(found):
        raise UsageError(f"{factory} is not a network: name a torch.nn.Module subclass")
    return found
