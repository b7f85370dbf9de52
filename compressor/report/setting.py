"""What a run or a sweep was made on: model, data, command, and what all its members share."""

from collections.abc import Mapping
from typing import Any

_LIBRARIES = ("compressor.models.timm", "compressor.models.torchvision")


def model_name(factory: str, options: Mapping[str, Any]) -> str:
    """The network by the name it is known by: "resnet20", "tinynet_e (timm)", "MyNet"."""
    last = factory.rpartition(".")[2]
    name = options.get("name")
    return f"{name} ({last})" if factory in _LIBRARIES and name else last
