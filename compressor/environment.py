"""What a result was made with: versions, commit, processor."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "torchvision", "pytorch-lightning", "hydra-core", "omegaconf", "timm", "numpy",
    "scikit-learn", "torchmetrics", "safetensors", "onnx", "onnxruntime",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions of the packages that decide figures, the source's commit, and the machine."""
    import torch

    from compressor import version

    return {
        "compressor": version.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git(Path(__file__).resolve().parent.parent),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(source: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that runs; None for an installed wheel."""
    if not (source / ".git").exists():
        return None
    try:
        commit = _run(source, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_run(source, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _run(source: Path, *arguments: str) -> str:
    command = ["git", "-C", str(source), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
