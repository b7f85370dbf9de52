"""Every option of prune, by existing, is run through the command line and loaded again."""

import shutil
from collections import Counter

import pytest
import torch
from conformance import tiny

import compressor
from compressor.prune.apoz import APoZ
from compressor.stages._pruning import Pruning

PLAIN = ("stages=[train,compress,recalibrate]", "prune.images=64", "prune.statistics=dense")
CUT = {"stem.0": 16, "plain.0": 16, "point.0": 32, "grouped.0": 32}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Outputs whose cache holds the dense network alone."""
    folder = tmp_path_factory.mktemp("dense")
    tiny.run(folder, "dense", "prune=none", "stages=[train]")
    return folder


def test_a_run_reads_the_prune_group_and_makes_its_method_once(dense, tmp_path, monkeypatch):
    """A run that asks it wherever anything does: plan, labels, table, notices, two cuts."""
    counts = Counter()

    def counted(name, attribute):
        def call(self, *arguments, **options):
            counts[name] += 1
            return attribute(self, *arguments, **options)

        return call

    monkeypatch.setattr(Pruning, "read", classmethod(counted("read", Pruning.read.__func__)))
    monkeypatch.setattr(APoZ, "__init__", counted("made", APoZ.__init__))
    shutil.copytree(dense / "cache", tmp_path / "cache")
    words = ("prune=apoz", "prune.rounds=2", "prune.allocation=global", "prune.reconstruct=rescale")
    table = ("prune.sensitivity.table=true", "prune.sensitivity.ratios=[0.5]")
    report = tiny.run(tmp_path, "once", *PLAIN, *words, *table, "noise=symmetric")
    assert [stage["name"] for stage in report["stages"]].count("compress") == 2
    assert "sensitivity" in report and counts == {"read": 1, "made": 1}


@pytest.mark.parametrize("option", [name for name in tiny.options("prune") if name != "none"])
def test_a_criterion_keeps_channels_in_one_order_and_leaves_a_network_that_runs(
    option, dense, tmp_path
):
    def cut(outputs, ratio):
        words = (f"prune={option}", f"prune.ratio={ratio}", "prune.reconstruct=none")
        return tiny.run(outputs, f"{option}-{ratio}", *PLAIN, *words)

    for name in ("once", "again"):
        shutil.copytree(dense / "cache", tmp_path / name / "cache")
    half, again = cut(tmp_path / "once", 0.5), cut(tmp_path / "again", 0.5)
    assert half["stages"][0]["reused"] and not half["stages"][1]["reused"]
    assert tiny.figures(half) == tiny.figures(again)
    assert half["parity"]["surgery"] <= 1e-5
    assert CUT.keys() <= half["kept"].keys()
    for module, kept in half["kept"].items():
        assert kept == sorted(set(kept)) and min(kept) >= 0
        assert len(kept) == CUT.get(module, 2 * len(kept)) // 2 and max(kept) < 2 * len(kept)
    if half["config"]["prune"]["rounds"] == 1:  # a later round ranks another network
        quarter = cut(tmp_path / "once", 0.25)
        assert all(set(kept) <= set(quarter["kept"][name]) for name, kept in half["kept"].items())
    net = compressor.load(tmp_path / "once" / f"{option}-0.5", trust=tiny.TRUST)
    assert sum(p.numel() for p in net.parameters()) == half["points"]["final"]["params"]
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    net.train()(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
