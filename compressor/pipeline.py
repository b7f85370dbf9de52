"""Walks the list of stages, asks the cache, measures every artefact, writes the run folder.

The walk is planned before anything runs: every key follows from the config and the data alone, so
the plan that is printed says what will be reused, and an unreachable wish is refused early.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from compressor import artefact, manifest, measure, models
from compressor.artefact import Artefact, Spec
from compressor.cache import Cache, key_of
from compressor.data import ImageData
from compressor.errors import RunError, UsageError
from compressor.instantiation import make, sources
from compressor.regularize.none import NoRegularizer
from compressor.seeding import derive
from compressor.stages import (
    Context,
    Given,
    Machine,
    Outcome,
    _distillation,
    baseline,
    finetune,
    pretrain,
    recalibrate,
    train,
)
from compressor.stages import compress as compress_stage
from compressor.stages import noise as noise_stage
from compressor.stages._labels import LABELS, check_labels, resolve
from compressor.stages._schedule import Layers, Schedule
from compressor.tasks import Task

# The name of the point at which a stage's artefact is measured; the last one is always "final".
POINTS = {
    "pretrain": "pretrained",
    "train": "dense",
    "compress": "compressed",
    "recalibrate": "recalibrated",
    "finetune": "finetuned",
}
# Data and saved networks are float32: the mixed forms compute in fewer bits and keep the weights.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
MEASURE_VERSION = 1
TRAININGS = ("pretrain", "train", "finetune", "baseline")
NO_DISTILLATION = {"label_weight": 1.0, "terms": {}}
RUNNERS: Mapping[str, tuple[int, Callable[..., Outcome]]] = {
    "pretrain": (pretrain.VERSION, pretrain.pretrain),
    "baseline": (baseline.VERSION, baseline.baseline),
    "train": (train.VERSION, train.train),
    "compress": (compress_stage.VERSION, compress_stage.compress),
    "recalibrate": (recalibrate.VERSION, recalibrate.recalibrate),
    "finetune": (finetune.VERSION, finetune.finetune),
}


@dataclass(frozen=True)
class Step:
    """One stage of the walk. An identity step keeps its parent's key and runs nothing.

    seeded: the stage and occurrence whose random numbers it draws. sides: what it needs beside the
    walk's own artefacts, made when it runs. spec: the network that it builds, None for the run's.
    """

    stage: str
    occurrence: int
    point: str
    options: Mapping[str, Any]
    key: str
    identity: bool
    seeded: tuple[str, int]
    roles: Mapping[str, str] = field(default_factory=dict)
    sides: tuple["Step", ...] = ()
    spec: Spec | None = None

    @property
    def title(self) -> str:
        if self.point == "teacher" or self.point.startswith("rewind"):
            return f"{self.stage} ({self.point})"
        return self.stage if self.occurrence == 1 else f"{self.stage} (round {self.occurrence})"


class Experiment:
    """A composed config, ready to walk: data prepared, options checked, keys known."""

    def __init__(
        self,
        config: Mapping[str, Any],
        run_dir: Path = Path(),
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """note: told what happens, a line each."""
        self.config = config
        self.note = note
        self.seed = int(config["seed"])
        self.precision = str(config["precision"])
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"precision={self.precision} is not known: choose one of {', '.join(PRECISIONS)}"
            )
        self.machine = Machine(**config["machine"])
        self._start_machine()
        self.task: Task = make(config["task"])
        self.trust = models.trusted(config["model"]["_target_"])
        self.robust = self._check_methods()
        self.data, self.spec = self._data_and_spec()
        self.data.prepare()
        self.cache = Cache.of(config["cache"], run_dir, note)
        self.data_keys = _data_keys(config, self.data)
        # a training that depends on no test image survives one that has to be repaired
        self.data_key, self.test_key = self.data_keys["train"], self.data_keys["test"]
        dataset = config["dataset"]
        self.labels = noise_stage.labels(
            config["noise"],
            self.data,
            self.data_key,
            self.cache,
            (dataset["labelled_fraction"], dataset["labelled_seed"]),
        )
        self._check_labels()
        self.teachers = self._given_teachers()
        self._check_taught_layers()
        self.steps = self._plan()
        self.baselines = self._plan_baselines()
        self.told: set[str] = set()  # keys whose reuse the plan's one line has told

    def _start_machine(self) -> None:
        if self.machine.threads is not None:
            if self.machine.threads < 1:
                raise UsageError(
                    f"machine.threads={self.machine.threads} must be at least 1, or null"
                )
            torch.set_num_threads(self.machine.threads)

    def _check_methods(self) -> Any:
        """Constructors hold the ranges: make every method once before any data is read.

        Returns the remedy.
        """
        from compressor.stages._fit import SELECT, plain

        for stage in ("pretrain", "train", "finetune"):
            try:
                plain(self.config[stage])
            except UsageError as error:
                raise UsageError(f"{stage}.{error}") from None  # it begins with the key
            select = self.config[stage]["select"]
            if select not in SELECT:
                raise UsageError(
                    f"{stage}.select={select} is not known: choose one of {', '.join(SELECT)}"
                )
            patience = self.config[stage]["patience"]
            if patience is not None and patience < 1:
                raise UsageError(f"{stage}.patience={patience} must be at least 1, or null")
        if self.config["finetune"]["labels"] not in LABELS:
            raise UsageError(
                f"finetune.labels={self.config['finetune']['labels']} is not known: "
                f"choose one of {', '.join(LABELS)}"
            )
        if self.config["finetune"]["robust"] not in ("none", "same"):
            raise UsageError(
                f"finetune.robust={self.config['finetune']['robust']} is not known: none or same"
            )
        _distillation.check(self.config["distill"])
        robust = make(self.config["robust"])
        make(self.config["regularize"])
        make(self.config["noise"])
        make(self.config["scale"])
        compress_stage.check(self.config["prune"])
        schedule, final = Schedule.split(self.config["prune"])
        once = schedule.one_shot or compress_stage.is_none(final)
        finetune.check(
            self.config["finetune"],
            self.config["train"]["epochs"],
            one_shot=once,
            again=once or schedule.epochs is None,
        )
        if self.config["pretrain"]["pretext"] and self.config["finetune"]["mode"] == "rewind":
            raise UsageError(
                "finetune=rewind goes back into a training from initial weights: type pretrain=none"
            )
        recalibrate.check(self.config["recalibrate"])
        self._check_stages(list(self.config["stages"]))
        return robust

    def _check_labels(self) -> None:
        """What the methods ask of the labels, once it is known which there are."""
        options = {**self.config["finetune"], "labels": self._finetune_labels()}
        check_labels(options, self.robust, self.labels.known)
        train.check(self.robust, self.labels.injected)

    def _check_stages(self, stages: list[str]) -> None:
        known = [name for name in RUNNERS if name not in ("pretrain", "baseline")]
        if any(name not in known for name in stages) or stages[:1] != ["train"]:
            raise UsageError(
                f"stages={stages} must begin with train and hold only {', '.join(known)}; "
                "train.epochs=0 skips the training, pretrain=rotnet comes before it by itself"
            )
        if stages.count("compress") > 1 or stages.count("train") > 1:
            raise UsageError(f"stages={stages} holds train or compress twice: give each once")

    def _data_and_spec(self) -> tuple[ImageData, Spec]:
        data, factory, arguments = _scaled(self.config)
        spec = Spec(factory, arguments, data.input_size, data.num_classes, "classification")
        self.trained_spec = spec  # what the training builds; all else sees what it hands on
        return data, spec.handed_on()

    def _given_teachers(self) -> dict[str, Artefact]:
        """Teachers that were trained elsewhere, by keys that follow from their content."""
        distill = self.config["distill"]
        if not distill["terms"] or not _distillation.needs_teacher(distill):
            return {}
        _distillation.check_fixed(distill, self.data.augment, self.labels.damage is not None)
        if distill["teacher"]["source"] != "artefact":
            return {}
        path = distill["teacher"]["path"]
        found = {}
        for place in [path] if isinstance(path, str) else path:
            made = artefact.read(artefact.find(place))
            _distillation.check_fits(made.spec, self.spec, str(place))
            files = ("spec.json", "plan.json", artefact.WEIGHTS)
            key = key_of(teacher={name: manifest.digest(made.folder / name) for name in files})
            found[key] = replace(made, key=key)
        return found

    # -- the plan -------------------------------------------------------------------------------

    def _plan(self) -> tuple[Step, ...]:
        start = parent = self._start_key(self.trained_spec)
        steps: list[Step] = []
        counts: dict[str, int] = {}
        dense: str | None = None
        trained: str | None = None
        unrolled = self._unrolled()
        for position, (stage, options) in enumerate(unrolled):
            counts[stage] = occurrence = counts.get(stage, 0) + 1
            point = POINTS[stage] if occurrence == 1 else f"round{occurrence}/{POINTS[stage]}"
            if position == len(unrolled) - 1:
                point = "final"
            if stage == "compress" and dense is None:
                dense = parent
            roles, sides = self._taught(stage, dense or parent)
            if stage == "finetune" and options["finetune"]["labels"].startswith("corrected"):
                roles["corrected"] = trained
            seeded = (stage, occurrence)
            if stage == "finetune" and options["finetune"]["mode"] == "rewind":
                # the dense training goes on: it sees the images in its own order
                seeded, earlier = ("train", 1), self._rewound(start, options["finetune"])
                sides = (*sides, earlier)
                roles = {**roles, earlier.point: earlier.key}
            identity = bool(steps) and self._is_identity(stage, options, steps)
            if not identity:
                parent = self._key(stage, occurrence, options, parent, roles)
            if stage == "train":
                trained = parent
            steps.append(
                Step(stage, occurrence, point, options, parent, identity, seeded, roles, sides)
            )
        return tuple(steps)

    def _unrolled(self) -> list[tuple[str, dict[str, Any]]]:
        """The stages with their options; what stands from compress on comes once a round."""
        names = list(self.config["stages"])
        if self.config["pretrain"]["pretext"] is not None:
            names = ["pretrain", *names]
        place = names.index("compress") if "compress" in names else len(names)
        found = [(name, self._options(name, {})) for name in names[:place]]
        if place == len(names):
            return found
        schedule, final = Schedule.split(self.config["prune"])
        if compress_stage.is_none(final):
            targets = [final]  # the dense control has nothing to do in rounds
        else:
            targets = schedule.targets(final, lambda: self._layers(final))
        for number, target in enumerate(targets, 1):
            for name in names[place:]:
                options = self._options(name, target)
                if name == "finetune" and number < len(targets) and schedule.epochs is not None:
                    options["finetune"]["epochs"] = schedule.epochs
                found.append((name, options))
        return found

    def _layers(self, prune: Mapping[str, Any]) -> Layers:
        net = self.spec.build(self.trust)
        # an image that is too small is told from a network that cannot be traced
        measure.count_macs(net, self.spec.input_size)
        examples = self.task.example_inputs(self.spec.input_size, 2)
        return compress_stage.preview(net, prune, examples)["layers"]

    def _start_key(self, spec: Spec) -> str:
        return key_of(spec=spec.to_json(), code=sources({"_target_": spec.factory}))

    def _taught(self, stage: str, dense: str) -> tuple[dict[str, str], tuple[Step, ...]]:
        """The roles of a stage's teachers, and the trainings that make them.

        dense: key of what entered the first compress stage, or of what enters this one.
        """
        distill = self.config["distill"]
        if not self._distills(stage) or not _distillation.needs_teacher(distill):
            return {}, ()
        source = distill["teacher"]["source"]
        if source == "dense":
            return {"teacher": dense}, ()
        if source == "model":
            spec = _distillation.teacher_spec(distill, self.spec)
            options = self._options("train", {})
            options["distill"] = dict(NO_DISTILLATION)
            if distill["teacher"]["epochs"] is not None:
                options["train"]["epochs"] = distill["teacher"]["epochs"]
            key = self._key("train", 1, options, self._start_key(spec), {})
            step = Step("train", 1, "teacher", options, key, False, ("train", 1), spec=spec)
            return {"teacher": key}, (step,)
        return {f"teacher_{number}": key for number, key in enumerate(self.teachers)}, ()

    def _rewound(self, start: str, options: Mapping[str, Any]) -> Step:
        """The dense training up to the epoch that is gone back to, an entry of its own.

        The dense network's key knows nothing of it, so that all who do not rewind share that.
        """
        epoch = options["rewind_epoch"]
        train = self._options("train", {})
        if epoch == 0:
            train["train"]["epochs"] = 0
        else:
            train["until"] = epoch
        key = self._key("train", 1, train, start, {})
        return Step("train", 1, f"rewind_{epoch}", train, key, False, ("train", 1))

    def _key(
        self,
        stage: str,
        occurrence: int,
        options: Mapping[str, Any],
        parent: str,
        roles: Mapping[str, str],
    ) -> str:
        return key_of(
            stage=stage,
            version=RUNNERS[stage][0],
            occurrence=occurrence,
            options=options,
            code=sources(options),
            parent=parent,
            roles=roles,
            labels=self._labels_key(stage, options),
            data=self.data_key,
            seed=self.seed,
            precision=self.precision,
            # batches are per process: more of them are another training
            devices=self.machine.devices if stage in TRAININGS else 1,
        )

    def _options(self, stage: str, prune: Mapping[str, Any]) -> dict[str, Any]:
        """The stage's own sub-tree: what it is not given it cannot depend on.

        prune: the target of the round that the stage belongs to.
        """
        null_robust = {"_target_": "compressor.robust.none.CrossEntropy"}
        if stage == "compress":
            return compress_stage.reads(prune, self.machine)
        if stage == "recalibrate":
            return dict(self.config["recalibrate"])
        if stage == "pretrain":
            own = dict(self.config["pretrain"])
            del own["frozen"]  # the training's business
            return {"pretrain": own}
        robust = self.config["robust"]
        if stage == "finetune" and self.config["finetune"]["robust"] == "none":
            robust = null_robust
        distill = dict(NO_DISTILLATION)
        if self._distills(stage):
            distill = _distillation.reads(self.config["distill"])
        own = dict(self.config[stage])
        if stage == "finetune":
            own = finetune.reads(own)
            own["labels"] = self._finetune_labels()
        options = {stage: own, "robust": robust, "distill": distill}
        pretrained = self.config["pretrain"]
        if stage == "train" and pretrained["pretext"] is not None and pretrained["frozen"]:
            options["frozen"] = True
        if stage == "train" and self.robust.content:
            options["content"] = self.robust.content
        regularizer = make(self.config["regularize"])
        if stage == "train" and not isinstance(regularizer, NoRegularizer):
            regularizer.penalties(self.meta_network())  # refuses what it finds nothing to act on
            options["regularize"] = dict(self.config["regularize"])
        return options

    def _finetune_labels(self) -> str:
        asked = self.config["finetune"]["labels"]
        return resolve(asked, self.labels.known, self.labels.injected, self.robust.corrects)

    def _distills(self, stage: str) -> bool:
        distill = self.config["distill"]
        return distill["at"] == stage and bool(distill["terms"])

    def _is_identity(self, stage: str, options: Mapping[str, Any], steps: list[Step]) -> bool:
        if stage == "compress":
            return compress_stage.is_none(options["prune"])
        if stage == "recalibrate":
            return steps[-1].identity or not self._has_batch_norm()
        return stage == "finetune" and finetune.is_none(options["finetune"])

    def _has_batch_norm(self) -> bool:
        return recalibrate.has_batch_norm(self.meta_network())

    def meta_network(self) -> torch.nn.Module:
        """The dense network without storage where its builder allows it."""
        if not hasattr(self, "_meta"):
            self._meta = self._without_storage(self.spec)
        return self._meta

    def _without_storage(self, spec: Spec) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    return spec.build(self.trust)
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, RunError):
                    raise
                return spec.build(self.trust)

    def _check_taught_layers(self) -> None:
        """Layers that terms name are told from others before anything is trained."""
        distill = self.config["distill"]
        if not distill["terms"]:
            return
        source = distill["teacher"]["source"]
        spec = self.spec
        if source == "model":
            spec = _distillation.teacher_spec(distill, self.spec)
        elif source == "artefact":
            spec = next((made.spec for made in self.teachers.values()), self.spec)
        teacher = None if source == "callable" else self._without_storage(spec)
        (images,) = self.task.example_inputs(self.spec.input_size, 2)
        _distillation.check_layers(distill, self._without_storage(self.spec), teacher, images)

    def _labels_key(self, stage: str, options: Mapping[str, Any]) -> str:
        """A stage that reads no label, or the clean ones, does not depend on the noise."""
        if stage in ("train", "baseline"):
            return self.labels.key
        if stage != "finetune":
            return "clean"
        clean = options["finetune"]["labels"] == "clean"
        return self.labels.clean_key if clean else self.labels.key

    def _plan_baselines(self) -> tuple[Step, ...]:
        """The trainings that noisy-then-clean is compared with: noisy only, clean only, mixed."""
        if not self.config["baselines"]:
            return ()
        root = self._start_key(self.trained_spec)
        roles, sides = self._taught("train", root)
        steps = []
        for kind in baseline.KINDS:
            options = baseline.options(kind, self._options("train", {}), self.config["finetune"])
            key = self._key("baseline", 1, options, root, roles)
            # it begins with the weights that the training began with
            step = Step("baseline", 1, kind, options, key, False, ("train", 1), roles, sides)
            steps.append(step)
        return tuple(steps)

    # -- the walk -------------------------------------------------------------------------------

    def reused(self) -> dict[str, bool]:
        steps = [part for step in self.steps for part in (*step.sides, step)]
        return {step.key: self.cache.holds(step.key) for step in steps}

    def walk(self) -> tuple[list[dict[str, Any]], list[Artefact]]:
        """Run or reuse every step. Returns the report's `stages` and the artefacts, in order."""
        records: list[dict[str, Any]] = []
        artefacts: list[Artefact] = []
        made: dict[str, Artefact] = dict(self.teachers)
        parent: Artefact | None = None
        for step in self.steps:
            start = time.perf_counter()
            reused = False
            if not step.identity:
                reused = self._obtain(step, parent, made)
                read = self.cache.read(step.key)
                made[step.key] = parent = replace(read, metrics=self._metrics(read))
            assert parent is not None  # the first step is never an identity
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

    def walk_baselines(self) -> dict[str, dict[str, Any]]:
        """Figures of the baselines, by name."""
        found = {}
        for step in self.baselines:
            self._obtain(step, None, self.teachers)
            made = self.cache.read(step.key)
            found[step.point] = {**self._metrics(made), "key": step.key}
        return found

    def _obtain(self, step: Step, parent: Artefact | None, made: Mapping[str, Artefact]) -> bool:
        """Reuse or make the artefact of one step; whether it was reused."""

        def make(folder: Path) -> None:
            at_hand = {**made, **{side.key: self._side(side) for side in step.sides}}
            self.note(f"{step.title}: running")
            self._run(step, parent, at_hand, folder)

        reused = self.cache.obtain(step.key, step.stage, make)
        if reused and step.key not in self.told:
            self.note(f"{step.title}: reused {step.key}")
        return reused

    def _side(self, step: Step) -> Artefact:
        self._obtain(step, None, {})
        return self.cache.read(step.key)

    def _run(
        self, step: Step, parent: Artefact | None, made: Mapping[str, Artefact], folder: Path
    ) -> None:
        start = time.perf_counter()
        roles = {role: made[key] for role, key in step.roles.items()}
        context = self.context(step.seeded, folder, roles)
        # what a training makes may be of another form than what it trains
        begins = step.stage in ("train", "baseline")
        spec = step.spec or (self.trained_spec if begins else self.spec)
        outcome = RUNNERS[step.stage][1](Given(spec, parent), step.options, context)
        lineage = {"parent": parent.key if parent else "", **step.roles}
        if step.stage in ("train", "baseline"):
            lineage["labels"] = self.labels.key
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

    def context(
        self, seeded: tuple[str, int], folder: Path, roles: Mapping[str, Artefact]
    ) -> Context:
        """What a stage may use beside its options; it writes into `folder`.

        seeded: as in `Step`.
        """
        return Context(
            seed=derive(self.seed, *seeded),
            folder=folder,
            data=self.data,
            task=self.task,
            machine=self.machine,
            precision=self.precision,
            targets=self.labels.given,
            clean_targets=self.labels.clean,
            cache=self.cache,
            data_key=self.data_key,
            labels_key=self.labels.key,
            truth_known=self.labels.known,
            transition=self.labels.transition if self.labels.injected else None,
            labelled=self.labels.labelled,
            damage=self.labels.damage,
            trust=self.trust,
            roles=roles,
            note=self.note,
        )

    def _metrics(self, made: Artefact) -> dict[str, Any]:
        """Figures of what was saved, not of what was in memory, on the test part.

        An entry of their own: a test image that cannot be read costs no training.
        """
        key = key_of(
            stage="measure",
            version=MEASURE_VERSION,
            parent=made.key,
            task=dict(self.config["task"]),
            data=self.test_key,
        )

        def take(folder: Path) -> None:
            net = made.network(self.trust)
            loader = self.data.loader(
                "test", self.machine.eval_batch_size, workers=self.machine.workers
            )
            figures = measure.evaluate(net, self.task, loader, self.machine.device)
            metrics = {
                **figures,
                "macs": measure.count_macs(net, self.spec.input_size),
                "params": measure.count_params(net),
                "size_bytes": (made.folder / artefact.WEIGHTS).stat().st_size,
            }
            manifest.write_json(folder / "metrics.json", metrics)

        self.cache.obtain(key, "measure", take)
        return manifest.read_json(self.cache.folder(key) / "metrics.json")


def _scaled(config: Mapping[str, Any]) -> tuple[ImageData, str, Mapping[str, Any]]:
    """The data at the size that `scale` asks for, and the network's builder and arguments."""
    options = dict(config["dataset"])
    del options["labelled_fraction"], options["labelled_seed"]  # the labels' business
    data: ImageData = make(options)
    model = dict(config["model"])
    factory = model.pop("_target_")
    arguments, size = make(config["scale"]).scale(model, data.input_size)
    if tuple(size) != tuple(data.input_size):
        data = data.resized(size[-1])
    return data, factory, arguments


def _data_keys(config: Mapping[str, Any], data: ImageData) -> dict[str, str]:
    code = sources([config["dataset"], config["task"], config["noise"], config["scale"]])
    if config["noise"].get("file"):
        code = {**code, "noise.file": make(config["noise"]).content}
    return {part: key_of(data=data.fingerprint(part), code=code) for part in ("train", "test")}


def data_keys(config: Mapping[str, Any]) -> dict[str, str]:
    """The report's `data` as it would be now: a kept report of other data is no result."""
    data, _, _ = _scaled(config)
    data.prepare()
    return _data_keys(config, data)


def run_experiment(
    config: Mapping[str, Any],
    run_dir: Path,
    member: bool,
    command: str,
    *,
    side_by_side: bool = False,
) -> dict[str, Any]:
    """Run one composed config and leave its run folder behind.

    run_dir: the run folder; member: whether the run is one of a multirun; command: what was typed.
    side_by_side: other members run at the same time, so that latency is left to be measured when
    they are done. Returns the report (the plan alone with plan_only).
    """
    from compressor import latency, preview, run_folder, sensitivity

    start = time.perf_counter()
    experiment = Experiment(config, run_dir, lambda line: print(line, flush=True))
    coming = preview.preview(experiment)
    if member and not config["plan_only"]:
        print(preview.line(coming), flush=True)
        experiment.told = {stage["key"] for stage in coming["stages"] if stage["reused"]}
    else:
        preview.show(coming)
    if config["plan_only"]:
        return {"plan": coming}
    run_folder.make(run_dir)
    records, artefacts = experiment.walk()
    layers = sensitivity.of_run(experiment, artefacts)
    latencies, known = ({}, False) if side_by_side else latency.of_run(experiment, artefacts)
    report = run_folder.report(experiment, command, records, artefacts, latencies)
    report["latency_reused"] = known
    if experiment.baselines:
        report["baselines"] = experiment.walk_baselines()
    run_folder.keep(experiment, artefacts, report, run_dir, member)
    if layers:
        report["sensitivity"] = sensitivity.write(layers, run_dir)
    report["seconds"] = round(time.perf_counter() - start, 3)
    run_folder.write(run_dir, report)
    run_folder.present(run_dir, report, member)
    return report
