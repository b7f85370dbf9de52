"""A network of about 10,000 parameters, run through the command line on a few made-up images."""

import contextlib
import io
import json
from pathlib import Path

import torch
from torch import nn

WORDS = (
    "model=custom", "model._target_=conformance.tiny.Tiny", "dataset=fake", "dataset.image_size=8",
    "dataset.samples=160", "train.epochs=2", "train.batch_size=32", "train.lr=0.02",
    "finetune.batch_size=32", "finetune.epochs=2", "recalibrate.images=64", "machine.threads=1",
    "machine.accelerator=cpu", "machine.latency_seconds=0", "export.enabled=true",
    "export.onnx=false", "export.figures=false",
)  # fmt: skip
TRUST = ["conformance.tiny.Tiny"]


class Tiny(nn.Module):
    """Plain, depthwise and grouped convolutions, and a linear layer, read channels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()

        def block(ins: int, outs: int, kernel: int = 3, **options: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(ins, outs, kernel, padding=kernel // 2, bias=False, **options),
                nn.BatchNorm2d(outs),
                nn.ReLU(),
            )

        self.stem = block(3, 16)
        self.plain = block(16, 16)
        self.depthwise = block(16, 16, stride=2, groups=16)
        self.point = block(16, 32, 1)
        self.grouped = block(32, 32, groups=4)
        self.flat = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.hidden = nn.Sequential(nn.Linear(128, 24), nn.ReLU())
        self.head = nn.Linear(24, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(self.depthwise(self.plain(self.stem(x))))
        return self.head(self.hidden(self.flat(self.grouped(x))))


def options(group: str) -> list[str]:
    """The options of a config group, as its folder lists them."""
    folder = Path(__file__).parents[2] / "configs" / group
    return sorted(path.stem for path in folder.glob("[a-z]*.yaml"))


def run(outputs: Path, name: str, *words: str, says: str = "") -> dict:
    """The report of a run in the folder `outputs`/`name`, with the cache in `outputs`.

    says: what it has to print.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = _main(outputs, name, words)
    assert code == 0 and says in said.getvalue(), said.getvalue()[-2000:]
    return json.loads((outputs / name / "report.json").read_text())


class _Until(io.StringIO):
    """Presses Ctrl-C when this text has been printed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.text in self.getvalue():
            self.text = "\0"
            raise KeyboardInterrupt
        return written


def interrupted(outputs: Path, name: str, after: str, *words: str) -> None:
    """A run that ends by Ctrl-C once it has printed `after`."""
    said = _Until(after)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        code = _main(outputs, name, words)
    assert code == 130, said.getvalue()[-2000:]


def _main(outputs: Path, name: str, words: tuple[str, ...]) -> int:
    from compressor.run import main

    folder = f"hydra.run.dir={outputs / name}"
    return main([*WORDS, *words, f"paths.outputs={outputs}", folder])


def figures(report: dict) -> dict:
    """What two runs of the same config and seed share."""
    points = {
        point: {name: value for name, value in found.items() if name != "latency_ms"}
        for point, found in report["points"].items()
    }
    return {"points": points, "kept": report["kept"]}
