"""The teacher that a stage is given: loaded, tried out, and what it answers to the train part."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor import brought
from compressor.artefact import Spec
from compressor.cache import key_of
from compressor.errors import RunError, UsageError
from compressor.instantiation import imported, libraries, sources
from compressor.measure import evaluate
from compressor.stages import Context
from compressor.stages._answer import shown
from compressor.stages._distill.options import Teacher
from compressor.tasks import Task

VERSION = 1


def given_teacher(teacher: Teacher, context: Context) -> tuple[nn.Module, str]:
    """Loaded afresh, so that nothing done to the student reaches it; and what identifies it."""
    if teacher.source == "callable":
        name = str(teacher.function)
        net: nn.Module = Called(name)
        key = key_of(
            function=name, code=sources({"_target_": name}), libraries=libraries("torch"),
            answers=teacher.answers,
        )  # fmt: skip
    else:
        roles = [role for role in context.roles if role.startswith("teacher")]
        nets = [context.roles[role].network(context.trust) for role in sorted(roles)]
        net = nets[0] if len(nets) == 1 else Mean(nets)
        key = key_of(teachers=[context.roles[role].key for role in sorted(roles)])
    return net.eval().requires_grad_(False), key


class Mean(nn.Module):
    """Several teachers as one: the mean of their logits."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self.nets]).mean(dim=0)


class Called(nn.Module):
    """A function of images that answers logits, and nothing else."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        found = imported(name, f"distill.teacher.function={name}")
        if not callable(found):
            raise UsageError(f"distill.teacher.function={name} is nothing that can be called")
        self.function = copy.deepcopy(found) if isinstance(found, nn.Module) else found

    def forward(self, x: Tensor) -> Tensor:
        found = self.function(x)
        if not isinstance(found, Tensor):
            raise UsageError(
                f"distill.teacher.function={self.name} answers with {type(found).__name__}: it "
                "must answer images with logits, a torch.Tensor of images x classes"
            )
        return found


def check_answer(teacher: nn.Module, spec: Spec, task: Task) -> str:
    """One forward tells whether the teacher takes these images and answers these classes.

    Returns the digest of a function's answers: they tell what it read from files. "" of a network.
    """
    (images,) = task.example_inputs(spec.input_size, 2)
    size = "x".join(map(str, spec.input_size))
    try:
        with torch.no_grad():
            logits = task.teacher_view(task.outputs(teacher(images)))
    except UsageError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"the teacher cannot answer images of {size}: {reason}") from error
    if not isinstance(logits, Tensor) or tuple(logits.shape[:2]) != (2, spec.num_classes):
        raise UsageError(
            f"the teacher answers 2 images with {shown(logits)}, the student with "
            f"(2, {spec.num_classes}): choose one that was trained on the same classes"
        )
    if not logits.isfinite().all():
        raise RunError("the teacher answers random images with nan or inf: choose another")
    if not isinstance(teacher, Called):
        return ""
    with torch.no_grad():
        return brought.digest(lambda: {"logits": task.outputs(teacher(images))["logits"]}, False)


class Logits:
    """The teacher's logits on the un-augmented train part, computed once for all runs."""

    def __init__(self, teacher: nn.Module | None, key: str, context: Context) -> None:
        self.teacher = teacher
        self.context = context
        self.parts = {
            "version": VERSION,
            "teacher": key,
            "data": context.data_key,
            "task": type(context.task).__name__,
        }

    def __call__(self) -> Tensor:
        from safetensors.torch import load_file, save_file

        def take(folder: Path) -> None:
            self.context.note("the teacher answers the train part")
            save_file({"logits": self._answers()}, folder / "logits.safetensors")

        folder = self.context.remember("teacher", self.parts, take)
        return load_file(folder / "logits.safetensors")["logits"]

    def _answers(self) -> Tensor:
        task = self.context.task
        parts = [
            task.teacher_view(task.outputs(out)).float().cpu()
            for out in over_train(self.teacher, self.context, lambda images: self.teacher(images))
        ]
        return torch.cat(parts)


def over_train(net: nn.Module, context: Context, ask: Callable[[Tensor], Any]) -> list[Any]:
    """`ask` of every batch of the train part, in order and without augmentation."""
    device = context.machine.device
    net.to(device)
    loader = context.data.loader(
        "train", context.machine.eval_batch_size, workers=context.machine.workers
    )
    with torch.no_grad():
        answers = [ask(context.task.loss_inputs(batch)[0].to(device)) for batch in loader]
    net.to("cpu")
    return answers


def validation_figure(net: nn.Module, context: Context) -> dict[str, float]:
    loader = context.data.loader(
        "val", context.machine.eval_batch_size, workers=context.machine.workers
    )
    found = evaluate(
        net, context.task, loader, context.machine.device, num_classes=context.data.num_classes
    )
    net.to("cpu")
    name = context.task.headline[0]
    return {name: found[name]}
