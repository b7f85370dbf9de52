import pytest
import torch

from compressor.prune.random import Random
from compressor.seeding import generator
from compressor.surgery import Group


def order(name, size, seed):
    group = Group(name, size, (), (), (), True, "interior", False, ())
    return Random().rank(group, {}, {}, generator(seed, "rank", name)).order


def test_the_order_is_a_permutation_that_depends_on_seed_and_group_only():
    first = order("layer1.0.conv1", 64, 0)
    torch.rand(100)
    assert torch.equal(first, order("layer1.0.conv1", 64, 0))
    assert first.sort().values.tolist() == list(range(64))
    assert not torch.equal(first, order("layer1.1.conv1", 64, 0))
    assert not torch.equal(first, order("layer1.0.conv1", 64, 1))


def test_every_channel_is_kept_equally_often():
    stats = pytest.importorskip("scipy.stats")
    kept = torch.zeros(10)
    for seed in range(2000):
        kept[order("conv", 10, seed)[:5]] += 1
    # Drawing without replacement shrinks the variance by (C - n) / (C - 1) of the multinomial's.
    statistic = float(((kept - 1000) ** 2 / 1000).sum()) * 9 / 5
    assert stats.chi2.sf(statistic, df=9) > 0.001


def test_it_needs_no_data():
    assert Random().observers(None, None) == ()
