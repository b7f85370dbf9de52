"""What a multirun needs of Hydra's own machinery."""

from hydra._internal.config_loader_impl import ConfigLoaderImpl

from compressor import launching


def test_a_member_is_composed_once_for_its_check_and_its_run(monkeypatch):
    composed = []

    def compose(self, master_config, sweep_overrides):
        composed.append(tuple(sweep_overrides))
        return object()

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", compose)
    loader = object.__new__(ConfigLoaderImpl)
    with launching.composing_once():
        checked = [loader.load_sweep_config(master_config=None, sweep_overrides=[w]) for w in "ab"]
        run = [loader.load_sweep_config(None, [w]) for w in "ab"]
        again = loader.load_sweep_config(None, ["a"])
    assert run == checked and again is not run[0]
    assert composed == [("a",), ("b",), ("a",)]
    assert ConfigLoaderImpl.load_sweep_config is compose
