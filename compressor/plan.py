"""The steps of a run and their keys, known before anything runs.

Every key follows from the config and the data alone, so the plan that is printed says what will be
reused, and an unreachable wish is refused early.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from compressor.artefact import Spec
from compressor.cache import key_of
from compressor.changed_code import Origin, Origins
from compressor.errors import UsageError
from compressor.experiment import Experiment
from compressor.instantiation import Chosen, builders, libraries, sources
from compressor.robust.none import CrossEntropy
from compressor.stages import (
    Outcome,
    baseline,
    compress,
    finetune,
    pretrain,
    recalibrate,
    start,
    train,
)
from compressor.stages._distill.options import Teaching, teacher_spec
from compressor.stages._pruning import Pruning
from compressor.stages._schedule import Layers
from compressor.stages.baseline import BaselineOptions
from compressor.stages.finetune import FinetuneOptions
from compressor.stages.noise import CLEAN
from compressor.stages.pretrain import PretrainOptions
from compressor.stages.train import TrainOptions
from compressor.starting import Started


class Stage(NamedTuple):
    """point: the name under which what it makes is measured; of the last one it is "final".

    wants: under these options, the roles of what earlier stages of the walk have made (`Trail`).
    """

    version: int
    run: Callable[..., Outcome]
    point: str
    trains: bool
    wants: Callable[[Any], tuple[str, ...]] = lambda options: ()


def _compress_wants(options: Pruning) -> tuple[str, ...]:
    return (compress.TARGET,) if options.wants_reference else ()


def _finetune_wants(options: FinetuneOptions) -> tuple[str, ...]:
    return ("corrected",) if options.recovery.labels.startswith("corrected") else ()


STAGES = {
    "start": Stage(start.VERSION, start.start, "dense", trains=False),
    "pretrain": Stage(pretrain.VERSION, pretrain.pretrain, "pretrained", trains=True),
    "train": Stage(train.VERSION, train.train, "dense", trains=True),
    "compress": Stage(
        compress.VERSION, compress.compress, "compressed", trains=False, wants=_compress_wants
    ),
    "recalibrate": Stage(
        recalibrate.VERSION, recalibrate.recalibrate, "recalibrated", trains=False
    ),
    "finetune": Stage(
        finetune.VERSION, finetune.finetune, "finetuned", trains=True, wants=_finetune_wants
    ),
    "baseline": Stage(baseline.VERSION, baseline.baseline, "baseline", trains=True),
}


def versions() -> dict[str, str]:
    """What decides figures beside the config and the user's code: stages and libraries."""
    stages = {f"stage {name}": f"version {stage.version}" for name, stage in STAGES.items()}
    return {**stages, **libraries("torch", "timm")}


NO_REMEDY = Chosen(CrossEntropy(), {"_target_": "compressor.robust.none.CrossEntropy"})
TrainingOptions = PretrainOptions | TrainOptions | FinetuneOptions | BaselineOptions
StageOptions = TrainingOptions | Pruning | Started | Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One stage of the walk. An identity step keeps its parent's key and runs nothing.

    seeded: the stage and occurrence whose random numbers it draws. sides: what it needs beside the
    walk's own artefacts, made when it runs. spec: the network that it builds, None for the run's.
    parent: of a side, the key of the walk's artefact that it goes on from, "" for a fresh network.
    """

    stage: str
    occurrence: int
    point: str
    options: StageOptions
    key: str
    identity: bool
    seeded: tuple[str, int]
    roles: Mapping[str, str] = field(default_factory=dict)
    sides: tuple["Step", ...] = ()
    spec: Spec | None = None
    parent: str = ""

    @property
    def trains(self) -> bool:
        """Whether it has epochs, so that its options are those of a training."""
        return STAGES[self.stage].trains

    @property
    def title(self) -> str:
        if self.point == "teacher" or self.point.startswith("rewind") or self.stage == "baseline":
            return f"{self.stage} ({self.point})"
        return self.stage if self.occurrence == 1 else f"{self.stage} (round {self.occurrence})"


class Trail:
    """Keys of what a walk has made so far, as the stages that come next ask for it."""

    def __init__(self, start: str) -> None:
        """start: key of the network before any stage."""
        self.start = self.given = start
        """given: what the next stage is handed."""
        self.idle = False
        """Whether the last stage changed nothing."""
        self.dense: str | None = None
        """What entered the first compress stage."""
        self.trained: str | None = None
        """What the train stage made: it holds the labels that a remedy corrected."""
        self.reference = start
        """What was trained last."""
        self.cut = False
        """Whether `reference` was cut since."""
        self.occurrences: Counter[str] = Counter()

    def enter(self, stage: str) -> int:
        """A stage begins. Returns how often it has by now."""
        self.occurrences[stage] += 1
        if stage == "compress" and self.dense is None:
            self.dense = self.given
        return self.occurrences[stage]

    def roles(self, wanted: tuple[str, ...]) -> dict[str, str]:
        """Those of the wanted roles that something was made for; else the stage needs no other
        network than the given one.
        """
        made = {"corrected": self.trained, compress.TARGET: self.reference if self.cut else None}
        return {role: made[role] for role in wanted if made[role] is not None}

    def leave(self, stage: str, key: str, idle: bool) -> None:
        """The stage has made this, or with `idle` nothing."""
        self.given, self.idle = key, idle
        if stage == "train":
            self.trained = key
        if stage == "compress":
            self.cut = True
        elif not idle and (STAGES[stage].trains or not self.cut):
            self.reference, self.cut = key, False


class RunPlan:
    """steps: what the run walks through. baselines: the trainings beside it, where asked for."""

    def __init__(self, experiment: Experiment) -> None:
        self.run = experiment
        self.origins = Origins()
        self.steps = self._steps()
        if experiment.data_free:
            self._check_data_free()
        self.baselines = self._baselines()
        if not experiment.data.size("val"):
            self._check_unvalidated()

    def _steps(self) -> tuple[Step, ...]:
        begun = self._begun()
        trail = Trail(begun[0].key if begun else self._start_key(self.run.trained_spec))
        unrolled = self._unrolled()
        steps = [*begun, *(self._step(stage, options, trail) for stage, options in unrolled)]
        return (*steps[:-1], replace(steps[-1], point="final"))

    def _begun(self) -> tuple[Step, ...]:
        """The network that the walk begins with as its first step; none where a training does."""
        started = self.run.started
        if started is None:
            return ()
        code = sources({"_target_": started.spec.factory})
        others = {
            "stage": "start",
            "version": STAGES["start"].version,
            "libraries": builders(started.spec.factory),
            **started.in_key(),
        }
        key = self.origins.add(key_of(code=code, **others), code, {}, Origin(""), others)
        # what a training makes of it is the dense network then
        point = "start" if "train" in self.run.config["stages"] else STAGES["start"].point
        return (Step("start", 1, point, started, key, identity=False, seeded=("start", 1)),)

    @property
    def root(self) -> Step | None:
        """The step that the dense training begins with, None where a fresh network does."""
        return self.steps[0] if self.steps[0].stage in ("pretrain", "start") else None

    def _step(self, stage: str, options: StageOptions, trail: Trail) -> Step:
        """The next step of the walk, which the trail is told of."""
        occurrence = trail.enter(stage)
        point = STAGES[stage].point
        if occurrence > 1:
            point = f"round{occurrence}/{point}"
        teachers, sides = self._taught(stage, trail.dense or trail.given)
        roles = {**teachers, **trail.roles(STAGES[stage].wants(options))}
        seeded = (stage, occurrence)
        if stage == "finetune" and options.recovery.mode == "rewind":
            # the dense training goes on: it sees the images in its own order
            seeded, earlier = ("train", 1), self._rewound(trail.start, options.recovery.start)
            if self.run.started is not None:
                earlier = replace(earlier, parent=trail.start)
            sides = (*sides, earlier)
            roles = {**roles, earlier.point: earlier.key}
        key, identity = trail.given, self._is_identity(stage, options, trail)
        if not identity:
            key = self._key(stage, occurrence, options, key, roles)
        trail.leave(stage, key, identity)
        return Step(
            stage, occurrence, point, options, key,
            identity=identity, seeded=seeded, roles=roles, sides=sides,
        )  # fmt: skip

    def _check_data_free(self) -> None:
        """Refuse stages that would read what the student is said to do without.

        The training is the teacher's own, unless the student is what is trained.
        """
        config, teaching = self.run.config, self.run.teaching
        name, student = teaching.blind, teaching.at == "train"
        acting = {step.stage for step in self.steps if not step.identity}
        asked = list(config["stages"])
        reading = {"recalibrate", "finetune"} if student else {"recalibrate"}
        culprits = [stage for stage in dict.fromkeys(asked) if stage in acting & reading]
        wishes = []
        if culprits:
            left = ",".join(stage for stage in asked if stage not in culprits)
            wishes.append(f"stages=[{left}]")
        if "compress" in acting:
            cut = self.run.pruning.reads_images(self.run.blank())
            culprits += ["prune"] if cut else []
            wishes += cut
        if student and "pretrain" in acting:
            culprits, wishes = [*culprits, "pretrain"], [*wishes, "pretrain=none"]
        epochs = self.run.recipes.train.epochs
        if student and self.run.remedy.rehearsals(self.run.data.size("train"), epochs)[0]:
            culprits, wishes = [*culprits, "robust"], [*wishes, "robust=none"]
        if student and config["baselines"]:
            culprits, wishes = [*culprits, "baselines"], [*wishes, "baselines=false"]
        if wishes:
            raise UsageError(
                f"distill={name} reads no image of the data, and {' and '.join(culprits)} would: "
                f"type {' '.join(wishes)}"
            )

    def _check_unvalidated(self) -> None:
        """Refuse trainings that pick their epoch, or end, by validation images: there are none."""
        wishes: dict[str, None] = {}
        for step in self._all_steps().values():
            if step.identity or not step.trains:
                continue
            name = "train" if step.stage == "baseline" else step.stage
            own = step.options.recipe
            peak = own.select == "clean_peak" and self._sees_wrong_labels(step)
            if step.options.teaching.blind or peak or not own.epochs:
                continue
            rewound = step.stage == "train" and step.options.until is not None
            if own.select != "last" and not rewound:
                wishes[f"{name}.select=last"] = None
            if own.patience is not None:
                wishes[f"{name}.patience=null"] = None
        if wishes:
            raise UsageError(
                "no validation image: raise dataset.validation, add images, or type "
                f"{' '.join(wishes)}"
            )

    def _sees_wrong_labels(self, step: Step) -> bool:
        """Whether a training has true labels beside those that it trains on."""
        if step.stage == "finetune" and step.options.recovery.labels == "clean":
            return False
        clean = step.stage == "pretrain" or step.point == "clean"  # a baseline's
        return self.run.labels.known and self.run.labels.noisy and not clean

    def _unrolled(self) -> list[tuple[str, Any]]:
        """The stages with their options; what stands from compress on comes once a round."""
        names = list(self.run.config["stages"])
        if not self.run.recipes.pretrain.is_none:
            names = ["pretrain", *names]
        place = names.index("compress") if "compress" in names else len(names)
        found = [(name, self._options(name)) for name in names[:place]]
        if place == len(names):
            return found
        for pruning, otherwise in self.run.pruning.rounds(self._layers):
            for name in names[place:]:
                options = pruning if name == "compress" else self._options(name)
                if name == "finetune":
                    recovery = finetune.in_round(options.recovery, otherwise)
                    options = replace(options, recovery=recovery)
                found.append((name, options))
        return found

    def _layers(self) -> Layers:
        return compress.preview(self.run.blank(), self.run.pruning)["layers"]

    def _start_key(self, spec: Spec) -> str:
        code = sources({"_target_": spec.factory})
        builds = builders(spec.factory)
        others = {"spec": spec.to_json(), "libraries": builds}
        if spec == self.run.trained_spec and self.run.brought:  # a teacher is one of this tool's
            others["brought"] = self.run.brought
        key = key_of(code=code, **others)
        return self.origins.add(key, code, {}, Origin(""), others)

    def _taught(self, stage: str, dense: str) -> tuple[dict[str, str], tuple[Step, ...]]:
        """The roles of a stage's teachers, and the trainings that make them.

        dense: key of what entered the first compress stage, or of what enters this one.
        """
        teaching = self.run.teaching.in_stage(stage)
        if not teaching.needs_teacher:
            return {}, ()
        teacher = teaching.teacher
        if teacher.source == "dense":
            return {"teacher": dense}, ()
        if teacher.source == "model":
            spec = teacher_spec(teacher, self.run.spec)
            options = replace(
                self._train(),
                teaching=Teaching.none(),
                frozen=False,  # it has no pretrained trunk
            )
            if teacher.epochs is not None:
                recipe = options.recipe.with_optimizer(epochs=teacher.epochs)
                options = replace(options, recipe=recipe)
            key = self._key("train", 1, options, self._start_key(spec), {})
            step = Step("train", 1, "teacher", options, key, False, ("train", 1), spec=spec)
            return {"teacher": key}, (step,)
        return {f"teacher_{number}": key for number, key in enumerate(self.run.teachers)}, ()

    def _rewound(self, start: str, epoch: int) -> Step:
        """The dense training up to the epoch that is gone back to, an entry of its own.

        The dense network's key knows nothing of it, so that all who do not rewind share that.
        """
        train = self._train()
        if epoch == 0:
            train = replace(train, recipe=train.recipe.with_optimizer(epochs=0))
        else:
            train = replace(train, until=epoch)
        key = self._key("train", 1, train, start, {})
        return Step("train", 1, f"rewind_{epoch}", train, key, False, ("train", 1))

    def _key(
        self,
        stage: str,
        occurrence: int,
        options: StageOptions,
        parent: str,
        roles: Mapping[str, str],
    ) -> str:
        read = self.in_key(stage, options)
        code = sources(read)
        others = {
            "stage": stage,
            "version": STAGES[stage].version,
            "occurrence": occurrence,
            "options": read,
            "seed": self.run.seed,
            "precision": self.run.precision,
            # batches are per process: more of them are another training
            "devices": self.run.machine.devices if self._trains(stage, options) else 1,
        }
        labels = self._labels_key(stage, options)
        key = key_of(
            **others, code=code, parent=parent, roles=roles, labels=labels, data=self.run.data_key
        )
        above = {**roles, "parent": parent}
        return self.origins.add(key, code, above, self.run.data_origin, others)

    def _trains(self, stage: str, options: StageOptions) -> bool:
        return options.trains if stage == "compress" else STAGES[stage].trains

    def in_key(self, stage: str, options: StageOptions) -> dict[str, Any]:
        """What the stage's key says of its options, plain values."""
        if stage == "compress":
            return {**compress.in_key(options, self.run.machine), **self._drawn()}
        return dict(options) if stage == "recalibrate" else options.in_key()

    def _drawn(self) -> dict[str, str]:
        """Which labels say what images are drawn; without unequal classes none does."""
        return {} if self.run.alike is None else {"drawn": self.run.alike.key}

    def _options(self, stage: str) -> StageOptions:
        """The stage's own: on what it is not given it cannot depend."""
        if stage == "recalibrate":
            return {**self.run.config["recalibrate"], **self._drawn()}
        if stage == "pretrain":
            return PretrainOptions(pretraining=self.run.recipes.pretrain)
        return self._train() if stage == "train" else self._finetune()

    def _train(self) -> TrainOptions:
        run = self.run
        if not run.regularizer.is_none:
            run.regularizer.penalties(run.blank().net)  # refuses what it finds nothing to act on
        return TrainOptions(
            recipe=run.recipes.train,
            remedy=Chosen(run.remedy, run.config["robust"]),
            regularizer=Chosen(run.regularizer, run.config["regularize"]),
            teaching=run.teaching.in_stage("train"),
            frozen=run.recipes.pretrain.frozen,
            balanced=run.recipes.balanced,
        )

    def _finetune(self) -> FinetuneOptions:
        run, remedy = self.run, NO_REMEDY
        if run.recipes.finetune.robust == "same":
            remedy = Chosen(run.remedy, run.config["robust"])
        return FinetuneOptions(
            recovery=run.recovery,
            remedy=remedy,
            teaching=run.teaching.in_stage("finetune"),
            balanced=run.recipes.balanced,
        )

    def _is_identity(self, stage: str, options: StageOptions, trail: Trail) -> bool:
        if stage == "compress":
            return not options.cuts
        if stage == "recalibrate":
            return trail.idle or not self._has_batch_norm()
        return stage == "finetune" and options.recovery.is_none

    def _has_batch_norm(self) -> bool:
        return recalibrate.has_batch_norm(self.run.blank().net)

    def _labels_key(self, stage: str, options: StageOptions) -> str:
        """A stage that reads no label, or the clean ones, does not depend on the noise."""
        labels = self.run.labels
        if stage in ("train", "baseline"):
            return labels.key
        if stage == "pretrain":
            return labels.images_key
        if stage == "compress":
            judged = CLEAN if self.run.judging is None else self.run.judging.key
            # a training inside may read the given labels beside those that a cut is judged by
            apart = options.trains and labels.key != judged
            return key_of(judged=judged, given=labels.key) if apart else judged
        if stage != "finetune":
            return CLEAN
        return labels.clean_key if options.recovery.labels == "clean" else labels.key

    def _baselines(self) -> tuple[Step, ...]:
        """The trainings that noisy-then-clean is compared with: noisy only, clean only, mixed."""
        if not self.run.config["baselines"]:
            return ()
        if not self.run.labels.known:
            raise UsageError(
                "baselines=true trains on the clean labels, and which of noise.file's are right is "
                "unknown: type baselines=false, or noise.known=true if the data set's own labels "
                "are the true ones"
            )
        trained = next(s for s in self.steps if s.stage == "train")
        root = self.root.key if self.root else self._start_key(self.run.trained_spec)
        roles, sides = self._taught("train", root)
        steps = []
        labels, recovery = self.run.labels, self.run.recipes.finetune
        for kind in baseline.kinds(
            labels.damage is not None, labels.noisy, recovery.clean_fraction
        ):
            options = baseline.options(kind, self._train(), recovery)
            key = self._key("baseline", 1, options, root, roles)
            # it begins with the weights that the training began with
            step = Step("baseline", 1, kind, options, key, False, ("train", 1), roles, sides)
            shared = options.training.in_key()
            if kind == "noisy" and trained.options.in_key() == shared:
                step = replace(trained, point=kind)  # the run's own training has no remedy either
            steps.append(step)
        return tuple(steps)

    def changed_code(self) -> dict[str, list[str]]:
        """File -> titles of the stages that were done before and are made again because of it."""
        found: dict[str, list[str]] = {}
        for key, step in self._all_steps().items():
            if not self.run.cache.holds(key):
                for file in self.origins.changed(self.run.cache, key):
                    found.setdefault(file, []).append(step.title)
        return found

    def _all_steps(self) -> dict[str, Step]:
        walked = (*self.steps, *self.baselines)
        return {part.key: part for step in walked for part in (*step.sides, step)}

    def reused(self) -> dict[str, bool]:
        return {key: self.run.cache.holds(key) for key in self._all_steps()}
