"""One composed config, ready to run: checked, its data prepared, its labels drawn, keys of both."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from compressor import artefact, checks, manifest, models
from compressor.artefact import Artefact, Spec
from compressor.cache import Cache, key_of
from compressor.data import ImageData
from compressor.errors import UsageError
from compressor.instantiation import make, sources
from compressor.seeding import derive
from compressor.stages import Context, Judging, Machine, compress, train
from compressor.stages import noise as noise_stage
from compressor.stages._blank import Blank, blank
from compressor.stages._distill import options as distill_options
from compressor.stages._distill.teacher import Called, check_answer
from compressor.stages._labels import check_labels, resolve, trusted
from compressor.tasks import Task


class Experiment:
    """What a run works on and with. `plan.RunPlan` says in which steps."""

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
        checks.check(config)
        self.robust = make(config["robust"])
        self.machine = Machine(**config["machine"])
        self._start_machine()
        self.task: Task = make(config["task"])
        self.trust = models.trusted(config["model"]["_target_"])
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
            keep=not config["plan_only"],
        )
        self._check_labels()
        self.teachers = self._given_teachers()
        self._check_taught_layers()

    def _start_machine(self) -> None:
        if self.machine.threads is not None:
            if self.machine.threads < 1:
                raise UsageError(
                    f"machine.threads={self.machine.threads} must be at least 1, or null"
                )
            torch.set_num_threads(self.machine.threads)

    def _check_labels(self) -> None:
        """What the methods ask of the labels, once it is known which there are."""
        options = {**self.config["finetune"], "labels": self.finetune_labels()}
        trained = self.config["train"]["epochs"] > 0
        check_labels(options, self.robust, self.labels.known, trained)
        for stage in ("train", "finetune"):
            if self.config[stage]["select"] == "clean_peak" and not self.labels.known:
                raise UsageError(
                    f"{stage}.select=clean_peak needs the true labels, and the labels come from "
                    f"noise.file: type {stage}.select=best, or noise.known=true if the data set's "
                    "own labels are the true ones"
                )
        distill = self.config["distill"]
        terms = distill["terms"] if distill["at"] == "train" else {}
        train.check(self.robust, self.labels.injected, terms)

    def _data_and_spec(self) -> tuple[ImageData, Spec]:
        data, unscaled, factory, arguments = _scaled(self.config)
        spec = Spec(factory, arguments, data.input_size, data.num_classes, "classification")
        self.trained_spec = spec  # what the training builds; all else sees what it hands on
        model = {name: value for name, value in self.config["model"].items() if name != "_target_"}
        self.unscaled = replace(spec, arguments=model, input_size=unscaled).handed_on()
        return data, spec.handed_on()

    def scaled(self, factors: Mapping[str, float]) -> Spec:
        """What would be built with these factors of `scale` in place of those that were asked."""
        config = {**self.config, "scale": {**self.config["scale"], **factors}}
        data, _, _, arguments = _scaled(config)
        spec = replace(self.trained_spec, arguments=arguments, input_size=data.input_size)
        return spec.handed_on()

    def _given_teachers(self) -> dict[str, Artefact]:
        """Teachers that were trained elsewhere, by keys that follow from their content."""
        distill = self.config["distill"]
        if not distill["terms"] or not distill_options.needs_teacher(distill):
            return {}
        distill_options.check_fixed(distill, self.data.augment, self.labels.damage is not None)
        if distill["teacher"]["source"] != "artefact":
            return {}
        path = distill["teacher"]["path"]
        found = {}
        for place in [path] if isinstance(path, str) else path:
            made = artefact.read(artefact.find(place))
            distill_options.check_fits(made.spec, self.spec, str(place))
            made.network(self.trust)  # a damaged one is refused here, and compared with its list
            files = ("spec.json", "plan.json", artefact.WEIGHTS)
            key = key_of(teacher={name: manifest.digest(made.folder / name) for name in files})
            found[key] = replace(made, key=key, sealed=None)
        return found

    def finetune_labels(self) -> str:
        asked = self.config["finetune"]["labels"]
        corrects = self.robust.corrects if self.config["train"]["epochs"] else ()
        return resolve(asked, self.labels.known, self.labels.injected, corrects)

    @cached_property
    def judging(self) -> Judging | None:
        """What a criterion may read of labels, None where it reads none of them."""
        found, prune = self._trusted(), self.config["prune"]
        if found.key == noise_stage.CLEAN:  # all of them, as good as none
            return found
        reads = not compress.is_none(prune) and compress.reads_labels(self.blank(), prune)
        return found if reads else None

    def _trusted(self) -> Judging:
        """Corrected labels are made later: where these are trusted, the given ones count."""
        labels, own = self.labels, self.config["finetune"]
        if self.finetune_labels() != "clean":
            return Judging(labels.given, labels.labelled, labels.key)
        share, seed = own["clean_fraction"], own["clean_seed"]
        index = trusted(labels.clean, labels.labelled, share, seed)
        key = labels.clean_key
        if share < 1:
            key = key_of(labels=key, trusted=hashlib.sha256(index.numpy()).hexdigest())
        return Judging(labels.clean, index, key)

    def blank(self, spec: Spec | None = None) -> Blank:
        """The dense network, or another, before any training."""
        return blank(spec or self.spec, self.trust, self.task)

    def _check_taught_layers(self) -> None:
        """Layers that terms name are told from others before anything is trained."""
        distill = self.config["distill"]
        if not distill["terms"]:
            return
        source = distill["teacher"]["source"]
        spec = self.spec
        if source == "model":
            spec = distill_options.teacher_spec(distill, self.spec)
        elif source == "artefact":
            spec = next((made.spec for made in self.teachers.values()), self.spec)
        if source == "callable" and distill_options.needs_teacher(distill):
            check_answer(Called(distill["teacher"]["function"]), spec, self.task)
        teacher = None if source == "callable" else self.blank(spec).net
        student = self.blank()
        distill_options.check_layers(distill, student.net, teacher, *student.inputs)

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
            judging=self.judging,
            trust=self.trust,
            roles=roles,
            note=self.note,
        )


def _scaled(
    config: Mapping[str, Any],
) -> tuple[ImageData, tuple[int, int, int], str, Mapping[str, Any]]:
    """The data at the size that `scale` asks for, their size before, the builder, its arguments."""
    options = dict(config["dataset"])
    del options["labelled_fraction"], options["labelled_seed"]  # the labels' business
    data: ImageData = make(options)
    model = dict(config["model"])
    factory = model.pop("_target_")
    unscaled = data.input_size
    arguments, size = make(config["scale"]).scale(model, unscaled)
    if tuple(size) != tuple(unscaled):
        data = data.resized(size[-1])
    return data, unscaled, factory, arguments


def _data_keys(config: Mapping[str, Any], data: ImageData) -> dict[str, str]:
    code = sources([config["dataset"], config["task"], config["noise"], config["scale"]])
    if config["noise"].get("file"):
        code = {**code, "noise.file": make(config["noise"]).content}
    return {part: key_of(data=data.fingerprint(part), code=code) for part in ("train", "test")}


def data_keys(config: Mapping[str, Any]) -> dict[str, str]:
    """The report's `data` as it would be now: a kept report of other data is no result."""
    data, *_ = _scaled(config)
    data.prepare()
    return _data_keys(config, data)
