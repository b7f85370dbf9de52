"""Property: any small network is cut without changing what is left, or frozen by name."""

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from compressor.surgery import Plan, analyse, check_parity, plan_cut, replay

KINDS = (
    "conv", "residual", "project", "concat", "grouped", "depthwise", "se", "shared", "shuffle",
    "pool", "pad", "split",
)  # fmt: skip


def unit(i: int, o: int, **options) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, **options), nn.BatchNorm2d(o), nn.ReLU())


class Block(nn.Module):
    """One block of a random network; `width` is that of its output."""

    def __init__(self, kind: str, width: int, out: int):
        super().__init__()
        self.kind, self.width = kind, width
        self.first = unit(width, width)
        if kind in ("conv", "project"):
            self.first, self.width = unit(width, out), out
            self.short = nn.Conv2d(width, out, 1)
        elif kind == "concat":
            self.first, self.width = unit(width, out), width + out
        elif kind == "grouped":
            self.first, self.width = unit(width, 2 * out, groups=2), 2 * out
        elif kind == "depthwise":
            self.first, self.width = unit(width, 2 * width, groups=width), 2 * width
        elif kind == "se":
            self.squeeze, self.excite = nn.Linear(width, 3), nn.Linear(3, width)
        elif kind == "pad":
            self.width = width + 4

    def forward(self, x):
        if self.kind == "residual":
            return x + self.first(x)
        if self.kind == "project":
            return self.first(x) + self.short(x)
        if self.kind == "concat":
            return torch.cat([self.first(x), x], 1)
        if self.kind == "se":
            gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
            return self.first(x) * gate[:, :, None, None]
        if self.kind == "shared":
            return self.first(self.first(x))
        if self.kind == "shuffle":
            b, c, h, w = x.shape
            return self.first(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))
        if self.kind == "pool":
            return functional.max_pool2d(self.first(x), 3, 1, 1)
        if self.kind == "pad":
            return functional.pad(self.first(x), (0, 0, 0, 0, 2, 2))
        if self.kind == "split":
            left, right = x.chunk(2, 1)
            return self.first(torch.cat([right, left * right.sigmoid()], 1))
        return self.first(x)


class Random(nn.Module):
    def __init__(self, blocks: list[tuple[str, int]], flatten: bool):
        super().__init__()
        self.stem, width, layers = unit(3, 8), 8, []
        for kind, out in blocks:
            layers.append(Block(kind, width, out))
            width = layers[-1].width
        self.blocks, self.flatten = nn.Sequential(*layers), flatten
        self.head = nn.Linear(width * 16 if flatten else width, 5)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.head(x.reshape(x.shape[0], -1) if self.flatten else x.mean((2, 3)))


blocks = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from((4, 6, 8))), max_size=5)


@given(blocks=blocks, flatten=st.booleans(), seed=st.integers(0, 10_000))
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_random_network_is_cut_rightly_or_frozen_by_name(lively, blocks, flatten, seed):
    torch.manual_seed(seed)
    net = lively(Random(blocks, flatten), seed)
    x = torch.randn(4, 3, 4, 4)
    structure = analyse(net, (x,))
    stopped = [f for f in structure.frozen if f.operator != "output"]
    assert all(f.operator and f.reason for f in stopped)
    if not any(kind == "pad" for kind, _ in blocks):
        assert structure.groups and not stopped
    if not structure.groups:
        return
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in structure.groups:
        count = int(torch.randint(1, group.size + 1, (), generator=generator))
        keep[group.name] = torch.randperm(group.size, generator=generator)[:count]
    keep[group.name] = keep[group.name][: group.size - 1]  # something is cut in any case
    plan = Plan.from_json(plan_cut(structure, keep).to_json())
    assert check_parity(net, structure, plan, (x,)) <= 1e-5
    small = replay(Random(blocks, flatten), plan)
    with FlopCounterMode(display=False) as counter:
        small.eval()(x[:1])
    counts = {name: len(classes) for name, classes in keep.items()}
    assert structure.macs(counts) == counter.get_total_flops() // 2
    assert structure.params(counts) == sum(p.numel() for p in small.parameters())
