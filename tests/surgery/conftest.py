"""What the tests of the surgery share: networks that do not hide a wrong channel."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture
def lively():
    """A function that gives a network weights and statistics under which every channel matters.

    Fresh networks have batch norms that are all alike, and some let the signal die out.
    """

    def enliven(net: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    if module.weight is not None:
                        module.weight.uniform_(0.5, 1.5, generator=generator)
                        module.bias.normal_(0, 0.5, generator=generator)
                    if module.running_mean is not None:
                        module.running_mean.normal_(0, 0.2, generator=generator)
                        module.running_var.uniform_(0.5, 1.5, generator=generator)
                elif isinstance(module, nn.modules.conv._ConvNd):
                    fan = max(1, module.weight[0].numel())
                    module.weight.normal_(0, (2 / fan) ** 0.5, generator=generator)
        return net

    return enliven


@pytest.fixture
def counted():
    """A function: (MACs, parameters) of a network as PyTorch's own counter sees them."""

    def count(net: nn.Module, *shape: int) -> tuple[int, int]:
        training = net.training
        device = next(net.parameters()).device
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net.eval()(torch.zeros(1, *shape, device=device))
        net.train(training)
        return counter.get_total_flops() // 2, sum(p.numel() for p in net.parameters())

    return count


@pytest.fixture
def halves():
    """A function: half of every group's channels, drawn at random."""

    def draw(groups, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            g.name: torch.randperm(g.size, generator=generator)[: max(1, g.size // 2)]
            for g in groups
        }

    return draw
