"""Runs of a task whose targets are no classes: no artefact of labels, and nobody reads any.

Their targets go from the data to the loss. What acts on the label of an image is refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from compressor.data import ImageData
from compressor.errors import UsageError
from compressor.stages.noise import CLEAN, Labels
from compressor.tasks import Task


def no_labels(data: ImageData) -> Labels:
    """In the place of labels: one class for every image of the train part, and nothing wrong."""
    same = torch.zeros(data.size("train"), dtype=torch.long)
    return Labels(CLEAN, same, same, torch.eye(1, dtype=torch.float64))


def check(config: Mapping[str, Any], task: Task) -> None:
    """Refuse what acts on labels where the task has none."""
    wishes = [] if task.labelled else list(_wishes(config))
    if wishes:
        raise UsageError(
            f"task={task.name} has no label an image, and what was asked for acts on labels: type "
            f"{' '.join(wishes)}"
        )


def _wishes(config: Mapping[str, Any]) -> Iterator[str]:
    """What to type in the place of each option that reads labels."""
    for group, null in (("noise", "none.NoNoise"), ("robust", "none.CrossEntropy")):
        if config[group]["_target_"] != f"compressor.{group}.{null}":
            yield f"{group}=none"
    if config["robust"].get("label_smoothing"):
        yield "robust.label_smoothing=0"
    if config["pretrain"]["pretext"] is not None:
        yield "pretrain=none"
    plain = {
        "dataset": {"labelled_fraction": 1.0, "sampler": "none"},
        "train": {"class_weights": "none"},
        "finetune": {"class_weights": "none", "clean_fraction": 1.0, "labels": "auto"},
        "distill": {"sampler": "none"},
    }
    for group, values in plain.items():
        for name, null in values.items():
            if config[group][name] != null:
                yield f"{group}.{name}={null}"
    if config["baselines"]:
        yield "baselines=false"
