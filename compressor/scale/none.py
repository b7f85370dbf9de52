"""No scaling: the network and the images as they are.

Run: compress-run scale=none
"""

from collections.abc import Mapping


class NoScale:
    """The identity; takes the group's shared options and ignores them."""

    def __init__(self, **shared: object) -> None:
        pass

    def scale(
        self, arguments: Mapping, input_size: tuple[int, int, int]
    ) -> tuple[dict, tuple[int, int, int]]:
        """A copy of `arguments`, and `input_size` (C, H, W)."""
        return dict(arguments), tuple(input_size)
