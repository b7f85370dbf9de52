"""The folder that a run leaves behind: report.json, the network, its exports and its curves."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compressor import label_record, latency, manifest
from compressor.artefact import EXTRAS, Artefact
from compressor.cache import is_full, key_of
from compressor.errors import RunError, UsageError
from compressor.explain import Subjects
from compressor.explain.entries import FIGURES
from compressor.export import Finished
from compressor.export.formats import FILES
from compressor.verdicts import full_line

if TYPE_CHECKING:
    from compressor.experiment import Experiment

T = TypeVar("T")
SCHEMA_VERSION = 1
EXPLAIN = "explain"  # a folder a probe
# The points that every report has, with the stage that makes each.
_POINTS = {"dense": "train", "compressed": "compress", "recalibrated": "recalibrate"}


def make(run_dir: Path) -> None:
    """Make the run folder, or say at once that it cannot be written."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        probe = run_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"cannot write to {run_dir} ({error.strerror}): set paths.outputs= or hydra.run.dir= "
            "to a folder that can be written"
        ) from None


@contextmanager
def room(run_dir: Path) -> Iterator[None]:
    """What is written into the run folder: a full disk is told in one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UsageError) or not is_full(error, run_dir):
            raise
        raise RunError(full_line(str(run_dir))) from error


def report(
    experiment: "Experiment",
    command: str,
    records: list[dict[str, Any]],
    artefacts: list[Artefact],
    latencies: Mapping[str, Any],
) -> dict[str, Any]:
    """The report of a finished walk. latencies: `run_latency.of_run`'s, by point."""
    from compressor.environment import environment

    measured = [
        {**made.metrics, **latencies.get(record["point"], latency.NOTHING)}
        for record, made in zip(records, artefacts, strict=True)
    ]
    points = _at_points(records, measured)
    notes = {r["point"]: made.notes for r, made in zip(records, artefacts, strict=True)}
    final = artefacts[-1]
    cuts = [
        made.notes
        for record, made in zip(records, artefacts, strict=True)
        if record["name"] == "compress" and not record["skipped"]
    ]
    cut: Mapping[str, Any] = cuts[-1] if cuts else {}
    selection = {"statistics": cut["statistics"]} if "statistics" in cut else {}
    if "seconds" in cut:
        selection["seconds"] = round(sum(notes["seconds"] for notes in cuts), 3)
    ordered = [*_POINTS]
    ordered += [name for name in points if name not in (*ordered, "final")] + ["final"]
    whole = unscaled(experiment)
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "seed": experiment.seed,
        "config": dict(experiment.config),
        "resolved": experiment.resolved,
        "headline": dict(zip(("name", "direction"), experiment.task.headline, strict=True)),
        "stages": records,
        "points": {name: points[name] for name in ordered},
        **({"start": dict(experiment.started.told)} if experiment.started else {}),
        **({"unscaled": whole} if whole else {}),
        "kept": final.plan.kept,
        "widths": cut.get("widths", {}),
        "ratio": cut.get("ratio"),
        "budget": cut.get("budget"),
        "allocation": cut.get("allocation"),
        "selection": selection,
        "data": experiment.data_keys,
        "preprocess": experiment.preprocess.to_json(),
        "classes": list(experiment.classes),
        "classes_read": label_record.classes(experiment),
        "skipped_images": list(experiment.data.skipped),
        "labels": label_record.figures(experiment, records, artefacts),
        "training": {name: notes[name] for name in notes if "picked_epoch" in notes[name]},
        # the worst of all rounds
        "parity": {"surgery": max(c["parity"] for c in cuts)} if "parity" in cut else {},
        "history": {},
        "environment": environment(),
    }


def _at_points(records: Sequence[Mapping[str, Any]], values: Sequence[T]) -> dict[str, T]:
    """Values of the steps by point. What the last stage made is called final; where a stage was not
    run nothing changed.
    """
    # what pretraining leaves knows no class yet under its fresh head
    found = {
        record["point"]: value
        for record, value in zip(records, values, strict=True)
        if record["name"] != "pretrain"
    }
    last, before = records[-1]["name"], found["final"]
    for name, stage in _POINTS.items():
        found[name] = before = found.get(name, found["final"] if stage == last else before)
    return found


def unscaled(experiment: "Experiment") -> dict[str, int] | None:
    """MACs and parameters of the model before `scale`; None where it is as it was, or where the
    model cannot take an image of the size before.
    """
    if experiment.spec == experiment.unscaled:
        return None
    try:
        return dict(experiment.blank(experiment.unscaled).figures)
    except UsageError:
        return None


def keep(
    experiment: "Experiment",
    artefacts: list[Artefact],
    report: dict[str, Any],
    run_dir: Path,
    member: bool,
) -> None:
    """Put what belongs to the user into the run folder: the network, its exports, its curves."""
    _clear(run_dir)
    label_record.keep(experiment, report["stages"], artefacts, run_dir)
    names = [record["name"] for record in report["stages"]]
    for record, made in zip(report["stages"], artefacts, strict=True):
        if record["skipped"]:
            continue
        name = record["point"].replace("/", "-")
        events = made.folder / "tensorboard"
        if events.is_dir():
            shutil.copytree(events, run_dir / "tensorboard" / name, dirs_exist_ok=True)
        if (made.folder / EXTRAS).is_dir():
            shutil.copytree(made.folder / EXTRAS, run_dir / EXTRAS / name, dirs_exist_ok=True)
        if (made.folder / "history.csv").is_file():
            history = run_dir / "history" / f"{name}.csv"
            history.parent.mkdir(exist_ok=True)
            shutil.copy2(made.folder / "history.csv", history)
            # by the stage's name, or by the point's where the stage runs twice
            stage = record["name"] if names.count(record["name"]) == 1 else name
            report["history"][stage] = str(history.relative_to(run_dir))
    _explain(experiment, artefacts, report, run_dir)
    if not experiment.export.writes(member):
        return
    finished = Finished(
        made=artefacts[-1],
        data=experiment.data,
        task=experiment.task,
        eval_batch_size=experiment.machine.eval_batch_size,
        trust=experiment.trust,
    )
    for exporter in experiment.export.formats:
        for found in (exporter.write(finished, run_dir), exporter.check(finished, run_dir)):
            report["parity"].update(found)


def _explain(
    experiment: "Experiment", artefacts: list[Artefact], report: dict[str, Any], run_dir: Path
) -> None:
    """explain/NAME: what each probe found, and in the report its figures and its pictures."""
    if not experiment.probes:
        return
    subjects = Subjects(
        artefacts=_at_points(report["stages"], artefacts),
        data=experiment.data,
        task=experiment.task,
        device=experiment.machine.device,
        batch_size=experiment.machine.eval_batch_size,
        seed=experiment.seed,
        trust=experiment.trust,
    )
    data_key, report["explain"] = key_of(**experiment.data_keys), {}
    for chosen in experiment.probes:
        found, figures = chosen.obtain(subjects, data_key, experiment.cache, experiment.note)
        place = run_dir / EXPLAIN / chosen.name
        shutil.copytree(found, place, ignore=shutil.ignore_patterns(manifest.NAME, FIGURES))
        pictures = [str(path.relative_to(run_dir)) for path in sorted(place.rglob("*.png"))]
        report["explain"][chosen.name] = {**figures, "pictures": pictures}


def _clear(run_dir: Path) -> None:
    """Take away what an earlier run left in a folder of the user's choice: no mixture of two."""
    written = ("report.json", "report.md", "sensitivity.csv", "labels.npz", "changed.npz")
    for name in (*FILES, "history", "tensorboard", "figures", EXTRAS, EXPLAIN, *written):
        if (run_dir / name).is_dir():
            shutil.rmtree(run_dir / name, ignore_errors=True)
        else:
            (run_dir / name).unlink(missing_ok=True)


def write(run_dir: Path, report: Mapping[str, Any]) -> None:
    """Write report.json, the config and the environment, and the points as TensorBoard scalars."""
    from omegaconf import OmegaConf
    from torch.utils.tensorboard import SummaryWriter

    config = OmegaConf.to_yaml(OmegaConf.create(report["config"]))
    (run_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (run_dir / "config.yaml").write_text(config)
    (run_dir / "environment.json").write_text(json.dumps(report["environment"], indent=1) + "\n")
    with SummaryWriter(run_dir / "tensorboard" / "points") as writer:
        writer.add_text("config", f"```yaml\n{config}```")
        for step, point in enumerate(report["points"].values()):
            for name, value in point.items():
                if isinstance(value, int | float):
                    writer.add_scalar(f"points/{name}", value, step)


def present(run_dir: Path, report: Mapping[str, Any], member: bool, *, draw: bool) -> None:
    """Draw the report, print its table; a member's is one line: the sweep ends with a table.

    draw: whether figures are drawn too.
    """
    from rich.console import Console

    from compressor.report import run as run_report

    run_report.write(run_dir, draw=draw)
    if member:
        print(run_report.line(report), flush=True)
    else:
        Console().print(run_report.table(report, folder=run_dir))
