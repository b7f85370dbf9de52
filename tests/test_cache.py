import json

import pytest

from compressor.cache import Cache, key_of
from compressor.errors import RunError


def test_a_key_depends_on_every_part_and_not_on_their_order():
    assert key_of(a=1, b={"x": 1, "y": 2}) == key_of(b={"y": 2, "x": 1}, a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(b=1), key_of(a=1.5), key_of(a="1")}) == 5


def test_an_entry_appears_only_when_it_is_complete(tmp_path):
    cache = Cache(tmp_path)
    with pytest.raises(ZeroDivisionError), cache.publish("k") as folder:
        (folder / "metrics.json").write_text("{}")
        raise ZeroDivisionError
    assert not cache.holds("k")
    assert list(tmp_path.iterdir()) == []
    with cache.publish("k") as folder:
        (folder / "metrics.json").write_text("{}")
        assert not cache.holds("k")
    assert cache.holds("k")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_entry_is_reported_and_not_used(tmp_path, damage):
    cache = Cache(tmp_path)
    with cache.publish("k") as folder:
        (folder / "weights.safetensors").write_bytes(b"0123456789")
    victim = tmp_path / "k" / "weights.safetensors"
    if damage == "flip":
        victim.write_bytes(b"0123456780")
    elif damage == "truncate":
        victim.write_bytes(b"01234")
    elif damage == "delete":
        victim.unlink()
    else:
        (tmp_path / "k" / "manifest.json").write_text("{")
    cache = Cache(tmp_path)  # as another process finds it; an entry is checked once in each
    assert not cache.holds("k")
    assert len(cache.notices) == 1 and "made again" in cache.notices[0]
    assert not (tmp_path / "k").exists()


def test_a_second_publisher_of_the_same_entry_yields_to_the_first(tmp_path):
    cache = Cache(tmp_path)
    with cache.publish("k") as late:
        (late / "a.json").write_text("late")
        with cache.publish("k") as early:
            (early / "a.json").write_text("early")
    assert (tmp_path / "k" / "a.json").read_text() == "early"
    assert [p.name for p in tmp_path.iterdir()] == ["k"]


def test_a_cache_without_reuse_finds_nothing_and_replaces(tmp_path):
    for text in ("first", "second"):
        cache = Cache(tmp_path, reuse=False)
        assert not cache.holds("k")
        with cache.publish("k") as folder:
            (folder / "a.json").write_text(json.dumps(text))
    assert json.loads((tmp_path / "k" / "a.json").read_text()) == "second"


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match="cache.dir="), Cache(blocked / "cache").publish("k"):
        pass
