"""The config group `distill`: what it can have wrong, what a stage reads of it, whom it names.

All of it is known before anything is trained.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressor.artefact import Spec
from compressor.errors import UsageError
from compressor.instantiation import make
from compressor.options import hold
from compressor.schema import Distillation
from compressor.stages._distill.features import shapes_of, taps_of


def check(options: Mapping[str, Any]) -> None:
    """Refuse what no run can do, before any data is read. options: the distill group."""
    at = options["at"]
    hold(Distillation, "distill", options)
    if options["superclasses"] == 1:
        raise UsageError(
            "distill.superclasses=1 leaves nothing to tell apart: give 2 or more, or 0 for the "
            "data set's own"
        )
    terms = {name: make(term) for name, term in options["terms"].items()}
    for name, term in terms.items():
        if term.alone and len(terms) > 1:
            raise UsageError(
                f"distill={name} takes the whole training: it cannot stand beside "
                f"{', '.join(other for other in terms if other != name)}"
            )
        if term.only_at not in (None, at):
            raise UsageError(
                f"distill={name} trains a network from the start: use distill.at={term.only_at}"
            )
    if any(term.needs_teacher for term in terms.values()):
        _check_teacher(options, terms)


def _check_teacher(options: Mapping[str, Any], terms: Mapping[str, Any]) -> None:
    at, teacher = options["at"], options["teacher"]
    source = teacher["source"]
    if source == "dense" and at == "train":
        raise UsageError(
            "distill.at=train has no dense network to learn from yet: use distill.at=finetune, or "
            "distill.teacher.source=model, artefact or callable"
        )
    needed = {"artefact": "path", "callable": "function", "model": "model"}.get(source)
    if needed and not teacher[needed]:
        example = {
            "path": "outputs/runs/.../model",
            "function": "my_package.predict",
            "model": "resnet56",
        }
        raise UsageError(
            f"distill.teacher.source={source} needs distill.teacher.{needed}, such as "
            f"{example[needed]}"
        )
    epochs = teacher["epochs"]
    if epochs is not None and (not isinstance(epochs, int) or epochs < 0):
        raise UsageError(f"distill.teacher.epochs={epochs}: give a whole number, or null")
    if source == "model":
        _spec(teacher, (3, 32, 32), 2)  # refuses unknown names
    several = source == "artefact" and not isinstance(teacher["path"], str)
    for name, term in terms.items():
        if source == "callable" and hasattr(term, "draw"):
            raise UsageError(
                f"distill={name} makes images of the teacher's input size through its gradients, "
                "and distill.teacher.source=callable tells neither: use dense, model or artefact"
            )
        if (source == "callable" or several) and term.layers()[1]:
            what = "a callable" if source == "callable" else "several teachers"
            raise UsageError(
                f"distill={name} reads features of the teacher, and {what} gives logits alone: use "
                "kd or mimic, or another distill.teacher"
            )
        if options["cache_teacher"] and term.layers()[1]:
            raise UsageError(
                f"distill.cache_teacher keeps logits alone, and distill={name} reads features of "
                "the teacher: use distill.cache_teacher=false"
            )


def check_fixed(options: Mapping[str, Any], augment: Any, damaged: bool) -> None:
    """Refuse to keep what the teacher answers to images that are not always the same.

    damaged: whether the noise is one of the images.
    """
    if options["cache_teacher"] and damaged:
        raise UsageError(
            "distill.cache_teacher keeps what the teacher answers to the images as they are, and "
            "this noise changes them: set distill.cache_teacher=false"
        )
    if options["cache_teacher"] and (augment.crop or augment.flip or augment.scale < 1):
        raise UsageError(
            "distill.cache_teacher keeps one answer an image, and the train images change from "
            "epoch to epoch: set dataset.augment.crop=0 dataset.augment.flip=false "
            "dataset.augment.scale=1.0, or distill.cache_teacher=false"
        )


def check_layers(
    options: Mapping[str, Any], student: nn.Module, teacher: nn.Module | None, images: Tensor
) -> None:
    """Refuse layers that are not there or do not meet, before the first epoch.

    student, teacher: before any cut, which changes widths alone; without storage if need be, as
    the images. teacher: None where it gives logits alone.
    """
    made = {name: make(term) for name, term in options["terms"].items()}
    acting = {name: term for name, term in made.items() if term.weight}
    for term in acting.values():
        if hasattr(term, "grow"):
            term.forks(student)
    terms = {name: term for name, term in acting.items() if not hasattr(term, "grow")}
    own, other = taps_of(terms, student, teacher)
    try:
        shapes = [shapes_of(n, taps, images) for n, taps in ((student, own), (teacher, other))]
    except (RuntimeError, NotImplementedError):
        return  # a network that needs real values: the stage itself will tell
    with torch.random.fork_rng(devices=[]):
        for term in terms.values():
            if hasattr(term, "adapter"):
                term.adapter(*shapes, tuple(images.shape[1:]))


def reads(options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the distill group that a stage with terms depends on, for its key."""
    found = {name: options[name] for name in ("label_weight", "terms")}
    if options["sampler"] != "none":
        found["sampler"] = {n: options[n] for n in ("sampler", "per_group", "superclasses")}
    if options["cache_teacher"]:
        found["cache_teacher"] = True
    if options["teacher"]["source"] == "callable" and needs_teacher(options):
        # under the name that the digest of its source is found by
        found["teacher"] = {"_target_": options["teacher"]["function"]}
    return found


def acting(options: Mapping[str, Any]) -> dict[str, Any]:
    """The terms that count, by name: one of weight 0 is not computed."""
    terms = {name: make(term) for name, term in options["terms"].items()}
    return {name: term for name, term in terms.items() if term.weight}


def blind(options: Mapping[str, Any]) -> str:
    """The term under which the stage sees made images alone; "" where it sees real ones."""
    found = acting(options).items()
    return next((name for name, term in found if hasattr(term, "draw") and not term.beside), "")


def reads_labels(options: Mapping[str, Any]) -> bool:
    """Whether the stage with these terms looks at a label: its own loss, or one without teacher."""
    alone = any(not term.needs_teacher for term in acting(options).values())
    return bool(options["label_weight"] and not blind(options)) or alone


def needs_teacher(options: Mapping[str, Any]) -> bool:
    return any(make(term).needs_teacher for term in options["terms"].values())


def _spec(teacher: Mapping[str, Any], size: tuple[int, ...], classes: int) -> Spec:
    """Of source=model: one of this tool's networks, its other options at their defaults."""
    from compressor import models

    arguments = models.full_arguments(teacher["model"], teacher["arguments"], "distill.teacher")
    return Spec(f"compressor.models.{teacher['model']}", arguments, tuple(size), classes)


def teacher_spec(options: Mapping[str, Any], student: Spec) -> Spec:
    from compressor import models

    spec = _spec(options["teacher"], student.input_size, student.num_classes)
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
