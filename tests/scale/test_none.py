"""The scale stage's null object."""

from pathlib import Path

from omegaconf import OmegaConf

import compressor.scale.none as none


def test_nothing_changes_and_nothing_is_shared():
    arguments = {"width": 0.5}
    scaled, size = none.NoScale().scale(arguments, (3, 32, 32))
    assert (scaled, size) == (arguments, (3, 32, 32))
    assert scaled is not arguments


def test_config_names_the_class():
    path = Path(none.__file__).parents[2] / "configs" / "scale" / "none.yaml"
    assert OmegaConf.load(path)["_target_"] == "compressor.scale.none.NoScale"


def test_the_options_of_the_group_are_accepted_and_change_nothing():
    scaler = none.NoScale(width=0.5, depth=2.0, resolution=0.5)
    assert scaler.scale({"width": 1.0}, (3, 32, 32)) == ({"width": 1.0}, (3, 32, 32))
