"""What a stage may use beside its options."""

from pathlib import Path

import compressor
from compressor.cache import Cache, key_of
from compressor.stages import Context


def context(folder, **more):
    given = dict.fromkeys(
        ("seed", "data", "task", "machine", "precision", "targets", "clean_targets", "data_key")
    )
    return Context(**given, folder=folder, cache=Cache(folder / "cache"), **more)


def test_what_a_stage_remembers_is_an_entry_under_its_kind_and_parts_and_made_once(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "sums").write_text("3")

    parts = {"version": 1, "seed": 0}
    folder = context(tmp_path).remember("statistics", parts, make)
    assert folder == tmp_path / "cache" / key_of(stage="statistics", **parts)
    assert (folder / "sums").read_text() == "3"
    assert context(tmp_path).remember("statistics", parts, make) == folder and len(made) == 1
    assert context(tmp_path).remember("statistics", {**parts, "seed": 1}, make) != folder
    assert context(tmp_path).remember("rankings", parts, make) != folder and len(made) == 3


def test_a_stage_keeps_nothing_in_the_cache_in_another_way():
    stages = Path(compressor.__file__).parent / "stages"
    texts = {path.name: path.read_text(encoding="utf-8") for path in stages.rglob("*.py")}
    assert not [name for name, text in texts.items() if "context.cache.obtain" in text]
