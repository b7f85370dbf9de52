"""What a stage with a teacher begins with: the terms, the teacher, adapters, and what is trained.

Nothing here draws from the global random state: a distillation whose weights are all 0 gives the
numbers of none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from compressor.artefact import Spec
from compressor.instantiation import make
from compressor.seeding import derive
from compressor.stages import Context
from compressor.stages._distill.features import shapes_of, taps_of
from compressor.stages._distill.results import heads, made_images
from compressor.stages._distill.samplers import batch_groups
from compressor.stages._distill.teacher import (
    Logits,
    check_answer,
    given_teacher,
    validation_figure,
)
from compressor.stages._fit import TrainingSet
from compressor.tasks.training import Distillation


@dataclass(frozen=True, kw_only=True)
class Taught:
    """The network to train, and what it is trained with.

    blind: no image of the data is read; without a figure to choose by, the last epoch is taken.
    """

    student: nn.Module
    distillation: Distillation
    context: Context
    notes: dict[str, Any] = field(default_factory=dict)
    blind: bool = False

    def finish(self, net: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
        """The plain network that is left of the trained one, and what is to be told of it."""
        for name, term in self.distillation.acting.items():
            if hasattr(term, "grow"):
                return net.net.eval(), {**self.notes, "heads": heads(net, term, self.context)}
            if hasattr(term, "draw"):
                figures = made_images(net, name, term, self.distillation, self.context)
                return net, {**self.notes, "made_images": figures}
        return net, self.notes


def distillation(
    options: Mapping[str, Any],
    net: nn.Module,
    spec: Spec,
    training: TrainingSet,
    context: Context,
    another: Callable[[int], nn.Module] | None = None,
) -> Taught:
    """options: what `reads` answers. net: the student, already of its final widths.

    training: what the stage trains on. another: the number of a head -> a network like `net` with
    other initial weights.
    """
    terms = {name: make(term) for name, term in options["terms"].items()}
    plain = Distillation(terms=terms, label_weight=options["label_weight"])
    # the control of a study of weights has them all at 0, and the same batches
    if not plain.acting and "sampler" not in options:
        return Taught(student=net, distillation=plain, context=context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(context.seed, "distill"))
        return _with_teacher(options, plain, net, spec, training, context, another)


def _with_teacher(
    options: Mapping[str, Any],
    plain: Distillation,
    net: nn.Module,
    spec: Spec,
    training: TrainingSet,
    context: Context,
    another: Callable[[int], nn.Module] | None,
) -> Taught:
    terms = plain.acting
    teacher, key = None, ""
    if any(term.needs_teacher for term in plain.terms.values()):
        teacher, key = given_teacher(options, context)
        check_answer(teacher, spec, context.task)
    for term in terms.values():
        if hasattr(term, "grow"):
            net = term.grow(net, another)
    own, other = taps_of(terms, net, teacher)
    (images,) = context.task.example_inputs(spec.input_size, 2)
    adapters = {}
    for name, term in terms.items():
        if hasattr(term, "adapter"):
            shapes = [shapes_of(n, taps, images) for n, taps in ((net, own), (teacher, other))]
            made = term.adapter(*shapes, spec.input_size)
            if made is not None:
                adapters[name] = made
    logits = Logits(teacher, key, context)
    for term in terms.values():
        if getattr(term, "surveys", False):
            term.survey(logits())
    notes: dict[str, Any] = {}
    # a method that makes its images reads none of the real ones
    blind = any(hasattr(term, "draw") and not term.beside for term in terms.values())
    if teacher is not None and not blind and context.data.size("val"):
        notes["teacher_val"] = validation_figure(teacher, context)
        told = ", ".join(f"{name} {value:.4f}" for name, value in notes["teacher_val"].items())
        context.note(f"the teacher's validation: {told}")
    return Taught(
        student=net,
        distillation=replace(
            plain,
            teacher=teacher,
            logits=logits() if options.get("cache_teacher") else None,
            adapters=adapters,
            student_taps=own,
            teacher_taps=other,
            # of the data's images, which a method that makes its own does not read
            groups=None
            if blind
            else batch_groups(options.get("sampler"), teacher, training, context),
            per_group=options["sampler"]["per_group"] if "sampler" in options else 1,
        ),
        context=context,
        notes=notes,
        blind=blind,
    )
