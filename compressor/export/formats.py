"""The formats that a config asks for, read once when the experiment begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressor.errors import UsageError
from compressor.export import Exporter
from compressor.export.network import Network
from compressor.export.onnx import Onnx

# What any run may have left in its folder, whatever it was asked for.
FILES = (*Network.files, *Onnx.files)


@dataclass(frozen=True, kw_only=True)
class Export:
    """formats: in the order in which they are written. enabled: whether they are, None for a single
    run alone; figures: whether figures are drawn.
    """

    formats: tuple[Exporter, ...]
    enabled: bool | None = None
    figures: bool = True

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> "Export":
        """options: configs/export."""
        formats: list[Exporter] = [Network()]
        if options["onnx"]:
            formats.append(Onnx(normalize=options["normalize"]))
        elif options["normalize"]:
            raise UsageError(
                "export.normalize=true is of model.onnx, which export.onnx=false leaves out: type "
                "one of the two"
            )
        return cls(formats=tuple(formats), enabled=options["enabled"], figures=options["figures"])

    def writes(self, member: bool) -> bool:
        """member: whether the run is one of a multirun."""
        return self.enabled if self.enabled is not None else not member

    def draws(self, member: bool) -> bool:
        return self.figures and not (member and self.enabled is None)
