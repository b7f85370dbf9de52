"""New weights for a cut network: nothing of what it has learnt stays but its widths."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from compressor import surgery
from compressor.artefact import Spec
from compressor.errors import RunError
from compressor.surgery import Plan


def fresh(
    spec: Spec, plan: Plan, trained: nn.Module, seed: int, trust: Iterable[str] = ()
) -> nn.Module:
    """The network that spec and plan describe, untrained; `trained` is the one it must not repeat.

    Built anew, so that every module begins as its class does, also where the dense network came
    with pretrained weights; then initialised for the widths that are left.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = surgery.replay(spec.build(trust), plan)
        initialise(net)
    old = dict(trained.named_parameters())
    for path, module in net.named_modules():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, _ConvNd | nn.Linear) and name in old:
            if torch.equal(old[name].cpu(), module.weight):
                raise RunError(f"'{name}' still holds the cut network's weights after a new start")
    return net


@torch.no_grad()
def initialise(net: nn.Module) -> None:
    """The initialisation of arXiv:1810.05270's code, in place.

    Convolutions: He's normal by fan-out, biases 0; linear layers: N(0, 0.01), biases 0; batch norm:
    scale 1, shift 0, statistics reset. Other modules keep what their constructors gave them.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.reset_parameters()
        elif isinstance(module, _ConvNd | nn.Linear):
            if isinstance(module, _ConvNd):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                module.bias.zero_()
