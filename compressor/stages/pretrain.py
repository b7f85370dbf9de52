"""A start without labels: train the trunk on a pretext task, hand it on under a fresh head."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor import surgery
from compressor.artefact import Spec, fill
from compressor.pretrain import Pretext
from compressor.robust.none import CrossEntropy
from compressor.stages import Context, Given, Outcome
from compressor.stages._distill.options import Teaching
from compressor.stages._fit import Job, TrainingSet, fit
from compressor.stages._recipe import Pretraining, Recipe
from compressor.tasks import Task

VERSION = 3


class Pretexts(Task):
    """The task that a network is pretrained on: what the pretext makes of an image batch.

    Everything else is the real task's. index: that of the original image, once for each copy.
    """

    name = "pretext"
    labelled = True

    def __init__(self, task: Task, pretext: Pretext) -> None:
        self.task = task
        self.pretext = pretext
        self.figures = task.figures

    def outputs(self, net_out: Any) -> dict[str, Any]:
        return self.task.outputs(net_out)

    def loss(self, outputs: Mapping[str, Any], targets: Tensor) -> Tensor:
        return self.task.loss(outputs, targets)

    def metrics(self, num_classes: int) -> Any:
        return self.task.metrics(self.pretext.classes)

    def loss_inputs(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, _, index = self.task.loss_inputs(batch)
        images, targets = self.pretext.batch(images)
        return images, targets, index.repeat(len(targets) // len(index))


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """What a pretraining depends on: the group `pretrain` alone."""

    pretraining: Pretraining

    @property
    def recipe(self) -> Recipe:
        return self.pretraining.recipe

    @property
    def teaching(self) -> Teaching:
        return Teaching.none()

    def epochs(self, macs: tuple[int, int] | None) -> int:
        """As `TrainOptions.epochs`."""
        return self.recipe.epochs

    def in_key(self) -> dict[str, Any]:
        return {"pretrain": self.pretraining.in_key()}


def pretrain(given: Given, options: PretrainOptions, context: Context) -> Outcome:
    """Train on all images of the train part, whatever share of them has labels."""
    pretext = options.pretraining.pretext
    assert pretext is not None  # without one the plan has no such stage
    torch.manual_seed(context.seed)
    spec = replace(given.spec, num_classes=pretext.classes)
    net = spec.build(context.trust, download=True)
    job = Job(
        name="pretrain",
        recipe=options.recipe,
        remedy=CrossEntropy(),
        training=TrainingSet(damage=context.damage),
    )
    task = Pretexts(context.task, pretext)
    fitted = fit(net, job, replace(context, task=task, labelled=None))
    torch.manual_seed(context.seed)
    whole = given.spec.build(context.trust)
    head = head_names(given.spec, context.trust)
    learned = {k: v for k, v in fitted.net.state_dict().items() if k not in head}
    fill(whole, learned)
    # its accuracies are those of the pretext task
    return Outcome(net=whole.eval(), plan=given.plan, notes=fitted.metrics)


def freeze_trunk(net: nn.Module, spec: Spec, trust: tuple[str, ...] = ()) -> nn.Module:
    """`net`, of which only the head learns any more."""
    head = head_names(spec, trust)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in head)
    return net


def other_head(given: Given, seed: int, trust: tuple[str, ...] = ()) -> nn.Module:
    """A network like the one given: its trained trunk, if it has one, under a head of `seed`."""
    torch.manual_seed(seed)
    if given.parent is None:
        return given.network(trust)
    spec = given.parent.spec  # what was handed on may be of another form than what trains
    net, head = surgery.replay(spec.build(trust), given.plan), head_names(spec, trust)
    trunk = {k: v for k, v in given.network(trust).state_dict().items() if k not in head}
    fill(net, trunk)
    return net


def head_names(spec: Spec, trust: tuple[str, ...] = ()) -> frozenset[str]:
    """Tensors whose shape follows the number of classes."""
    few, many = (_shapes(spec, classes, trust) for classes in (4, 5))
    return frozenset(name for name in few if few[name] != many[name])


def _shapes(spec: Spec, classes: int, trust: tuple[str, ...]) -> dict[str, torch.Size]:
    with torch.random.fork_rng(devices=[]):
        net: nn.Module = replace(spec, num_classes=classes).build(trust)
    return {name: value.shape for name, value in net.state_dict().items()}
