"""What a run leaves behind is enough to feed its network, with and without this package."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import compressor
from compressor.data.digits import Digits

SMALL = (
    "model.width=0.25", "train.epochs=0", "finetune.epochs=0", "prune=none", "export.figures=false",
    "machine.progress=false", "machine.latency_seconds=0.02", "machine.accelerator=cpu",
    "paths.outputs=outputs",
)  # fmt: skip
TOLERANCE = (
    0.05  # of the spread of the logits: Pillow and torch resize to the same byte or the next
)


def run(*words):
    from compressor.run import main

    threads = torch.get_num_threads()
    try:
        assert main([*words, *SMALL, "hydra.run.dir=run"]) == 0
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on grey images, and one of them as a file."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("dataset=digits", "dataset.image_size=12")
    (pixels,) = Digits(image_size=8).pixels("test", torch.tensor([1]))
    Image.fromarray(pixels[0].numpy()).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A run on a folder of colour images whose file for ONNX takes bytes, and an image."""
    folder = tmp_path_factory.mktemp("photos")
    drawn = np.random.default_rng(0)
    for part, n in (("train", 8), ("test", 2)):
        for name in ("ant", "Käfer"):
            (folder / "set" / part / name).mkdir(parents=True)
            for i in range(n):
                path = folder / "set" / part / name / f"{i}.png"
                pixels = drawn.integers(0, 256, (5, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((60 + i, 48)).save(path)
    Image.open(path).resize((64, 90)).save(folder / "photo.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ("dataset=imagefolder", "dataset.root=set", "dataset.image_size=16")
        run(*words, "export.normalize=true")
    return folder


def told(folder):
    """How to feed the network, from each file that says it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "run" / "model.onnx"))
    metadata = session.get_modelmeta().custom_metadata_map
    yield {name: json.loads(text) for name, text in metadata.items()}
    for name in ("report.json", "model/spec.json"):
        yield json.loads((folder / "run" / name).read_text())


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_the_example_of_the_report_gives_the_networks_own_answer(
    name, request, monkeypatch, capsys
):
    folder = request.getfixturevalue(name)
    text = (folder / "run" / "report.md").read_text(encoding="utf-8")
    load, onnx = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(onnx.splitlines()) <= 10 and "compressor" not in onnx.replace(str(folder), "")
    monkeypatch.chdir(folder)
    capsys.readouterr()  # of the run itself
    scopes = []
    for code in (load, onnx):
        scopes.append({})
        exec(code, scopes[-1])
    own, other = (scope["logits"] for scope in scopes)
    answers = capsys.readouterr().out.splitlines()
    assert len(answers) == 2 and {*answers} <= {*scopes[0]["net"].classes}
    net = compressor.load(folder / "run")
    with torch.no_grad():
        own = own.detach()
        image = Image.open(folder / "photo.png")
        assert torch.equal(own, net(net.preprocess(image)[None]))
        error = (own - torch.from_numpy(other)).abs().max()
    assert error <= TOLERANCE * (own.max() - own.min())
    best, second = own.sort(descending=True).values[0, :2]
    # there is no tie that the tolerance could turn
    assert best - second > 2 * TOLERANCE * (own.max() - own.min())
    assert answers[0] == answers[1]


def test_the_example_answers_a_file_of_16_bits_as_the_network_does(photos, monkeypatch, capsys):
    text = (photos / "run" / "report.md").read_text(encoding="utf-8")
    _, onnx = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    drawn = np.random.default_rng(1).integers(0, 256, (90, 64), dtype=np.uint8)
    (photos / "wide").mkdir()
    Image.fromarray(drawn.astype(np.uint16) * 257).save(photos / "wide" / "photo.png")
    monkeypatch.chdir(photos / "wide")
    exec(onnx, scope := {})
    net = compressor.load(photos / "run")
    with torch.no_grad():
        own = net(net.preprocess(Image.fromarray(drawn))[None])
        assert torch.equal(own, net(net.preprocess(Image.open("photo.png"))[None]))
    error = (own - torch.from_numpy(scope["logits"])).abs().max()
    assert error <= TOLERANCE * (own.max() - own.min())


def test_every_file_says_the_same_of_grey_images(digits):
    for found in told(digits):
        assert found["classes"] == [str(number) for number in range(10)]
        assert found["preprocess"]["mode"] == "L" and found["preprocess"]["channels"] == "LLL"
        assert found["preprocess"] == compressor.load(digits / "run").preprocess.to_json()
    assert next(told(digits))["input"] == {
        "layout": "NCHW",
        "dtype": "float32",
        "value_range": "as after mean and std",
        "normalized_in_graph": False,
    }


def test_every_file_says_the_same_of_a_folder_and_that_bytes_are_taken(photos):
    for found in told(photos):
        assert found["classes"] == ["Käfer", "ant"]
        assert found["preprocess"]["resize_to"] == 18
        assert found["preprocess"] == compressor.load(photos / "run").preprocess.to_json()
    assert next(told(photos))["input"] == {
        "layout": "NCHW",
        "dtype": "uint8",
        "value_range": [0, 255],
        "normalized_in_graph": True,
    }


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_the_file_for_onnx_is_checked_on_the_images_of_the_test_part(name, request):
    report = json.loads((request.getfixturevalue(name) / "run" / "report.json").read_text())
    assert 0 <= report["parity"]["onnx"] < 1e-4
    assert report["parity"]["onnx_accuracy"] == report["points"]["final"]["accuracy"]


def test_normalising_in_a_file_that_is_not_written_is_refused(tmp_path, capfd):
    from compressor.run import main

    words = ("dataset=fake", "export.onnx=false", "export.normalize=true", *SMALL)
    assert main([*words, f"hydra.run.dir={tmp_path}"]) == 2
    assert "export.normalize=true is of model.onnx" in capfd.readouterr().err


def test_a_run_of_before_keeps_its_report(digits, tmp_path):
    from compressor.report import run as run_report

    report = json.loads((digits / "run" / "report.json").read_text())
    del report["preprocess"], report["classes"]
    (tmp_path / "model").mkdir()
    (tmp_path / "model.onnx").touch()
    (tmp_path / "report.json").write_text(json.dumps(report))
    run_report.write(tmp_path, draw=False)
    text = (tmp_path / "report.md").read_text()
    assert "compressor.load" in text and "preprocess" not in text
    assert "`model.onnx` is the same network" in text
