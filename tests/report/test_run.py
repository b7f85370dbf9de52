import ast
import io
import json
import re
import struct

import pytest
from rich.console import Console

from compressor.errors import RunError
from compressor.report import run, sentences


def printed(renderable, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_a_run_folder_gets_its_report_and_three_figures(tmp_path, a_run):
    a_run(tmp_path)
    run.write(tmp_path)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["channels.png", "points.png", "training.png"]
    for name in names:
        width, height = png_size(tmp_path / "figures" / name)
        assert 600 < width < 3000 and 400 < height < 1500
    text = (tmp_path / "report.md").read_text()
    assert all(f"](figures/{name})" in text for name in names)


def test_the_report_states_figures_exactly_and_against_dense(tmp_path, a_run):
    a_run(tmp_path)
    run.write(tmp_path, draw=False)
    text = (tmp_path / "report.md").read_text()
    assert "compress-run prune=thinet prune.ratio=0.5 seed=0" in text
    assert (
        "Final network: 0.500 of the dense MACs and 0.500 of the dense parameters, "
        "test accuracy 0.9700 (-0.0100 against dense)." in text
    )
    assert (
        "| final | 0.9700 | 0.0300 | 500,000 0.50x | 10,000 0.50x | 41.92 kB "
        "| 6 (5.5-7.25) | 0.500 [0.490, 0.510] |" in text
    )
    assert "| `layer2.0.conv1` | 32 | 16 | 50.0% |" in text
    assert "Kept: 168 of 336 channels; 9 of 9 layers listed were cut" in text
    assert "| recalibrate | reused | 0.5 |" in text
    assert "commit 0123abcd, with uncommitted changes" in text
    assert "torch 2.15.0" in text and "timm" not in text
    assert not (tmp_path / "figures").exists() and "figures/" not in text


def test_the_report_says_how_to_load_only_what_is_there(tmp_path, a_run):
    a_run(tmp_path)
    run.write(tmp_path, draw=False)
    assert "compressor.load" not in (tmp_path / "report.md").read_text()
    (tmp_path / "model").mkdir()
    (tmp_path / "model.onnx").touch()
    run.write(tmp_path, draw=False)
    text = (tmp_path / "report.md").read_text()
    assert f'compressor.load("{tmp_path}/model")' in text
    assert "`model.onnx` is the same network" in text


def test_the_line_that_loads_the_network_is_python_whatever_the_folder_is_called(tmp_path, a_run):
    folder = tmp_path / 'z"q\\tx'
    folder.mkdir()
    a_run(folder)
    (folder / "model").mkdir()
    run.write(folder, draw=False)
    (line,) = re.findall(
        r"^net = compressor\.load\((.*)\)  #", (folder / "report.md").read_text(), re.M
    )
    assert ast.literal_eval(line) == str(folder / "model")


def test_trainings_without_epochs_and_uncut_networks_leave_their_figures_out(tmp_path, a_run):
    report = a_run(tmp_path, epochs=0)
    report["widths"], report["ratio"], report["kept"] = {}, None, {}
    for point in report["points"].values():
        point["latency_ms"] = point["latency_ratio"] = None
    (tmp_path / "report.json").write_text(json.dumps(report))
    run.write(tmp_path)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["points.png"]
    text = (tmp_path / "report.md").read_text()
    assert "Kept: every channel" in text and "## Kept channels" not in text
    assert text.count("| - | - |") == len(report["points"]) and "Latency" not in text


def test_further_rounds_and_odd_history_cells_are_drawn(tmp_path, a_run):
    report = a_run(tmp_path)
    points = dict(report["points"])
    final = points.pop("final")
    points |= {"round2/compressed": final, "round2/recalibrated": final, "final": final}
    report["points"] = points
    report["history"]["round2-finetune"] = "history/odd.csv"
    (tmp_path / "history" / "odd.csv").write_text("epoch,train_loss,val_loss\n0,1.5,\n1,nan,x\n")
    (tmp_path / "report.json").write_text(json.dumps(report))
    run.write(tmp_path)
    assert len(list((tmp_path / "figures").iterdir())) == 3
    assert "round2/recalibrated" in printed(run.table(report), width=90)


def test_the_terminal_table_fits_80_columns(a_report, tmp_path):
    report = a_report()
    report["points"]["dense"] |= {"macs": 4_089_284_608, "params": 25_557_032}
    report["points"]["final"] |= {"macs": 1_822_031_872, "params": 12_381_864}
    report["points"]["final"]["latency_ms"] |= {"median": 115.62, "low": 110.2, "high": 131.4}
    lines = printed(run.table(report, tmp_path / "[kd]")).splitlines()
    row = next(line for line in lines if line.startswith("final"))
    assert row.split() == [
        "final", "0.9700", "0.0300", "1.82G", "0.45x", "12.4M", "0.48x",
        "41.9kB", "116", "0.50x±2%",
    ]  # fmt: skip
    text = " ".join(" ".join(lines).split())
    assert "ratio removed 0.5, asked 0.5" in text
    assert "Time: train 61.5 s, compress 2.2 s, recalibrate reused, finetune 2 min 10 s" in text
    assert "3 min 20 s in all" in text
    assert "[kd]" in text


def test_an_unsteady_latency_is_called_so_wherever_it_stands(tmp_path, a_run):
    report = a_run(tmp_path)
    final, compressed = (report["points"][name] for name in ("final", "compressed"))
    final["latency_ratio"] |= {"median": 0.7, "low": 0.3, "high": 2.5, "steady": False}
    final["latency_ms"]["steady"] = compressed["latency_ms"]["steady"] = False
    (tmp_path / "report.json").write_text(json.dumps(report))
    run.write(tmp_path, draw=False)
    text = (tmp_path / "report.md").read_text()
    assert "| 6 (5.5-7.25) unsteady | 0.700 [0.300, 2.500] unsteady |" in text
    # milliseconds may be unsteady where the ratio is not
    assert "| 6 (5.5-7.25) unsteady | 0.500 [0.490, 0.510] |" in text
    assert "The ratio of final is unsteady: nothing can be concluded from it" in text
    printed_ = printed(run.table(report))
    rows = [line.split() for line in printed_.splitlines()]
    assert next(row for row in rows if row[:1] == ["final"])[-2:] == ["6", "unsteady"]
    assert next(row for row in rows if row[:1] == ["compressed"])[-2:] == ["~6", "0.50x±2%"]
    assert max(map(len, printed_.splitlines())) <= 80


def test_sizes_read_with_units():
    assert run.si(4_089_284_608) == "4.089 G"
    assert run.si(999) == "999"
    assert run.si(0) == "0"
    assert run.si(None) == "-"
    assert run.si(999_600, 3) == "1000 k"
    assert run.significant(12345.6) == "12346"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is missing"),
        ("{", "is damaged"),
        ('{"schema_version": 2, "points": {"dense": {}}}', "schema_version 2"),
        ('{"schema_version": 1, "points": {}}', "has no points"),
        ("[]", "schema_version None"),
    ],
)
def test_a_report_that_cannot_be_read_is_one_line(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(RunError, match=reason) as caught:
        run.write(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_report_says_how_a_budget_of_latency_was_met(a_report):
    report = {**a_report(), "budget": {"latency": 0.5}}
    report["allocation"] = {"latency": {"share": 0.52, "interval": [0.5, 0.54]}}
    chosen = (
        "Budget of latency: asked 0.5 of the dense network's, measured 0.520 [0.500, 0.540] when "
        "the widths were chosen."
    )
    assert sentences.budget(report) == chosen
    final = report["points"]["final"]["latency_ratio"]
    final |= {"median": 0.61, "low": 0.6, "high": 0.62}
    missed = " The final measurement misses that: 0.610 [0.600, 0.620], 22% more than asked; "
    assert sentences.budget(report).startswith(chosen + missed)
    assert sentences.budget(report) in printed(run.table(report), 1000)
    final["steady"] = False  # nothing can be concluded from it
    assert sentences.budget(report) == chosen
    report["widths"]["layer1.0.conv1"] = [16, 1]
    thin = " The budget took 1 of 9 layers to the least width, 1 channel (layer1.0.conv1)."
    assert sentences.budget(report) == chosen + thin
    del report["allocation"]["latency"]["interval"]
    assert "measured 0.520 when" in sentences.budget(report)
    del report["budget"]  # a report of an earlier release
    assert sentences.budget(report) == ""
