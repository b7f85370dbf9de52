"""Runs of the command line for a benchmark, each in a process forked from one that has imported.

A run of a small network takes seconds, and so do its imports; a fork shares them and nothing else.
The process that forks must compute nothing before: threads do not survive a fork.
"""

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


_WHAT_RUNS_IMPORT = (
    "compressor.pipeline", "compressor.preview", "compressor.report.run", "compressor.run",
    "compressor.stages._fit", "compressor.stages.compress", "hydra._internal.core_plugins",
    "sklearn.datasets", "torch.utils.tensorboard",
)  # fmt: skip


def report_of(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """The report.json of `compress-run words` in this folder. Ends the benchmark if it failed."""
    with tempfile.TemporaryFile("w+") as said:
        process = os.fork()
        if not process:
            code = 1
            try:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                code = _run([*words, f'hydra.run.dir="{folder}"'])
            finally:
                os._exit(code)
        _, status = os.waitpid(process, 0)
        if status:
            said.seek(0)
            sys.exit(f"compress-run {' '.join(words)}\n{said.read()[-3000:]}")
    return json.loads((folder / "report.json").read_text())


def _run(words: list[str]) -> int:
    from compressor.run import main

    code = main(words)
    sys.stdout.flush()
    return code


def preload() -> None:
    """Imports what every run imports anyway."""
    for name in _WHAT_RUNS_IMPORT:
        importlib.import_module(name)
