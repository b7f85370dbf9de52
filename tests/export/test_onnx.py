import logging
import sys
import warnings

import pytest
import torch
from torch import nn

from compressor.data import Preprocess
from compressor.errors import RunError
from compressor.export.onnx import export_onnx, judge
from compressor.tasks.classification import Classification

SIZE = (3, 8, 8)
PREPROCESS = Preprocess(SIZE, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "RGB", "both_sides", 8)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        return self.fc(self.drop(x))


class Unstable(Tiny):
    """Computes something else when it is exported."""

    def forward(self, x):
        return super().forward(x) * (1.001 if torch.compiler.is_exporting() else 1.0)


class Untraceable(Tiny):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return path, export_onnx(net, SIZE, path)


@pytest.fixture(scope="module")
def of_bytes(net, tmp_path_factory):
    """A file that normalises its images itself."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    first = PREPROCESS.normalisation()
    return path, export_onnx(net, SIZE, path, first=first, about={"classes": '["é"]', "x": "1"})


def loader(images, targets, batch=5):
    index = torch.arange(len(images))
    cuts = [slice(i, i + batch) for i in range(0, len(images), batch)]
    return [(images[cut], targets[cut], index[cut]) for cut in cuts]


def accuracy(path, batches):
    return judge(path, batches, Classification(), 4)


def test_onnxruntime_agrees_with_the_network_to_float_precision(exported):
    path, error = exported
    assert 0 <= error < 1e-5
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_the_file_takes_any_batch_size_and_names_no_source_file(exported):
    import onnxruntime

    path, _ = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    for batch in (1, 7):
        (logits,) = session.run(None, {taken.name: torch.zeros(batch, *SIZE).numpy()})
        assert logits.shape == (batch, 4)
    assert b".py" not in path.read_bytes()


def test_accuracy_of_the_file_is_that_of_the_network(net, exported):
    images = torch.randn(23, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        targets = net(images).argmax(1)
    assert accuracy(exported[0], loader(images, targets)) == 1.0
    targets[:6] = (targets[:6] + 1) % 4
    assert accuracy(exported[0], loader(images, targets)) == 17 / 23


def test_a_file_that_normalises_takes_bytes_and_answers_as_the_network(net, of_bytes):
    import onnxruntime

    path, error = of_bytes
    assert 0 <= error < 1e-5
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert taken.type == "tensor(uint8)" and taken.shape[1:] == [3, 8, 8]
    drawn = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (7, *SIZE), dtype=torch.uint8, generator=drawn)
    with torch.no_grad():
        expected = net(PREPROCESS(pixels))
    (logits,) = session.run(None, {taken.name: pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)
    assert accuracy(path, loader(pixels, expected.argmax(1))) == 1.0


def test_the_metadata_of_the_file_are_what_was_given(exported, of_bytes):
    import onnxruntime

    def metadata(path):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.get_modelmeta().custom_metadata_map

    assert metadata(of_bytes[0]) == {"classes": '["é"]', "x": "1"}
    assert metadata(exported[0]) == {}


def test_accuracy_of_no_images_is_refused(exported):
    with pytest.raises(RunError, match="at least one image"):
        accuracy(exported[0], [])


def test_export_leaves_the_network_and_the_global_state_as_they_were(tmp_path):
    torch.manual_seed(0)
    net = Tiny().train()
    net.bn.eval()
    net.fc.weight.requires_grad_(False)
    net(torch.randn(2, *SIZE)).sum().backward()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    state, level = torch.get_rng_state(), logging.root.manager.disable
    export_onnx(net, SIZE, tmp_path / "model.onnx")
    assert net.training and net.drop.training and not net.bn.training
    assert not net.fc.weight.requires_grad and net.conv.weight.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert grads.keys() == {n for n, p in net.named_parameters() if p.grad is not None}
    assert all(torch.equal(grads[n], net.get_parameter(n).grad) for n in grads)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.is_grad_enabled() and logging.root.manager.disable == level


def test_a_network_made_under_inference_mode_exports_without_a_word(tmp_path, capfd):
    with torch.inference_mode():
        net = Tiny().eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert export_onnx(net, SIZE, tmp_path / "model.onnx") < 1e-5
    assert not net.training and net.conv.weight.is_inference()
    assert capfd.readouterr() == ("", "")
    assert caught == []


def test_a_file_that_computes_something_else_is_refused_and_not_left_behind(tmp_path):
    with pytest.raises(RunError, match="differ from the network's by") as caught:
        export_onnx(Unstable().eval(), SIZE, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_is_one_line(tmp_path, capfd):
    with pytest.raises(RunError, match="'Untraceable' cannot be exported") as caught:
        export_onnx(Untraceable().eval(), SIZE, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert "export.onnx=false" in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_way_out(net, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RunError, match=f"pip install {name}"):
        export_onnx(net, SIZE, tmp_path / "model.onnx")


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(RunError, match="onnxruntime cannot open it") as caught:
        accuracy(path, [])
    assert "\n" not in str(caught.value)
