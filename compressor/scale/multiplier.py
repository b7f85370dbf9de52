"""Multipliers of width, depth and resolution.

Howard et al. MobileNets, 2017, arXiv:1704.04861, section 3.3 (alpha: width, rho: resolution);
depth as in EfficientNet (Tan, Le. ICML 2019, arXiv:1905.11946).
Run: compress-run model=mobilenet_v2 scale=multiplier scale.width=0.5 scale.resolution=0.571
"""

from collections.abc import Mapping

from compressor.errors import UsageError
from compressor.options import Factor, checked


class Multiplier:
    """Multiplies the model's own `width` and `depth` options and the image's side.

    Cost goes about as depth x width^2 x resolution^2, but not exactly: channels are rounded to
    multiples of 8, blocks to whole ones, and depthwise layers and the classifier go as width.
    """

    @checked("scale")
    def __init__(
        self, width: Factor = 1.0, *, depth: Factor = 1.0, resolution: Factor = 1.0
    ) -> None:
        self.factors = {"width": width, "depth": depth}
        self.resolution = resolution

    def scale(
        self, arguments: Mapping, input_size: tuple[int, int, int]
    ) -> tuple[dict, tuple[int, int, int]]:
        """Scaled builder arguments (a copy) and scaled (C, H, W)."""
        scaled = dict(arguments)
        for name, factor in self.factors.items():
            if factor == 1:
                continue
            if name in scaled:
                scaled[name] = scaled[name] * factor
            elif name in (nested := scaled.get("arguments") or {}):
                # model=custom keeps the keywords of a class of one's own in one mapping.
                scaled["arguments"] = {**nested, name: nested[name] * factor}
            else:
                raise UsageError(_cannot(name, factor))
        channels, height, width = input_size
        return scaled, (channels, self._side(height), self._side(width))

    def _side(self, pixels: int) -> int:
        # To 6 decimals first: floating noise must not decide a half.
        side = round(round(pixels * self.resolution, 6))
        if side < 1:
            raise UsageError(
                f"scale.resolution={self.resolution} leaves nothing of {pixels} pixels; raise it"
            )
        return side


def _cannot(option: str, factor: float) -> str:
    # Imported here: the list needs torch, a right command does not.
    from compressor.models import with_option

    return (
        f"scale.{option}={factor}: this model has no option '{option}'; "
        f"model={'|'.join(with_option(option))} have one, or set scale.{option}=1.0"
    )
