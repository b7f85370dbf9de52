"""A start without labels: train the trunk on a pretext task, hand it on under a fresh head."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor import surgery
from compressor.artefact import Spec, fill
from compressor.instantiation import make
from compressor.robust.none import CrossEntropy
from compressor.stages import Context, Given, Outcome
from compressor.stages._fit import TrainingSet, fit, plain
from compressor.tasks import Task
from compressor.tasks.training import Distillation

VERSION = 3


class Pretexts:
    """The task that a network is pretrained on: what the pretext makes of an image batch.

    Everything else is the real task's. index: that of the original image, once for each copy.
    """

    def __init__(self, task: Task, pretext: Any) -> None:
        self.task = task
        self.pretext = pretext
        self.headline = task.headline
        self.outputs = task.outputs
        self.example_inputs = task.example_inputs

    def metrics(self, num_classes: int) -> Any:
        return self.task.metrics(self.pretext.classes)

    def loss_inputs(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, _, index = self.task.loss_inputs(batch)
        images, targets = self.pretext.batch(images)
        return images, targets, index.repeat(len(targets) // len(index))


def pretrain(given: Given, options: Mapping[str, Any], context: Context) -> Outcome:
    """Train on all images of the train part, whatever share of them has labels.

    options: pretrain (configs/pretrain), whose optimizer options are those of a training.
    """
    own = options["pretrain"]
    torch.manual_seed(context.seed)
    spec = replace(given.spec, num_classes=make(own["pretext"]).classes)
    net = spec.build(context.trust, download=True)
    fitted = fit(
        net,
        plain(own),
        replace(context, task=Pretexts(context.task, make(own["pretext"])), labelled=None),
        name="pretrain",
        select=own["select"],
        robust=CrossEntropy(),
        distillation=Distillation({}),
        training=TrainingSet(damage=context.damage),
        patience=own["patience"],
        select_by=own["select_by"],
    )
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
