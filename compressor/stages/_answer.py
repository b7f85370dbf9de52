"""What a network answers to images, looked at before any training."""

from typing import Any

import torch
from torch import Tensor

from compressor.errors import UsageError, foreign
from compressor.measure import evaluating
from compressor.stages._blank import Blank
from compressor.tasks import Task
from compressor.tasks.classification import Classification


def shown(answer: Any) -> str:
    """Shapes where there are some, else the type: "(2, 10)", "tuple of (2, 10) and (2, 64)"."""
    if isinstance(answer, Tensor):
        return str(tuple(answer.shape))
    kind = foreign(type(answer).__name__)
    if isinstance(answer, tuple | list) and answer:
        return f"{kind} of {' and '.join(map(shown, answer))}"
    return kind


def check_network(dense: Blank, task: Task) -> None:
    """Refuse a network whose answers are no logits of these classes.

    What other tasks than classification make of an answer is their own affair.
    """
    if not isinstance(task, Classification):
        return
    images = dense.inputs[0]
    like = next(dense.net.parameters(), images)
    images = images.to(like.device)
    try:
        with torch.no_grad(), evaluating(dense.net):
            answer = dense.net(images)
    except Exception as error:  # a user's own code; one image passed when its cost was counted
        reason = foreign((str(error) or type(error).__name__).splitlines()[0])
        raise UsageError(f"the network cannot take {_images(images)}: {reason}") from error
    _check_logits(answer, dense, task)
    if like.is_meta:
        try:  # the form that is trained may have auxiliary classifiers
            with torch.no_grad(), evaluating(dense.net):
                dense.net.train()
                answer = dense.net(images)
        except Exception:  # it may want values, which there are none of: the training will tell
            return
        _check_logits(answer, dense, task)


def _check_logits(answer: Any, dense: Blank, task: Task) -> None:
    expected = (len(dense.inputs[0]), dense.spec.num_classes)
    try:
        found = task.outputs(answer)
        parts = [found["logits"], *(value for _, value in found["aux"])]
    except (TypeError, ValueError):  # nothing that holds tensors
        parts = [answer]
    if all(isinstance(part, Tensor) and tuple(part.shape) == expected for part in parts):
        return
    raise UsageError(
        f"model._target_={foreign(dense.spec.factory)} answers {_images(dense.inputs[0])} with "
        f"{shown(answer)}, and classification expects one tensor of logits {expected}, images x "
        f"classes: num_classes={expected[1]} is passed to a constructor that takes it"
    )


def _images(images: Tensor) -> str:
    return f"{len(images)} images of {'x'.join(map(str, images.shape[1:]))}"
