"""The config group `distill`, read once when the experiment begins: who teaches what, and where.

All of it is known before anything is trained.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor.artefact import Spec
from compressor.data import ImageData
from compressor.distill import Term
from compressor.errors import UsageError
from compressor.instantiation import made
from compressor.options import hold
from compressor.schema import DistillationKeys
from compressor.stages._distill.features import shapes_of, taps_of


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Batches of samples of a few groups (`distill.sampler`, one but none).

    per_group: samples of a group in a batch. superclasses: groups that k-means finds, of
    superclass_uniform; 0: the data set's own.
    """

    sampler: str
    per_group: int
    superclasses: int


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Who teaches (`distill.teacher`); units and meanings in configs/run.yaml.

    answers: digest of what a function answers (`teacher.check_answer`), once it was asked.
    """

    source: str = "dense"
    path: str | tuple[str, ...] | None = None
    model: str = "resnet56"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    function: str | None = None
    answers: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Of source=artefact: the folders, of which there may be several."""
        if self.path is None:
            return ()
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def answers_logits_alone(self) -> str:
        """Why no feature of it can be read; "" where they can."""
        if self.source == "callable":
            return "a callable"
        several = self.source == "artefact" and not isinstance(self.path, str)
        return "several teachers" if several else ""


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What a stage learns beside, or in place of, its labels.

    at: the stage that is taught. terms: by name, as they were made. trees: their sub-trees, by
    which keys know them. label_weight: factor on the loss of the labels. cache_teacher: whether
    the teacher's logits of the train part are kept on disk.
    """

    at: str = "finetune"
    terms: Mapping[str, Term] = field(default_factory=dict)
    trees: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label_weight: float = 1.0
    grouping: Grouping | None = None
    teacher: Teacher = Teacher()
    cache_teacher: bool = False

    @classmethod
    def none(cls) -> "Teaching":
        """That of a stage that learns from its labels alone."""
        return cls()

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> "Teaching":
        """tree: the `distill` group. Raises UsageError for what no run can do."""
        hold(DistillationKeys, "distill", tree)
        _check_grouping(tree)
        grouping = Grouping(**{name: tree[name] for name in Grouping.__dataclass_fields__})
        path = tree["teacher"]["path"]
        path = path if path is None or isinstance(path, str) else tuple(path)
        read = cls(
            at=tree["at"],
            terms={name: made(term, Term) for name, term in tree["terms"].items()},
            trees=tree["terms"],
            label_weight=tree["label_weight"],
            grouping=None if grouping.sampler == "none" else grouping,
            teacher=Teacher(**{**tree["teacher"], "path": path}),
            cache_teacher=tree["cache_teacher"],
        )
        _check_terms(read)
        if read.needs_teacher:
            _check_teacher(read)
        return read

    def in_stage(self, stage: str) -> "Teaching":
        """What of it acts in a stage: all of it, or none."""
        return self if self.at == stage and not self.is_none else self.none()

    def fresh(self) -> "Teaching":
        """With copies of the terms: what they learn in one training is no part of the next one."""
        return replace(self, terms=copy.deepcopy(dict(self.terms)))

    @property
    def is_none(self) -> bool:
        return not self.terms

    @property
    def names(self) -> str:
        return ", ".join(self.terms)

    @property
    def acting(self) -> dict[str, Term]:
        """The terms that count, by name: one of weight 0 is not computed."""
        return {name: term for name, term in self.terms.items() if term.weight}

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.terms.values())

    @property
    def blind(self) -> str:
        """The term under which the stage sees made images alone; "" where it sees real ones."""
        found = self.acting.items()
        return next((name for name, term in found if not term.reads_images), "")

    @property
    def reads_labels(self) -> bool:
        """Whether the stage looks at a label: its own loss, or a term without teacher."""
        without = any(not term.needs_teacher for term in self.acting.values())
        return bool(self.label_weight and not self.blind) or without

    def in_key(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "label_weight": self.label_weight,
            "terms": {name: dict(tree) for name, tree in self.trees.items()},
        }
        if self.grouping is not None:
            found["sampler"] = dict(vars(self.grouping))
        if self.cache_teacher:
            found["cache_teacher"] = True
        if self.teacher.source == "callable" and self.needs_teacher:
            # under the name that the digest of its source is found by
            found["teacher"] = {"_target_": self.teacher.function}
            if self.teacher.answers:
                found["teacher"]["answers"] = self.teacher.answers
        return found


def _check_grouping(tree: Mapping[str, Any]) -> None:
    if tree["superclasses"] == 1:
        raise UsageError(
            "distill.superclasses=1 leaves nothing to tell apart: give 2 or more, or 0 for the "
            "data set's own"
        )


def _check_terms(teaching: Teaching) -> None:
    for name, term in teaching.terms.items():
        if term.owns_training and len(teaching.terms) > 1:
            raise UsageError(
                f"distill={name} takes the whole training: it cannot stand beside "
                f"{', '.join(other for other in teaching.terms if other != name)}"
            )
        if term.only_at not in (None, teaching.at):
            raise UsageError(
                f"distill={name} trains a network from the start: use distill.at={term.only_at}"
            )


def _check_teacher(teaching: Teaching) -> None:
    teacher, source = teaching.teacher, teaching.teacher.source
    if source == "dense" and teaching.at == "train":
        raise UsageError(
            "distill.at=train has no dense network to learn from yet: use distill.at=finetune, or "
            "distill.teacher.source=model, artefact or callable"
        )
    needed = {
        "artefact": ("path", teacher.paths, "outputs/runs/.../model"),
        "callable": ("function", teacher.function, "my_package.predict"),
        "model": ("model", teacher.model, "resnet56"),
    }.get(source)
    if needed and not needed[1]:
        raise UsageError(
            f"distill.teacher.source={source} needs distill.teacher.{needed[0]}, such as "
            f"{needed[2]}"
        )
    if source == "model":
        _spec(teacher, (3, 32, 32), 2)  # refuses unknown names
    for name, term in teaching.terms.items():
        _check_readable(name, term, teaching)


def _check_readable(name: str, term: Term, teaching: Teaching) -> None:
    """Refuse a term that reads what such a teacher does not tell."""
    if teaching.teacher.source == "callable" and term.makes_images:
        raise UsageError(
            f"distill={name} makes images of the teacher's input size through its gradients, "
            "and distill.teacher.source=callable tells neither: use dense, model or artefact"
        )
    what = teaching.teacher.answers_logits_alone
    if what and term.layers()[1]:
        raise UsageError(
            f"distill={name} reads features of the teacher, and {what} gives logits alone: use "
            "kd or mimic, or another distill.teacher"
        )
    if teaching.cache_teacher and term.layers()[1]:
        raise UsageError(
            f"distill.cache_teacher keeps logits alone, and distill={name} reads features of "
            "the teacher: use distill.cache_teacher=false"
        )


def check_fixed(teaching: Teaching, data: ImageData, damaged: bool) -> None:
    """Refuse to keep what the teacher answers to images that are not always the same.

    damaged: whether the noise is one of the images.
    """
    if teaching.cache_teacher and damaged:
        raise UsageError(
            "distill.cache_teacher keeps what the teacher answers to the images as they are, and "
            "this noise changes them: set distill.cache_teacher=false"
        )
    augment = data.augment
    if teaching.cache_teacher and (augment.crop or augment.flip or augment.scale < 1):
        raise UsageError(
            "distill.cache_teacher keeps one answer an image, and the train images change from "
            "epoch to epoch: set dataset.augment.crop=0 dataset.augment.flip=false "
            "dataset.augment.scale=1.0, or distill.cache_teacher=false"
        )


def check_layers(
    teaching: Teaching, student: nn.Module, teacher: nn.Module | None, images: Tensor
) -> None:
    """Refuse layers that are not there or do not meet, before the first epoch.

    student, teacher: before any cut, which changes widths alone; without storage if need be, as
    the images. teacher: None where it gives logits alone.
    """
    acting = teaching.fresh().acting
    for term in acting.values():
        term.check_student(student)
    # the layers of one with several heads are there when it has made these
    terms = {name: term for name, term in acting.items() if term.heads == 1}
    own, other = taps_of(terms, student, teacher)
    try:
        shapes = [shapes_of(n, taps, images) for n, taps in ((student, own), (teacher, other))]
    except (RuntimeError, NotImplementedError):
        return  # a network that needs real values: the stage itself will tell
    with torch.random.fork_rng(devices=[]):
        for term in terms.values():
            term.adapter(*shapes, tuple(images.shape[1:]))


def _spec(teacher: Teacher, size: tuple[int, ...], classes: int) -> Spec:
    """Of source=model: one of this tool's networks, its other options at their defaults."""
    from compressor import models

    arguments = models.full_arguments(teacher.model, teacher.arguments, "distill.teacher")
    return Spec(f"compressor.models.{teacher.model}", arguments, tuple(size), classes)


def teacher_spec(teacher: Teacher, student: Spec) -> Spec:
    from compressor import models

    spec = _spec(teacher, student.input_size, student.num_classes)
    models.check_trained(spec.factory, spec.arguments, spec.input_size)
    return spec


def check_fits(teacher: Spec, student: Spec, where: str) -> None:
    """Refuse a teacher of other classes or of another input size."""
    if teacher.num_classes != student.num_classes:
        raise UsageError(
            f"the teacher {where} has {teacher.num_classes} classes, the student "
            f"{student.num_classes}: choose one that was trained on the same classes"
        )
    if tuple(teacher.input_size) != tuple(student.input_size):
        sizes = ["x".join(map(str, spec.input_size)) for spec in (teacher, student)]
        raise UsageError(
            f"the teacher {where} takes images of {sizes[0]}, the student of {sizes[1]}: set "
            "dataset.image_size and dataset.channels to the teacher's"
        )
