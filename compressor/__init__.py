"""compressor: one sentence of overrides names a whole network-compression experiment.

Run `compress-run --help`; load what a run saved with `compressor.load(path)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.version import __version__

if TYPE_CHECKING:
    import os

    import torch

__all__ = ["__version__", "load"]


def load(path: str | os.PathLike[str], trust: Sequence[str] = ()) -> torch.nn.Module:
    """The network saved at `path` (a run's `model` folder), ready to use, in eval mode.

    `net.preprocess` makes its input of a PIL image or uint8 pixels; `net.classes` has the names.
    trust: dotted names of network classes outside this package that may be built from the folder.
    """
    # torch takes seconds to import, and the command line answers without it
    from compressor.artefact import load as load_artefact

    return load_artefact(path, trust=trust)
