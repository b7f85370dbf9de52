"""What a network answers to images, looked at before any training."""

from typing import Any

import torch
from torch import Tensor

from compressor.errors import UsageError, foreign
from compressor.measure import evaluating
from compressor.stages._blank import Blank
from compressor.tasks import Task


def shown(answer: Any) -> str:
    """Shapes where there are some, else the type: "(2, 10)", "tuple of (2, 10) and (2, 64)"."""
    if isinstance(answer, Tensor):
        return str(tuple(answer.shape))
    kind = foreign(type(answer).__name__)
    if isinstance(answer, tuple | list) and answer:
        return f"{kind} of {' and '.join(map(shown, answer))}"
    return kind


def check_network(dense: Blank, task: Task) -> None:
    """Refuse a network whose answers the task cannot read, where that shows before a training."""
    images = dense.inputs[0]
    like = next(dense.net.parameters(), images)
    images = images.to(like.device)
    try:
        with torch.no_grad(), evaluating(dense.net):
            answer = dense.net(images)
    except Exception as error:  # a user's own code; one image passed when its cost was counted
        reason = foreign((str(error) or type(error).__name__).splitlines()[0])
        raise UsageError(f"the network cannot take {_images(images)}: {reason}") from error
    _check_fits(answer, dense, task)
    if like.is_meta:
        try:  # the form that is trained may have auxiliary classifiers
            with torch.no_grad(), evaluating(dense.net):
                dense.net.train()
                answer = dense.net(images)
        except Exception:  # it may want values, which there are none of: the training will tell
            return
        _check_fits(answer, dense, task)


def check_teaches(dense: Blank, task: Task) -> None:
    """Refuse distillation where a network's answer has nothing that could be handed on."""
    images = dense.inputs[0]
    like = next(dense.net.parameters(), images)
    with torch.no_grad(), evaluating(dense.net):
        answer = task.outputs(dense.net(images.to(like.device)))
    if task.teacher_view(answer) is None:
        raise UsageError(
            f"task={task.name} does not say what a teacher hands on to a student: type "
            "distill=none, or give the task a teacher_view"
        )


def _check_fits(answer: Any, dense: Blank, task: Task) -> None:
    expected = task.misfit(answer, len(dense.inputs[0]), dense.spec.num_classes)
    if expected is None:
        return
    raise UsageError(
        f"model._target_={foreign(dense.spec.factory)} answers {_images(dense.inputs[0])} with "
        f"{shown(answer)}, and {task.name} expects {expected}"
    )


def _images(images: Tensor) -> str:
    return f"{len(images)} images of {'x'.join(map(str, images.shape[1:]))}"
