"""A run's formats: chosen once, written and judged one after the other."""

import json

import doubles
import pytest
import torch
from conformance import tiny
from torch import nn

from compressor.artefact import Artefact, Spec
from compressor.errors import UsageError
from compressor.export import Finished, formats
from compressor.export.formats import Export
from compressor.export.onnx import Onnx

OPTIONS = {"enabled": None, "onnx": True, "figures": True, "normalize": False}


def names(**changes):
    return [exporter.name for exporter in Export.read({**OPTIONS, **changes}).formats]


def test_the_options_are_a_list_of_formats():
    assert names() == ["network", "onnx"]
    assert names(onnx=False) == ["network"]
    assert Export.read({**OPTIONS, "normalize": True}).formats[1].normalize
    with pytest.raises(UsageError, match="export.onnx=false leaves out"):
        names(onnx=False, normalize=True)


@pytest.mark.parametrize(
    ("enabled", "member", "writes", "draws"),
    [
        (None, False, True, True), (None, True, False, False), (True, True, True, True),
        (False, False, False, True),
    ],
)  # fmt: skip
def test_members_of_a_multirun_leave_files_where_they_are_told_to(enabled, member, writes, draws):
    export = Export.read({**OPTIONS, "enabled": enabled})
    assert (export.writes(member), export.draws(member)) == (writes, draws)
    assert not Export.read({**OPTIONS, "figures": False}).draws(False)


def test_the_folder_of_a_run_holds_every_format_and_none_of_an_earlier_run(tmp_path, monkeypatch):
    def read(options):
        return Export(formats=(*real(options).formats, doubles.Card()), figures=False)

    real = formats.Export.read
    monkeypatch.setattr(formats.Export, "read", read)
    words = ("prune=none", "finetune.epochs=0", "train.epochs=0")
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "old.txt").touch()
    (tmp_path / "run" / "model.onnx").touch()
    report = tiny.run(tmp_path, "run", *words)
    params = report["points"]["final"]["params"]
    assert report["parity"]["card"] == params
    assert (tmp_path / "run" / "card.txt").read_text() == f"{params} parameters\n"
    assert not (tmp_path / "run" / "model" / "old.txt").exists()
    assert not (tmp_path / "run" / "model.onnx").exists()
    assert json.loads((tmp_path / "run" / "model" / "metrics.json").read_text())["params"] == params


class ByName(nn.Module):
    """Answers a dictionary, as torchvision's segmentation networks do."""

    def __init__(self):
        super().__init__()
        self.out, self.aux = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return {"aux": self.aux(x), "out": self.out(x)}


class OfTheOut(doubles.Segmentation):
    def outputs(self, net_out):
        return {"pixels": net_out["out"]}


def test_a_file_of_several_outputs_is_judged_in_the_form_of_the_networks_answer(tmp_path):
    data = doubles.Quarters(
        image_size=8, num_classes=3, channels=3, validation=0.25, split_seed=0,
        augment={"crop": 0, "flip": False},
    )  # fmt: skip
    net, task = ByName().eval(), OfTheOut()

    class Held(Finished):
        def network(self):
            return net

    spec = Spec("none", {}, (3, 8, 8), 3, task.name)
    made = Artefact(tmp_path, "k", spec)
    finished = Held(made=made, data=data, task=task, eval_batch_size=16)
    onnx = Onnx()
    assert onnx.write(finished, tmp_path)["onnx"] < 1e-4
    meter = task.metrics(3)["mean_iou"]
    for images, masks, _ in data.loader("test", 32):
        with torch.no_grad():
            meter.update(task.outputs(net(images)), masks)
    found = onnx.check(finished, tmp_path)
    assert found == {"onnx_mean_iou": pytest.approx(float(meter.compute()), abs=0.01)}
