"""What a multirun needs of Hydra's own machinery."""

from types import SimpleNamespace

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from compressor import launching


def test_a_member_is_composed_once_for_its_check_and_its_run(monkeypatch):
    composed, made = [], []

    def compose(self, master_config, sweep_overrides):
        composed.append(tuple(sweep_overrides))
        made.append(object())
        return made[-1]

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", compose)
    loader = object.__new__(ConfigLoaderImpl)
    sweeper = SimpleNamespace(config_loader=loader, config={})
    with launching.composing_once():
        Sweeper.validate_batch_is_legal(sweeper, [["a"], ["b"]])
        run = [loader.load_sweep_config(None, [word]) for word in "ab"]
        again = loader.load_sweep_config(None, ["a"])
        third = loader.load_sweep_config(None, ["a"])  # what ran is never given out again
    assert run == made[:2] and len({id(one) for one in (*run, again, third)}) == 4
    assert composed == [("a",), ("b",), ("a",), ("a",)]
    assert ConfigLoaderImpl.load_sweep_config is compose


def test_only_a_search_for_latency_times_each_member_at_its_end():
    def later(sweeper, objective):
        hydra = OmegaConf.create({"sweeper": {"_target_": sweeper}})
        return not launching.searches_latency(hydra, OmegaConf.create({"objective": objective}))

    optuna = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    assert later(launching.BASIC_SWEEPER, "final.latency_ratio.median")
    assert later(optuna, ["final.accuracy", "seconds"])
    assert not later(optuna, ["final.accuracy", "final.latency_ratio.median"])
