"""Every command of the README, on small data; the two set-ups are tried on a fresh clone."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from compressor.cache_command import main as cache_main
from compressor.eviction import entries
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
    Image.new("RGB", (16, 16), (200, 10, 10)).save("photo.png")
    scope = {}
    exec(code.replace("outputs/runs/<day>/<time>", "run"), scope)
    assert isinstance(scope["net"], torch.nn.Module) and not scope["net"].training
    assert scope["logits"].shape == (1, len(scope["net"].classes))


def test_every_method_of_the_table_is_there():
    rows = re.findall(r"\| `(\w+)=(\w+)` \| `(compressor/[\w/]+\.py)` \|", README.read_text())
    assert len(rows) >= 8
    for group, option, file in rows:
        assert (README.parent / file).is_file(), file
        assert (README.parent / "configs" / group / f"{option}.yaml").is_file(), option


# -- the short Chinese one ------------------------------------------------------------------------

SHORT = README.with_name("README.zh.md")


def test_the_short_readme_says_that_it_is_one_and_holds_what_it_says():
    text = SHORT.read_text(encoding="utf-8")
    about = text.split("##")[0]
    assert "摘要" in about and "内容一致" not in text
    # commands, what a run leaves, sweeps, methods and limits are here, the rest is there
    assert re.findall(r"^## (.*?)(?:：.*)?$", text, re.M) == [
        "两条命令", "运行结果", "扫描", "方法", "添加方法", "限制",
    ]  # fmt: skip
    assert {"Wrong labels", "Measured", "Add a method"} <= set(
        re.findall(r"^## (.*)$", README.read_text(), re.M)
    )


def table(path):
    """The words of the commands in the table of methods."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    spans = [span for line in lines for span in re.findall(r"`([^`]*=[^`]*)`", line)]
    return {word for span in spans for word in span.split()}


def test_the_short_readme_names_the_methods_that_the_other_names_and_every_option_there_is():
    from compressor.configuration import config_dir

    here, there = table(SHORT), README.read_text(encoding="utf-8")
    assert not [word for word in here if word not in there]
    unnamed = {"none", "by_dataset"}
    for group in ("prune", "distill", "noise", "robust", "pretrain"):
        options = {path.stem for path in (config_dir() / group).glob("[a-z]*.yaml")} - unnamed
        options -= {"bootstrap"}  # the common file of two
        assert {f"{group}={name}" for name in options} <= here


def test_every_command_of_the_short_readme_is_one_of_the_others():
    there = {" ".join(command.split()) for command in commands()}
    blocks_ = re.findall(r"^```sh\n(.*?)^```", SHORT.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line.split("#")[0].split() for block in blocks_ for line in block.splitlines()]
    words = {" ".join(line) for line in lines if line and not line[0].startswith("scripts/")}
    assert words <= there
