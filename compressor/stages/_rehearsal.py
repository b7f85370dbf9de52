"""The parity gate before any training: a random cut of the plan's own widths, with lively weights.

A forward that computes with the number of channels passes every analysis: only values show it, and
the cut would be refused after hours.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compressor import surgery
from compressor.seeding import generator
from compressor.stages._blank import Blank
from compressor.stages.compress import parity_images
from compressor.surgery import Group

_FAINT = 1e-3  # a factor that starts as small as this hides what it multiplies


def rehearse(dense: Blank, groups: Iterable[Group], widths: Mapping[str, int]) -> None:
    """RunError where a cut of the network to these widths cannot be exact; else nothing.

    groups: those in scope. widths: of every one of them. Of a network that overflows with fresh
    weights nothing can be told.
    """
    keep = {}
    for group in groups:
        order = torch.randperm(group.size, generator=generator(0, "rehearsal", group.name))
        keep[group.name] = order[: widths[group.name]].sort().values
    plan = surgery.plan_cut(dense.structure, keep)
    if not plan.operations:
        return
    size = dense.spec.input_size
    images = torch.randn(parity_images(size), *size, generator=generator(0, "example"))
    net = dense.with_storage().eval()
    _enliven(net)
    with torch.no_grad():
        answer = tree_leaves(surgery.duplicate(net)(images))
    if all(leaf.isfinite().all() for leaf in answer if isinstance(leaf, Tensor)):
        surgery.check_parity(net, dense.structure, plan, (images,))


def _enliven(net: nn.Module) -> None:
    """Weights and statistics under which every channel matters, as they do after a training.

    Fresh norms are all alike, and many networks begin with branches that are switched off.
    """
    rng = generator(0, "lively")
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5, generator=rng)
                if module.bias is not None:
                    module.bias.normal_(0, 0.5, generator=rng)
                if module.running_mean is not None:
                    module.running_mean.normal_(0, 0.2, generator=rng)
                    module.running_var.uniform_(0.5, 1.5, generator=rng)
        for parameter in net.parameters():
            faint = parameter.is_floating_point() and bool((parameter.abs() < _FAINT).all())
            if faint and parameter.numel():
                parameter.normal_(0, 0.1, generator=rng)
