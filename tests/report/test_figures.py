import math

import pytest

from compressor.report import figures
from compressor.report.drawing import drawing
from compressor.report.sweep_figures import tradeoff


def drawn(*series):
    """The axes of losses by epoch, tamed; what is drawn without an outlier fills most of them."""
    with drawing(4, 3) as figure:
        axes = figure.add_subplot()
        for values in series:
            axes.plot(range(len(values)), values)
        figures._tame(axes)
        low, high = axes.get_ylim()
        return axes.get_yscale(), low, high, axes.get_title(loc="right")


USUAL = [2.3, 1.9, 1.6, 1.5, 1.4, 1.35]


def test_usual_losses_are_drawn_as_they_are():
    scale, low, high, note = drawn(USUAL, [value / 2 for value in USUAL])
    assert scale == "linear" and low < 0.7 and 2.3 < high < 2.6 and note == ""


@pytest.mark.parametrize("outlier", [1e3, 1e9, 3e38])
def test_a_loss_that_jumps_flattens_no_other(outlier):
    scale, low, high, note = drawn([*USUAL[:3], outlier, *USUAL[3:], math.inf, math.nan])
    assert scale == "log" and high < 1000
    # the usual ones take a tenth of the axis and more
    assert math.log(2.3 / 1.35) / math.log(high / low) > 0.08
    assert note == f"1 above, up to {outlier:.2g}"


def test_a_loss_that_falls_to_nothing_is_drawn_on_a_log_axis_and_whole():
    values = [2.3 * 0.5**epoch for epoch in range(14)]
    scale, low, high, note = drawn(values)
    assert scale == "log" and low < min(values) and high > 2.3 and note == ""


def test_losses_of_nothing_are_clipped_where_there_is_no_logarithm():
    scale, low, high, note = drawn([0.0, 1.0, 1.2, 1.1, 0.9, 500.0])
    assert scale == "linear" and low <= 0 and high <= 22 and note == "1 above, up to 5e+02"


def test_nothing_and_constant_losses_are_no_trouble():
    assert drawn([])[0] == drawn([math.nan])[0] == drawn([0.0, 0.0, 5.0])[0] == "linear"


def test_curves_of_made_images_are_called_agreement_with_the_teacher(tmp_path, monkeypatch):
    seen = {}

    def look(figure):
        seen["y"] = [axes.get_ylabel() for axes in figure.axes]
        seen["titles"] = [axes.get_title(loc="left") for axes in figure.axes]
        seen["legend"] = [text.get_text() for text in figure.legends[0].get_texts()]
        return b""

    monkeypatch.setattr(figures, "png", look)
    real = {"epoch": [1, 2], **{f"{part}_{name}": [0.5, 0.4]
            for part in ("train", "val") for name in ("loss", "accuracy")}}  # fmt: skip
    made = {"epoch": [1, 2], **{f"{part}_{name}": [0.5, 0.4]
            for part in ("made", "fresh_made") for name in ("loss", "agreement")}}  # fmt: skip
    figures.training({"train": real, "finetune": made}, tmp_path / "training.png")
    assert seen["y"] == ["loss", "", "accuracy", "agreement with the teacher"]
    assert seen["titles"] == ["train", "finetune", "", ""]
    assert seen["legend"] == [
        "training part", "validation part", "made images", "fresh made images",
    ]  # fmt: skip
    figures.training({"finetune": made}, tmp_path / "training.png")
    assert seen["y"] == ["loss", "agreement with the teacher"]


def test_many_notes_and_labels_leave_room_for_the_axes():
    """matplotlib's warning of a layout that was not applied would be an error here."""

    def spot(label, mean, steady):
        x, y = {"mean": mean, "interval": None}, {"mean": 0.9, "interval": 0.02}
        span = (0.7 * mean, 2.8 * mean)
        return {"label": label, "x": x, "y": y, "front": steady, "span": span, "steady": steady}

    spots = [spot(f"a long label of criterion {i}", 1 + i // 2, bool(i % 2)) for i in range(14)]
    titles = {"x_title": "latency", "y_title": "accuracy", "title": "Accuracy against latency"}
    assert tradeoff({"one": spots}, **titles, join=False)["png"]
    assert tradeoff({"one": spots, "two": spots}, **titles, join=False)["png"]
