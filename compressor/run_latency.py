"""Latency of the networks of one run, measured when its walk is done."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from compressor.artefact import Artefact
from compressor.experiment import Experiment
from compressor.latency import Clock, Conditions, Subject, dense_of


def of_run(
    experiment: Experiment, records: Sequence[Mapping[str, Any]], artefacts: Iterable[Artefact]
) -> tuple[dict[str, dict[str, Any]], bool]:
    """{"latency_ms", "latency_ratio"} of every point of a run; whether it was measured before."""
    machine = experiment.machine
    if not machine.latency_seconds:
        return {}, False
    subjects = {
        record["point"]: Subject.of(made, experiment.trust)
        for record, made in zip(records, artefacts, strict=True)
        if record["name"] != "pretrain"  # under its fresh head it is no point
    }
    dense = dense_of(subjects)
    conditions = Conditions(
        machine.latency_batch_size, torch.get_num_threads(), machine.latency_seconds
    )
    clock = Clock(conditions, experiment.cache, experiment.note)
    clock.measure((dense, subject) for subject in subjects.values())
    figures = {point: clock.figures(dense, subject) for point, subject in subjects.items()}
    return figures, not clock.timed
