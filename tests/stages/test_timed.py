import random
from types import SimpleNamespace

import doubles
import pytest
import torch

from compressor import latency, measure, surgery
from compressor.artefact import Spec
from compressor.cache import Cache
from compressor.errors import RunError, UsageError
from compressor.models.resnet_cifar import resnet20
from compressor.stages._allocate import by_ratio
from compressor.stages._counts import choose
from compressor.stages._options import WidthOptions
from compressor.stages._timed import ROUNDS, Bench, between, solve

NET = resnet20(10, (3, 16, 16)).eval()
STRUCTURE = surgery.analyse(NET, (torch.zeros(2, 3, 16, 16),))


def search(share, of_macs, **options):
    """of_macs: what a network with this share of the MACs takes, the dense one taking 1 ms."""
    options = WidthOptions(budget=("latency", share), **options)
    groups = choose(STRUCTURE, options)
    seen = []

    def timed(counts):
        macs = STRUCTURE.macs(counts) / STRUCTURE.macs({})
        seen.append(macs)
        return doubles.timed(of_macs(macs))

    return solve(STRUCTURE, groups, options, by_ratio(groups, options), timed), seen


@pytest.mark.parametrize("share", [0.5, 0.6, 0.9])
@pytest.mark.parametrize("bend", [0.5, 1, 3])
def test_a_latency_is_met_with_few_measurements(share, bend):
    found, seen = search(share, lambda macs: 0.3 + 0.7 * macs**bend)
    assert found["share"] == pytest.approx(share, rel=0.04)
    assert len(seen) <= 6
    assert len(found["points"]) == len(seen)
    assert found["macs"] == pytest.approx(((share - 0.3) / 0.7) ** (1 / bend), abs=0.06)


def test_noise_does_not_turn_the_search_back():
    noise = iter(torch.randn(20, generator=torch.Generator().manual_seed(0)).mul(0.03).tolist())
    found, seen = search(0.6, lambda macs: (0.3 + 0.7 * macs) * (1 + next(noise)))
    assert found["share"] == pytest.approx(0.6, rel=0.1)
    assert len(seen) <= ROUNDS + 1


def test_what_is_found_is_reproduced_by_its_share_of_the_macs():
    from compressor.stages._budget import solve as solve_macs

    found, _ = search(0.6, lambda macs: 0.3 + 0.7 * macs)
    options = WidthOptions(budget=("macs", found["macs"]))
    assert solve_macs(STRUCTURE, choose(STRUCTURE, options), options) == found["counts"]


def test_a_latency_below_reach_is_refused_with_the_range():
    with pytest.raises(
        UsageError, match="budget.latency=0.2 cannot be reached.* 0.33. to 1.000 of its latency on"
    ):
        search(0.2, lambda macs: 0.3 + 0.7 * macs)
    with pytest.raises(UsageError, match="to 0.5.. of its latency"):
        search(0.9, lambda macs: macs, ratios={"layer1": 0.5, "layer2": 0.5, "layer3": 0.5})


def test_a_latency_that_jumps_over_the_budget_is_missed_with_a_line():
    with pytest.raises(RunError, match="budget.latency=0.6 is missed: .* nearest has 0.400"):
        search(0.6, lambda macs: 1.0 if macs > 0.5 else 0.4)


def test_between_takes_fewer_macs_for_no_slower():
    assert between([(0.0, 0.2), (1.0, 1.0)], 0.6) == pytest.approx(0.5)
    assert between([(0.0, 0.2), (0.4, 0.3), (1.0, 1.0)], 0.9, halve=True) == pytest.approx(0.7)
    assert between([(0.0, 0.2), (0.5, 0.6), (0.6, 0.5), (1.0, 1.0)], 0.8) == pytest.approx(0.8)


def test_widths_are_measured_once_on_a_machine(tmp_path, monkeypatch):
    calls = []

    def in_turns(dense, small, input_size, machine, note):
        calls.append(1)
        params = [sum(p.numel() for p in net.parameters()) for net in (dense, small)]
        return doubles.timed(0.3 + 0.7 * params[1] / params[0])

    monkeypatch.setattr(latency, "in_turns", in_turns)
    spec = Spec("compressor.models.resnet20", {}, (3, 16, 16), 10)
    options = WidthOptions(budget=("latency", 0.6))
    groups = choose(STRUCTURE, options)

    def widths(seconds=1.0, batch_size=1):
        machine = SimpleNamespace(latency_seconds=seconds, latency_batch_size=batch_size)
        bench = Bench(NET, spec, surgery.EMPTY_PLAN, Cache(tmp_path), machine, lambda line: None)
        return bench.widths(STRUCTURE, groups, options, by_ratio(groups, options))

    first = widths()
    assert calls and first["share"] == pytest.approx(0.6, rel=0.1)
    before = len(calls)
    assert widths() == first and len(calls) == before
    widths(batch_size=4)
    assert len(calls) > before
    with pytest.raises(UsageError, match="latency_seconds=0 forbids"):
        widths(seconds=0)


def test_an_unsteady_ratio_decides_nothing_and_is_not_remembered(tmp_path, monkeypatch):
    noise = random.Random(0)
    monkeypatch.setattr(measure, "forward_ms", lambda net, images: noise.lognormvariate(0, 2))
    spec = Spec("compressor.models.resnet20", {}, (3, 16, 16), 10)
    options = WidthOptions(budget=("latency", 0.6))
    groups = choose(STRUCTURE, options)
    machine = SimpleNamespace(latency_seconds=0.001, latency_batch_size=1)
    bench = Bench(NET, spec, surgery.EMPTY_PLAN, Cache(tmp_path), machine, lambda line: None)
    with pytest.raises(RunError, match="budget.latency cannot be decided.*prune.budget.macs"):
        bench.widths(STRUCTURE, groups, options, by_ratio(groups, options))
    assert not list(tmp_path.glob("*/widths.json"))
