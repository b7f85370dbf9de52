"""Walks the steps of a run: asks the cache, runs what it lacks, measures every artefact."""

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressor import artefact, manifest, measure
from compressor.artefact import Artefact
from compressor.cache import key_of
from compressor.experiment import Experiment
from compressor.plan import STAGES, RunPlan, Step
from compressor.stages import Given

MEASURE_VERSION = 2


class Walk:
    """told: keys whose reuse the plan's one line has told."""

    def __init__(self, plan: RunPlan, told: Collection[str] = ()) -> None:
        self.plan = plan
        self.run = plan.run
        self.told = told

    def steps(self) -> tuple[list[dict[str, Any]], list[Artefact]]:
        """Run or reuse every step. Returns the report's `stages` and the artefacts, in order."""
        records: list[dict[str, Any]] = []
        artefacts: list[Artefact] = []
        made: dict[str, Artefact] = dict(self.run.teachers)
        parent: Artefact | None = None
        for step in self.plan.steps:
            start = time.perf_counter()
            reused = False
            if not step.identity:
                reused = self._obtain(step, parent, made)
                read = self.run.cache.read(step.key)
                made[step.key] = parent = replace(read, metrics=self._metrics(read))
            assert parent is not None  # the first step is a training or a start, no identity
            artefacts.append(parent)
            seconds = 0.0 if reused or step.identity else time.perf_counter() - start
            records.append(
                {
                    "name": step.stage,
                    "point": step.point,
                    "key": step.key,
                    "seconds": round(seconds, 3),
                    "reused": reused,
                    "skipped": step.identity,
                    # what it cost when it was made, by whomever
                    "made_seconds": 0.0 if step.identity else parent.notes.get("made_seconds", 0.0),
                }
            )
        return records, artefacts

    def baselines(self) -> dict[str, dict[str, Any]]:
        """Figures of the baselines, by name. They begin as the training of the run does."""
        root = self.plan.root
        start = self.run.cache.read(root.key) if root else None
        found = {}
        for step in self.plan.baselines:
            self._obtain(step, start, self.run.teachers)
            made = self.run.cache.read(step.key)
            figures = {**self._metrics(made), "epochs": made.notes["epochs"]}
            found[step.point] = {**figures, "key": step.key}
        return found

    def _obtain(self, step: Step, parent: Artefact | None, made: Mapping[str, Artefact]) -> bool:
        """Reuse or make the artefact of one step; whether it was reused."""

        def make(folder: Path) -> None:
            at_hand = {**made, **{side.key: self._side(side, made) for side in step.sides}}
            self.run.note(f"{step.title}: running")
            self._make(step, parent, at_hand, folder)

        reused = self.run.cache.obtain(step.key, step.stage, make)
        self.plan.origins.remember(self.run.cache, step.key)
        if reused and step.key not in self.told:
            self.run.note(f"{step.title}: reused {step.key}")
        return reused

    def _side(self, step: Step, made: Mapping[str, Artefact]) -> Artefact:
        self._obtain(step, made.get(step.parent), {})
        return self.run.cache.read(step.key)

    def _make(
        self, step: Step, parent: Artefact | None, made: Mapping[str, Artefact], folder: Path
    ) -> None:
        start = time.perf_counter()
        roles = {role: made[key] for role, key in step.roles.items()}
        context = self.run.context(step.seeded, folder, roles)
        # what a training makes may be of another form than what it trains
        begins = step.stage in ("train", "baseline")
        spec = step.spec or (self.run.trained_spec if begins else self.run.spec)
        given = Given(spec, parent) if step.spec else Given(spec, parent, self.run.base)
        outcome = STAGES[step.stage].run(given, step.options, context)
        lineage = {"parent": parent.key if parent else "", **step.roles}
        if step.stage in ("train", "baseline"):
            lineage["labels"] = self.run.labels.key
        # a killed maker's share of the time is told by the one who went on
        seconds = time.perf_counter() - start + outcome.notes.get("earlier_seconds", 0.0)
        artefact.write(
            folder,
            spec=spec.handed_on(),
            plan=outcome.plan,
            net=outcome.net,
            lineage=lineage,
            notes={**outcome.notes, "made_seconds": round(seconds, 3)},
        )

    def _metrics(self, made: Artefact) -> dict[str, Any]:
        """Figures of what was saved, not of what was in memory, on the test part.

        An entry of their own: a test image that cannot be read costs no training.
        """
        key = key_of(
            stage="measure",
            version=MEASURE_VERSION,
            parent=made.key,
            task=dict(self.run.config["task"]),
            data=self.run.test_key,
        )

        def take(folder: Path) -> None:
            net = made.network(self.run.trust)
            loader = self.run.data.loader(
                "test", self.run.machine.eval_batch_size, workers=self.run.machine.workers
            )
            figures = measure.evaluate(net, self.run.task, loader, self.run.machine.device)
            metrics = {
                **figures,
                "macs": measure.count_macs(net, self.run.spec.input_size),
                "params": measure.count_params(net),
                "size_bytes": (made.folder / artefact.WEIGHTS).stat().st_size,
            }
            manifest.write_json(folder / "metrics.json", metrics)

        self.run.cache.obtain(key, "measure", take)
        return manifest.read_json(self.run.cache.folder(key) / "metrics.json")


def run_experiment(
    config: Mapping[str, Any],
    run_dir: Path,
    member: bool,
    command: str,
    *,
    times_later: bool = False,
) -> dict[str, Any]:
    """Run one composed config and leave its run folder behind.

    run_dir: the run folder; member: whether the run is one of a multirun; command: what was typed.
    times_later: latency is left to be measured when all members are done, together. Returns the
    report (the plan alone with plan_only).
    """
    from compressor import multirun, preview, run_folder, run_latency, sensitivity

    start = time.perf_counter()
    experiment = Experiment(config, run_dir, lambda line: print(line, flush=True))
    plan = RunPlan(experiment)
    brief = member and not config["plan_only"]
    coming = preview.preview(plan, brief=brief)
    told: set[str] = set()
    if brief:
        print(preview.line(coming), flush=True)
        for notice in multirun.news(coming["notices"]):
            print(f"note: {notice}", flush=True)
        told = {stage["key"] for stage in coming["stages"] if stage["reused"]}
    else:
        preview.show(coming)
    if config["plan_only"]:
        return {"plan": coming}
    run_folder.make(run_dir)
    experiment.cache.reserve(plan.reused())
    walk = Walk(plan, told)
    records, artefacts = walk.steps()
    layers = sensitivity.of_run(experiment, records, artefacts)
    latencies, known = {}, False
    if not times_later:
        latencies, known = run_latency.of_run(experiment, records, artefacts)
    report = run_folder.report(experiment, command, records, artefacts, latencies)
    report["latency_reused"] = known
    if plan.baselines:
        report["baselines"] = walk.baselines()
    with run_folder.room(run_dir):
        run_folder.keep(experiment, artefacts, report, run_dir, member)
        if layers:
            report["sensitivity"] = sensitivity.write(layers, run_dir)
        report["seconds"] = round(time.perf_counter() - start, 3)
        run_folder.write(run_dir, report)
        run_folder.present(run_dir, report, member, draw=experiment.export.draws(member))
    return report
