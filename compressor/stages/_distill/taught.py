"""What a stage with a teacher begins with: the terms, the teacher, adapters, and what is trained.

Nothing here draws from the global random state: a distillation whose weights are all 0 gives the
numbers of none.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compressor.artefact import Spec
from compressor.seeding import derive
from compressor.stages import Context
from compressor.stages._distill.features import shapes_of, taps_of
from compressor.stages._distill.options import Teaching
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
            if term.heads > 1:
                told = heads(net, term, self.context)
                return term.kept(net).eval(), {**self.notes, "heads": told}
            if term.makes_images:
                figures = made_images(net, name, term, self.distillation, self.context)
                return net, {**self.notes, "made_images": figures}
        return net, self.notes


def distillation(
    teaching: Teaching,
    net: nn.Module,
    spec: Spec,
    training: TrainingSet,
    context: Context,
    *,
    another: Callable[[int], nn.Module] | None = None,
) -> Taught:
    """teaching: what of it acts in this stage. net: the student, already of its final widths.

    training: what the stage trains on. another: the number of a head -> a network like `net` with
    other initial weights.
    """
    teaching = teaching.fresh()
    plain = Distillation(terms=teaching.terms, label_weight=teaching.label_weight)
    # the control of a study of weights has them all at 0, and the same batches
    if not plain.acting and teaching.grouping is None:
        return Taught(student=net, distillation=plain, context=context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(context.seed, "distill"))
        for term in plain.acting.values():
            net = term.student(net, another)
        return _with_teacher(teaching, net, spec, training, context)


def _with_teacher(
    teaching: Teaching, net: nn.Module, spec: Spec, training: TrainingSet, context: Context
) -> Taught:
    """net: with all its heads."""
    terms = teaching.acting
    teacher, key = None, ""
    if teaching.needs_teacher:
        teacher, key = given_teacher(teaching.teacher, context)
        check_answer(teacher, spec, context.task)
    own, other = taps_of(terms, net, teacher)
    (images,) = context.task.example_inputs(spec.input_size, 2)
    adapters = {}
    # of several heads only one answers images in eval mode, in which features are measured
    if all(term.heads == 1 for term in terms.values()):
        shapes = [shapes_of(n, taps, images) for n, taps in ((net, own), (teacher, other))]
        made = {name: term.adapter(*shapes, spec.input_size) for name, term in terms.items()}
        adapters = {name: module for name, module in made.items() if module is not None}
    logits = Logits(teacher, key, context)
    for term in terms.values():
        if term.reads_logits:
            term.survey(logits())
    notes: dict[str, Any] = {}
    # a method that makes its images may read none of the real ones
    blind, grouping = bool(teaching.blind), teaching.grouping
    if teacher is not None and not blind and context.data.size("val"):
        notes["teacher_val"] = validation_figure(teacher, context)
        told = ", ".join(f"{name} {value:.4f}" for name, value in notes["teacher_val"].items())
        context.note(f"the teacher's validation: {told}")
    return Taught(
        student=net,
        distillation=Distillation(
            terms=teaching.terms,
            label_weight=teaching.label_weight,
            teacher=teacher,
            logits=logits() if teaching.cache_teacher else None,
            adapters=adapters,
            student_taps=own,
            teacher_taps=other,
            # of the data's images
            groups=None if blind else batch_groups(grouping, teacher, training, context),
            per_group=grouping.per_group if grouping else 1,
        ),
        context=context,
        notes=notes,
        blind=blind,
    )
