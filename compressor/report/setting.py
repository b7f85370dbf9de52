"""What a run or a sweep was made on: model, data, command, and what all its members share."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# where things lie changes no figure, and a report travels
_PLACES = ("paths.", "cache.", "hydra.run.", "hydra.sweep.")
_UNSAID = (*_PLACES, "machine.")  # what members run on is part of the command, and no setting
_LIBRARIES = ("compressor.models.timm", "compressor.models.torchvision")


def model_name(factory: str, options: Mapping[str, Any]) -> str:
    """The network by the name it is known by: "resnet20", "tinynet_e (timm)", "MyNet"."""
    last = factory.rpartition(".")[2]
    name = options.get("name")
    return f"{name} ({last})" if factory in _LIBRARIES and name else last


def _model(report: Mapping[str, Any]) -> str:
    """The network of a run; one that began with another run's is that one's."""
    begun = report.get("start") or {}
    options = begun.get("model") or report["config"].get("model") or {}
    return model_name(str(options.get("_target_", "")), options)


def data_name(report: Mapping[str, Any]) -> str:
    """The data by their file's name, with the size of an input and the noise on them."""
    config = report["config"]
    dataset = config.get("dataset") or {}
    parts = [_file(dataset.get("_target_"))]
    # the config's is that of before `scale`; earlier reports tell no other
    fed = (report.get("preprocess") or {}).get("input_size") or [None, dataset.get("image_size")]
    if fed[-1]:
        channels = dataset.get("channels")
        parts.append(f"{fed[-1]} pixels a side" + ", grey" * (channels == 1))
    noise = config.get("noise") or {}
    if _file(noise.get("_target_")) not in ("none", ""):
        rate = f" {noise['rate']}" if noise.get("rate") is not None else ""
        parts.append(f"noise {_file(noise['_target_'])}{rate}")
    return ", ".join(part for part in parts if part)


def facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """What a reader of a sweep's report asks for first: {name: words}."""
    reports = [
        row["report"]
        for row in summary["members"]
        if isinstance(row["report"].get("config"), Mapping)
    ]
    configs = [report["config"] for report in reports]
    models = map(_model, reports)
    starts = [report["start"] for report in reports if report.get("start")]
    found = {
        "Compared with": summary["baseline"].name if summary["comparisons"] else "",
        "Model": _each(models),
        "Start": _each(f"{found['kind']} {found['path']}" for found in starts),
        "Data": _each(map(data_name, reports)),
        "Command": command(summary),
        "The same in all members": " ".join(_constants(summary["rows"], configs)),
    }
    return {name: text for name, text in found.items() if text}


def command(summary: Mapping[str, Any]) -> str:
    """What was typed, to be pasted into a shell, without where results go; of a folder that was
    not noted, what its one member was.
    """
    try:
        noted = json.loads((Path(summary["folder"]) / "sweep.json").read_text(encoding="utf-8"))
        flags = noted.get("flags", ["-m"])  # earlier releases did not note them
        words = ["compress-run", *map(str, [*flags, *noted["command"]])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if len(summary["rows"]) != 1 or not summary["members"]:
            return ""
        words = shlex.split(str(summary["members"][0]["report"].get("command", "")))
    return shlex.join(word for word in words if not word.lstrip("+").startswith(_PLACES))


def _constants(
    rows: Sequence[Mapping[str, Any]], configs: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What was typed for all members alike, and the lengths of the trainings."""
    typed = [set(row["overrides"].items()) for row in rows if row["overrides"]]
    same = set.intersection(*typed) if typed and len(typed) == len(rows) else set()
    order = rows[0]["overrides"] if rows else {}
    found = [
        f"{name}={value}"
        for name, value in order.items()
        if (name, value) in same and not name.startswith(_UNSAID)
    ]
    for stage in ("train", "finetune"):
        epochs = {(config.get(stage) or {}).get("epochs") for config in configs}
        name = f"{stage}.epochs"
        if len(epochs) == 1 and None not in epochs and name not in order:
            found.append(f"{name}={next(iter(epochs))}")
    return found


def _each(names: Iterable[str]) -> str:
    return " | ".join(name for name in dict.fromkeys(names) if name)


def _file(target: Any) -> str:
    """compressor.data.digits.Digits -> digits; a class of a user's own by its name."""
    parts = str(target or "").split(".")
    return parts[-2] if parts[0] == "compressor" and len(parts) > 2 else parts[-1]
