"""Every command of the README, on small data; the two set-ups are tried on a fresh clone."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from compressor.cache import entries
from compressor.cache_command import main as cache_main
from compressor.report_command import main as report_main

README = Path(__file__).parents[1] / "README.md"
SMALL = (
    "train.epochs=1", "finetune.epochs=1", "dataset=fake", "dataset.image_size=16",
    "dataset.samples=40", "train.batch_size=16", "finetune.batch_size=16", "prune.images=32",
    "machine.progress=false", "machine.latency_seconds=0.05", "export.onnx=false",
    "export.figures=false",
)  # fmt: skip


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


def commands():
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("scripts/")]


OTHERS = {"compress-report": report_main, "compress-cache": cache_main}


def first_key():
    return next(entries(Path("outputs/cache")))[0]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_ends_well(command, tmp_path, monkeypatch):
    from compressor.run import main

    program, *words = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    if program != "compress-run":
        assert (
            main(["-m", "prune=none,random", *SMALL, "hydra.sweep.dir=outputs/multiruns/mine"]) == 0
        )
        # SWEEP_FOLDER and the like stand for what a user has
        known = {"SWEEP_FOLDER": "outputs/multiruns/mine", "KEY": first_key()}
        assert OTHERS[program]([known.get(word, word) for word in words]) == 0
        return
    small = [word for word in SMALL if word.split("=")[0] not in {w.split("=")[0] for w in words}]
    if "model=resnet50" in words:
        small.append("model.width=0.125")
    threads = torch.get_num_threads()
    try:
        assert main([*words, *small]) == 0
    finally:
        torch.set_num_threads(threads)


def test_the_python_of_the_readme_loads_a_finished_run(tmp_path, monkeypatch):
    from compressor.run import main

    monkeypatch.chdir(tmp_path)
    assert main(["prune=weight_sum", "hydra.run.dir=run", *SMALL]) == 0
    (code,) = blocks("python")
    scope = {}
    exec(code.replace("outputs/runs/<day>/<time>", "run"), scope)
    assert isinstance(scope["net"], torch.nn.Module) and not scope["net"].training


def test_every_method_of_the_table_is_there():
    rows = re.findall(r"\| `(\w+)=(\w+)` \| `(compressor/[\w/]+\.py)` \|", README.read_text())
    assert len(rows) >= 8
    for group, option, file in rows:
        assert (README.parent / file).is_file(), file
        assert (README.parent / "configs" / group / f"{option}.yaml").is_file(), option
