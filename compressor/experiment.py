"""One composed config, ready to run: checked, its data prepared, its labels drawn, keys of both."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor import artefact, automatic, brought, checks, models, starting
from compressor.artefact import Artefact, Spec
from compressor.cache import Cache, key_of
from compressor.changed_code import Origin
from compressor.data import ImageData
from compressor.errors import UsageError
from compressor.explain import entries
from compressor.export.formats import Export
from compressor.instantiation import Chosen, builders, made, make, sources
from compressor.manifest import digest
from compressor.noise import Noise
from compressor.regularize import Regularizer
from compressor.robust import Remedy
from compressor.seeding import derive
from compressor.stages import Context, Judging, Machine, _classes, _unlabelled, train
from compressor.stages import noise as noise_stage
from compressor.stages._answer import check_network, check_teaches
from compressor.stages._blank import Blank, blank, memory, parameter_bytes, too_large
from compressor.stages._distill.options import (
    Teaching,
    check_fits,
    check_fixed,
    check_layers,
    teacher_spec,
)
from compressor.stages._distill.teacher import Called, check_answer
from compressor.stages._labels import check_labels, resolve, trusted
from compressor.stages._pruning import Pruning
from compressor.stages._recipe import Recipes, Recovery
from compressor.surgery import EMPTY_PLAN, Plan
from compressor.tasks import Task


class Experiment:
    """What a run works on and with. `plan.RunPlan` says in which steps."""

    def __init__(
        self,
        config: Mapping[str, Any],
        run_dir: Path = Path(),
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """note: told what happens, a line each.

        `config` then has a number for every `auto` of the one that was given; `resolved` says which
        and why: {key: {"value", "reason"}}.
        """
        self.note = note
        self.seed = int(config["seed"])
        self.precision = str(config["precision"])
        # each group is read here and nowhere else; what an `auto` stands for is told by the data
        self.pruning = Pruning.read(config["prune"])
        self.start = starting.of(config)
        self.remedy: Remedy = made(config["robust"], Remedy)
        self.regularizer: Regularizer = made(config["regularize"], Regularizer)
        self.noise: Noise = made(config["noise"], Noise)
        self.teaching = Teaching.read(config["distill"])
        begun = automatic.stood_in(config)
        self.recipes = Recipes.read(begun)
        self._check_recipes(begun)
        self.export = Export.read(config["export"])
        self.probes = entries.read(config["explain"])
        self.machine = Machine(**config["machine"])
        self._start_machine()
        self.task: Task = make(config["task"])
        _unlabelled.check(config, self.task)
        self.trust = models.trusted(config["model"]["_target_"])
        self.data, self.spec = self._data_and_spec(config)
        self.preprocess, self.classes = self.data.preprocess, self.data.classes
        # once, here: all below sees numbers
        self.config, self.resolved = automatic.resolve(config, self.data)
        if self.resolved:
            self.recipes = self.recipes.resolved(self.config)
            self._check_recipes(self.config)
            _check_memory(self.config, self.data.input_size)
        config = self.config
        _check_weights(self.recipes, self.blank().net, self.machine.device)
        check_network(self.blank(), self.task)
        _classes.check_figures(self.recipes, self.task)
        self.cache = Cache.of(config["cache"], run_dir, note)
        self.data_keys = _data_keys(config, self.data)
        # a training that depends on no test image survives one that has to be repaired
        self.data_key, self.test_key = self.data_keys["train"], self.data_keys["test"]
        dataset = config["dataset"]
        self.data_origin = Origin(
            key_of(
                data=self.data.fingerprint("train"),
                noise=config["noise"],
                labelled=[dataset["labelled_fraction"], dataset["labelled_seed"]],
            ),
            _data_code(config),
        )
        self.labels = self._read_labels()
        self._check_labels()
        self.teachers = self._given_teachers()
        self._check_taught_layers()

    def _check_recipes(self, config: Mapping[str, Any]) -> None:
        """What the groups ask of one another, once there is a number for every `auto` of config."""
        checks.check(config, self.recipes, self.teaching, self.pruning, self.start)
        _classes.check(self.recipes, self.remedy, self.teaching)

    def _start_machine(self) -> None:
        if self.machine.threads is not None:
            torch.set_num_threads(self.machine.threads)

    def _read_labels(self) -> noise_stage.Labels:
        if not self.task.labelled:
            return _unlabelled.no_labels(self.data)
        dataset = self.config["dataset"]
        return noise_stage.labels(
            Chosen(self.noise, self.config["noise"]),
            self.data,
            self.data_key,
            self.cache,
            (dataset["labelled_fraction"], dataset["labelled_seed"]),
            keep=not self.config["plan_only"],
        )

    def _check_labels(self) -> None:
        """What the methods ask of the labels, once it is known which there are."""
        check_labels(self.recovery, self.remedy, self.labels.known, self.trains)
        for stage in ("train", "finetune"):
            if self.recipes.of(stage).select == "clean_peak" and not self.labels.known:
                raise UsageError(
                    f"{stage}.select=clean_peak needs the true labels, and the labels come from "
                    f"noise.file: type {stage}.select=best, or noise.known=true if the data set's "
                    "own labels are the true ones"
                )
        if "train" in self.config["stages"] or self.recipes.finetune.robust == "same":
            train.check(self.remedy, self.labels.injected, self.teaching.in_stage("train"))

    def _data_and_spec(self, config: Mapping[str, Any]) -> tuple[ImageData, Spec]:
        data, unscaled, factory, arguments = _scaled(config, self.note)
        _check_memory(config, data.input_size)
        data.prepare(self.note)
        spec = Spec(factory, arguments, data.input_size, data.num_classes, self.task.name)
        model = {name: value for name, value in config["model"].items() if name != "_target_"}
        self.unscaled = replace(spec, arguments=model, input_size=unscaled).handed_on()
        self.started = self.start.read(spec.handed_on(), self.trust)
        if self.started is not None:
            self.trained_spec = self.started.spec
            if self.start.own_network:
                self.unscaled = self.started.spec
            return data, self.started.spec
        self.trained_spec = spec  # what the training builds; all else sees what it hands on
        models.check_trained(factory, arguments, data.input_size)
        return data, spec.handed_on()

    @property
    def base(self) -> Plan:
        """What had been done to the network that the walk begins with."""
        return EMPTY_PLAN if self.started is None else self.started.plan

    @property
    def trains(self) -> bool:
        """Whether the stage train runs, with an epoch at least."""
        return "train" in self.config["stages"] and self.recipes.train.epochs > 0

    def scaled(self, factors: Mapping[str, float]) -> Spec:
        """What would be built with these factors of `scale` in place of those that were asked."""
        config = {**self.config, "scale": {**self.config["scale"], **factors}}
        data, _, _, arguments = _scaled(config)
        spec = replace(self.trained_spec, arguments=arguments, input_size=data.input_size)
        return spec.handed_on()

    def _given_teachers(self) -> dict[str, Artefact]:
        """Teachers that were trained elsewhere, by keys that follow from their content."""
        teaching = self.teaching
        if not teaching.needs_teacher:
            return {}
        check_fixed(teaching, self.data, self.labels.damage is not None)
        if teaching.teacher.source != "artefact":
            return {}
        found = {}
        for place in teaching.teacher.paths:
            kept = artefact.read(artefact.find(place))
            check_fits(kept.spec, self.spec, str(place))
            kept.network(self.trust)  # a damaged one is refused here, and compared with its list
            key = key_of(teacher=artefact.content(kept), libraries=builders(kept.spec.factory))
            found[key] = replace(kept, key=key, sealed=None)
        return found

    @property
    def recovery(self) -> Recovery:
        """The fine-tuning, its labels resolved."""
        return replace(self.recipes.finetune, labels=self.finetune_labels())

    def finetune_labels(self) -> str:
        asked = self.recipes.finetune.labels
        corrects = self.remedy.corrects if self.trains else ()
        return resolve(asked, self.labels.known, self.labels.injected, corrects)

    @property
    def data_free(self) -> bool:
        """Whether a student learns from made images alone, so that no stage of it sees others."""
        at = self.teaching.at
        acts = at in self.config["stages"] and self.recipes.of(at).epochs
        return bool(acts and self.teaching.blind)

    @cached_property
    def judging(self) -> Judging | None:
        """What a criterion may read of labels, None where it reads none of them."""
        if not self.task.labelled:
            return None
        found = self._trusted()
        if found.key == noise_stage.CLEAN:  # all of them, as good as none
            return found
        return found if self.pruning.reads_labels(self.blank()) else None

    @cached_property
    def alike(self) -> Judging | None:
        """Labels by whose classes images for statistics are drawn alike, None where these are even.

        The true ones where the fine-tuning trusts them all, else the given ones.
        """
        labels, own = self.labels, self.recovery
        clean = own.labels == "clean" and own.clean_fraction == 1
        targets, key = (labels.clean, labels.clean_key) if clean else (labels.given, labels.key)
        found = _classes.counts(targets, labels.labelled, self.data.num_classes)
        even = _classes.ratio(found) <= _classes.UNEQUAL
        return None if even else Judging(targets, labels.labelled, key)

    def _trusted(self) -> Judging:
        """Corrected labels are made later: where these are trusted, the given ones count."""
        labels, own = self.labels, self.recovery
        if own.labels != "clean":
            return Judging(labels.given, labels.labelled, labels.key)
        share, seed = own.clean_fraction, own.clean_seed
        index = trusted(labels.clean, labels.labelled, share, seed)
        key = labels.clean_key
        if share < 1:
            key = key_of(labels=key, trusted=hashlib.sha256(index.numpy()).hexdigest())
        return Judging(labels.clean, index, key)

    @cached_property
    def brought(self) -> str:
        """What a class of the user's own gives the new network, such as weights from a file."""
        spec = self.trained_spec
        if spec.factory not in self.trust:
            return ""
        return brought.digest(lambda: spec.build(self.trust).state_dict())

    def blank(self, spec: Spec | None = None) -> Blank:
        """The dense network, or with `spec` another, before any stage."""
        if spec is None:
            return blank(self.spec, self.trust, self.task, self.base)
        return blank(spec, self.trust, self.task)

    def _check_taught_layers(self) -> None:
        """Layers that terms name are told from others before anything is trained."""
        teaching = self.teaching
        if teaching.is_none:
            return
        check_teaches(self.blank(), self.task)
        source = teaching.teacher.source
        student = teacher = self.blank()
        if source == "model":
            teacher = self.blank(teacher_spec(teaching.teacher, self.spec))
        elif source == "artefact" and self.teachers:
            teacher = self.blank(next(iter(self.teachers.values())).spec)
        if source == "callable" and teaching.needs_teacher:
            called = Called(str(teaching.teacher.function))
            asked = replace(teaching.teacher, answers=check_answer(called, self.spec, self.task))
            self.teaching = replace(teaching, teacher=asked)
        taught = None if source == "callable" else teacher.net
        check_layers(teaching, student.net, taught, *student.inputs)

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
            noise_rate=self.labels.injected_rate,
            labelled=self.labels.labelled,
            damage=self.labels.damage,
            judging=self.judging,
            data_free=self.data_free,
            alike=self.alike,
            trust=self.trust,
            roles=roles,
            note=self.note,
        )


def _scaled(
    config: Mapping[str, Any], note: Callable[[str], None] | None = None
) -> tuple[ImageData, tuple[int, int, int], str, Mapping[str, Any]]:
    """The data at the size that `scale` asks for, their size before, the builder, its arguments.

    note: told how far a reading is, where the images themselves have to say their size.
    """
    options = dict(config["dataset"])
    for name in ("labelled_fraction", "labelled_seed", "sampler"):
        del options[name]  # the labels' business, and the trainings'
    data: ImageData = make(options)
    if options.get("image_size") == automatic.AUTO:
        data.prepare(note)
    model = dict(config["model"])
    factory = model.pop("_target_")
    unscaled = data.input_size
    arguments, size = make(config["scale"]).scale(model, unscaled)
    if tuple(size) != tuple(unscaled):
        data = data.resized(size[-1])
    return data, unscaled, factory, arguments


def _check_memory(config: Mapping[str, Any], size: tuple[int, int, int]) -> None:
    """Refuse batches whose images alone are more than this machine's memory."""
    has = memory()
    batches = {f"{name}.batch_size": config[name]["batch_size"] for name in ("train", "finetune")}
    batches["machine.eval_batch_size"] = config["machine"]["eval_batch_size"]
    for key, count in batches.items():
        # of `auto` it is asked again when that is a number
        needs = 0 if count == automatic.AUTO else 4 * count * math.prod(size)  # float32
        if needs > has:
            raise UsageError(
                f"{key}={count} images of {'x'.join(map(str, size))} take {needs / 1e9:.3g} GB, "
                f"and this machine has {has / 1e9:.3g} GB: lower it, or dataset.image_size"
            )


def _check_weights(recipes: Recipes, net: nn.Module, device: torch.device) -> None:
    """Refuse a network whose weights, gradients and optimizer state are more than the memory.

    Of a training on a GPU the machine's own memory holds the weights alone.
    """
    copies, what = 1, "weights"
    for stage in ("train", "finetune"):
        options = recipes.of(stage).optimizer
        if options.epochs == 0 or device.type != "cpu":
            continue
        copies = max(copies, 2 + options.moments)
        what = "weights, gradients and optimizer state"
    needs = parameter_bytes(net, copies)
    if needs > memory():
        raise too_large(what, needs)


def _data_keys(config: Mapping[str, Any], data: ImageData) -> dict[str, str]:
    code = _data_code(config)
    return {part: key_of(data=data.fingerprint(part), code=code) for part in ("train", "test")}


def _data_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the user's own code, and files, that decide images and labels."""
    code = sources([config["dataset"], config["task"], config["noise"], config["scale"]])
    file = config["noise"].get("file")
    if file and isinstance(file, str) and Path(file).is_file():
        code = {**code, "noise.file": digest(Path(file))}
    return code


def data_keys(config: Mapping[str, Any]) -> dict[str, str]:
    """The report's `data` as it would be now: a kept report of other data is no result."""
    data, *_ = _scaled(config)
    data.prepare()
    made(config["noise"], Noise)  # says what is wrong with a file that cannot be read
    return _data_keys(config, data)
