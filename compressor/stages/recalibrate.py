"""Batch-norm statistics again, on train images, without gradients.

No label is read, but to draw unequal classes equally often.

After a cut the running means and variances belong to another network. Averages are cumulative
(momentum=None): with a momentum of 0.1 the reset value would still weigh 0.9^n after n batches.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.options import hold
from compressor.schema import RecalibrationKeys
from compressor.seeding import derive
from compressor.stages import Context, Given, Outcome
from compressor.stages._classes import alike

VERSION = 1


def check(options: Mapping[str, Any]) -> None:
    """Refuse sizes with which there is no variance to measure."""
    hold(RecalibrationKeys, "recalibrate", options)


def recalibrate(given: Given, options: Mapping[str, Any], context: Context) -> Outcome:
    """options: images (at most so many of the train part), batch_size."""
    images, batch_size = options["images"], options["batch_size"]
    device = context.machine.device
    net = given.network(context.trust).to(device)
    seed, order = derive(context.seed, "images"), None
    # images whose labels may not be read are drawn with the others: of these no class is known
    if context.alike is not None and context.alike.index is None:
        order = alike(context.alike.targets, seed)
    loader = context.data.loader(
        "train", batch_size, seed=seed, shuffle=order is None, indices=order,
        workers=context.machine.workers,
    )  # fmt: skip
    seen = recalibrate_norms(net, (x.to(device) for x in _first(loader, images)))
    return Outcome(net=net.cpu(), plan=given.plan, notes={"images": seen})


def has_batch_norm(net: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in net.modules())


@torch.no_grad()
def recalibrate_norms(net: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace all running statistics by the mean over `batches`; dropout stays off.

    batches: image tensors (B, C, H, W). Returns the number of images seen.
    """
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    seen = 0
    for inputs in batches:
        net(inputs)
        seen += len(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()
    return seen


def _first(loader: Iterable[Any], images: int) -> Iterable[Tensor]:
    left = images
    for inputs, *_ in loader:
        inputs = inputs[:left]
        if len(inputs) > 1:  # one value per channel has no variance
            yield inputs
        left -= len(inputs)
        if left <= 0:
            return
