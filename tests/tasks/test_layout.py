import pytest
import torch
from torch import nn

from compressor.tasks._layout import overruns

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    "conv, capability, found",
    [
        (nn.Conv2d(4, 8, 1, stride=2), "AVX2", True),
        (nn.Conv2d(8, 8, 1, stride=2), "AVX2", False),
        (nn.Conv2d(8, 8, 1, stride=2), "AVX512", True),
        (nn.Conv2d(16, 8, 1, stride=2), "AVX512", False),
        (nn.Conv2d(16, 16, 1, stride=2, groups=4), "AVX2", True),
        (nn.Conv2d(4, 8, 1), "AVX2", False),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), "AVX2", False),
    ],
)
def test_narrow_1x1_convolutions_with_a_stride_are_found(monkeypatch, conv, capability, found):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert overruns(nn.Sequential(conv), CPU) is found
    assert not overruns(nn.Sequential(conv), GPU)
