import pytest

from compressor import preview
from compressor.report.setting import model_name


def row(name, epochs=None, reused=False, skipped=False, rehearsals=(0, 0.0)):
    return {
        "name": name, "title": name, "epochs": epochs, "reused": reused, "skipped": skipped,
        "rehearsals": rehearsals, "key": "k",
    }  # fmt: skip


COMING = {
    "model": "resnet20",
    "start": None,
    "stages": [
        row("train", 30, reused=True),
        row("compress"),
        row("recalibrate", skipped=True),
        row("finetune", 10),
    ],  # fmt: skip
    "dense": {"macs": 1000, "params": 2_345_678},
    "scaled": None,
    "cut": {"macs": (1000, 523)},
    "labelled": None,
    "flip_rate": 0.0,
    "resolved": {},
    "seconds": 12.3,
}


@pytest.mark.parametrize(
    ("factory", "options", "name"),
    [
        ("compressor.models.resnet20", {"width": 0.5}, "resnet20"),
        ("compressor.models.timm", {"name": "tinynet_e", "pretrained": False}, "tinynet_e (timm)"),
        ("compressor.models.torchvision", {"name": "densenet121"}, "densenet121 (torchvision)"),
        ("my_package.MyNet", {"arguments": {}, "name": "x"}, "MyNet"),
    ],
)
def test_a_network_is_told_by_its_own_name_not_by_its_library(factory, options, name):
    assert model_name(factory, options) == name


def test_the_plan_of_a_member_is_one_line():
    assert preview.line(COMING) == (
        "resnet20: train reused, compress, finetune (10 epochs); 0.523 of the dense MACs; "
        "training takes about 12 s"
    )
    nothing = {**COMING, "cut": None, "seconds": None, "flip_rate": 0.36}
    nothing["stages"] = [{**stage, "skipped": True, "reused": False} for stage in COMING["stages"]]
    assert preview.line(nothing) == ("resnet20: no stage runs; 36.0% of the train labels changed")


def test_the_plan_of_a_dense_network_tells_its_figures_and_keeps_lines_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stages = [row("train", 20, rehearsals=(4, 60.0)), *COMING["stages"][1:]]
    dense = {**COMING, "stages": stages, "cut": None, "input_size": [3, 8, 8]}
    dense |= {"scaled": {"macs": 0.25, "params": 0.5}, "notices": ["scale.width=[x] " + "y" * 60]}
    dense["disk"] = {"needed": 2_345_678, "free": 4.5e9, "folder": "outputs/[cache]"}
    dense["data"] = {"train": 1, "val": 2, "test": 3}
    dense["resolved"] = {"train.epochs": {"value": 60, "reason": "900 images"}}
    preview.show(dense)
    lines = capsys.readouterr().out.splitlines()
    assert "train.epochs=60 (900 images)" in lines
    assert "MACs 1,000, parameters 2,345,678" in lines
    assert "scaled to 0.250 of the model's MACs and 0.500 of its parameters, measured" in lines
    assert "takes about 2.3MB of disk, and outputs/[cache] has 4.5GB left" in lines
    assert "train after 4 trainings (60 epochs) that its remedy learns from" in lines
    assert "note: scale.width=[x] " + "y" * 60 in lines
