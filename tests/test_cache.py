import errno
import json
import subprocess
import sys
import textwrap
import time

import pytest

from compressor import cache as cache_module
from compressor import eviction, sizes
from compressor.cache import RESUME, Cache, key_of
from compressor.errors import Diverged, RunError, UsageError
from compressor.eviction import entries, size_of


def write(text="{}"):
    def make(folder):
        (folder / "metrics.json").write_text(text)

    return make


def started(tmp_path, code):
    """A process that runs `code` with a cache in tmp_path/cache."""
    head = f"""
        import os, sys, time
        from pathlib import Path
        from compressor.cache import Cache, RESUME
        here = Path({str(tmp_path)!r})
        cache = Cache(here / "cache", say=lambda line: print(line, flush=True))
    """
    text = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def test_a_key_depends_on_every_part_and_not_on_their_order():
    assert key_of(a=1, b={"x": 1, "y": 2}) == key_of(b={"y": 2, "x": 1}, a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(b=1), key_of(a=1.5), key_of(a="1")}) == 5


def test_an_entry_appears_only_when_it_is_complete(tmp_path):
    cache = Cache(tmp_path)

    def fail(folder):
        write()(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.obtain("k", "train", fail)
    assert not cache.holds("k")
    assert list(entries(tmp_path)) == [] and list((tmp_path / ".part").iterdir()) == []

    def look(folder):
        write()(folder)
        assert not cache.holds("k")

    assert cache.obtain("k", "train", look) is False
    assert cache.holds("k")
    assert cache.obtain("k", "train", fail) is True
    assert [key for key, _ in entries(tmp_path)] == ["k"]
    assert size_of(tmp_path / "k") > 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "below", "manifest", "version"])
def test_a_damaged_entry_is_reported_and_made_again(tmp_path, damage):
    def make(folder):
        (folder / "weights.safetensors").write_bytes(b"0123456789")
        (folder / "tensorboard").mkdir()
        (folder / "tensorboard" / "events").write_bytes(b"0123456789")

    Cache(tmp_path).obtain("k", "train", make)
    victim, manifest = tmp_path / "k" / "weights.safetensors", tmp_path / "k" / "manifest.json"
    if damage == "flip":
        victim.write_bytes(b"0123456780")
    elif damage == "truncate":
        victim.write_bytes(b"01234")
    elif damage == "delete":
        victim.unlink()
    elif damage == "below":
        (tmp_path / "k" / "tensorboard" / "events").write_bytes(b"1123456789")
    elif damage == "manifest":
        text = manifest.read_text()
        manifest.write_text(text.replace(": ", ":  ", 1))  # the same values, another byte
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    said = []
    cache = Cache(tmp_path, say=said.append)  # as another process finds it: one check in each
    assert not cache.holds("k") and not cache.holds("k")
    assert len(said) == 1 and "k is not used and will be made again" in said[0]
    assert "\n" not in said[0]
    assert cache.obtain("k", "train", make) is False
    assert cache.holds("k") and victim.read_bytes() == b"0123456789"
    assert len(said) == 1


def test_a_cache_without_reuse_finds_nothing_and_replaces(tmp_path):
    for text in ("first", "second"):
        cache = Cache(tmp_path, reuse=False)
        assert not cache.holds("k")
        assert cache.obtain("k", "train", write(text)) is False
        # what one run asks for twice it makes once
        assert cache.obtain("k", "train", write("again")) is True
    assert (tmp_path / "k" / "metrics.json").read_text() == "second"


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match="cache.dir=") as caught:
        Cache(blocked / "cache").obtain("k", "train", write())
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_clear_line_and_loses_nothing_finished(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.obtain("done", "train", write())

    def no_space(folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with pytest.raises(RunError, match="is full: free some space"):
        cache.obtain("k", "compress", no_space)

    def foreign_writer(folder):
        raise ValueError("write failed")  # as writers in other languages say it

    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RunError, match="is full: free some space"):
        cache.obtain("k", "compress", foreign_writer)
    assert Cache(tmp_path).holds("done") and not cache.holds("k")


def test_what_an_interrupted_maker_left_is_handed_to_the_next(tmp_path):
    def interrupted(folder):
        (folder / RESUME).mkdir()
        (folder / RESUME / "epoch-3").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).obtain("k", "train", interrupted)

    def goes_on(folder):
        assert (folder / RESUME / "epoch-3").exists()
        (folder / "metrics.json").write_text("{}")

    Cache(tmp_path).obtain("k", "train", goes_on)
    assert sorted(p.name for p in (tmp_path / "k").iterdir()) == ["manifest.json", "metrics.json"]
    assert list((tmp_path / ".part").iterdir()) == []


def test_what_would_fail_again_is_not_gone_on_from(tmp_path):
    def diverged(folder):
        (folder / RESUME).mkdir()
        raise RunError("the loss is nan")

    with pytest.raises(RunError, match="nan"):
        Cache(tmp_path).obtain("k", "train", diverged)
    assert list((tmp_path / ".part").iterdir()) == []


def test_of_two_processes_one_makes_and_the_other_waits(tmp_path):
    code = """
        def make(folder):
            (here / f"making-{sys.argv[1] if len(sys.argv) > 1 else os.getpid()}").touch()
            while not (here / "go").exists():
                time.sleep(0.01)
            (folder / "a.txt").write_text(str(os.getpid()))
        print("reused" if cache.obtain("k", "train", make) else "made", flush=True)
    """
    first = started(tmp_path, code)
    wait_for(tmp_path / f"making-{first.pid}")
    second = started(tmp_path, code)
    assert "another process is making k; waiting" in second.stdout.readline()
    (tmp_path / "go").touch()
    assert first.communicate(timeout=60)[0] == "made\n"
    assert second.communicate(timeout=60)[0] == "reused\n"
    assert (tmp_path / "cache" / "k" / "a.txt").read_text() == str(first.pid)


def test_a_waiting_process_takes_over_from_one_that_is_killed_and_goes_on(tmp_path):
    code = """
        def make(folder):
            if not (folder / RESUME).exists():
                (folder / RESUME).mkdir()
                (folder / "epochs").write_text("1")
                (here / "making").touch()
                time.sleep(600)
            (folder / "epochs").write_text((folder / "epochs").read_text() + " 2")
        print("reused" if cache.obtain("k", "train", make) else "made", flush=True)
    """
    first = started(tmp_path, code)
    wait_for(tmp_path / "making")
    second = started(tmp_path, code)
    assert "waiting" in second.stdout.readline()
    first.kill()
    first.communicate(timeout=60)
    assert second.communicate(timeout=60)[0] == "made\n"
    assert (tmp_path / "cache" / "k" / "epochs").read_text() == "1 2"


def test_a_lookup_among_ten_thousand_entries_lists_none_of_them(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.obtain("k", "train", write())

    def listed(*_):
        raise AssertionError("the look-up listed the cache's folder")

    monkeypatch.setattr(cache_module.os, "listdir", listed)
    monkeypatch.setattr(type(tmp_path), "iterdir", listed)
    monkeypatch.setattr(type(tmp_path), "glob", listed)
    assert Cache(tmp_path).holds("k") and not Cache(tmp_path).holds("absent")


def test_what_diverged_in_one_member_of_a_sweep_is_not_tried_in_another(tmp_path):
    tries = []

    def diverge(folder):
        tries.append(folder)
        raise Diverged("the training loss is nan in epoch 1: lower lr")

    for sweep, expected in (("a", 1), ("a", 1), ("b", 2), ("", 3), ("", 4)):
        with pytest.raises(Diverged, match="the training loss is nan in epoch 1: lower lr"):
            Cache(tmp_path, sweep=sweep).obtain("k", "train", diverge)
        assert len(tries) == expected
    assert list(entries(tmp_path)) == []


def test_a_cache_belongs_to_the_sweep_of_a_running_member(tmp_path):
    options = {
        "dir": tmp_path / "cache", "enabled": True, "lock": "auto", "lease_seconds": 60.0,
        "max_size": None,
    }  # fmt: skip

    def sweep_with(**status):
        (tmp_path / "status.json").write_text(json.dumps(status))
        return Cache.of(options, tmp_path, lambda line: None).sweep

    assert sweep_with(state="running", sweep="a") == "a"
    assert sweep_with(state="done", sweep="a") == ""
    assert sweep_with(state="running") == ""


# -- a bound on its size ---------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """The folder of a cache with three entries of 5 KB that a process which is gone made."""
    code = f"""
        import time
        from pathlib import Path
        from compressor.cache import Cache
        for key in "abc":
            Cache(Path({str(tmp_path)!r})).obtain(
                key, "train", lambda folder: (folder / "w").write_bytes(bytes(5000))
            )
            time.sleep(0.02)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    return tmp_path


def large(folder):
    (folder / "w").write_bytes(bytes(5000))


def keys(root):
    return [key for key, _ in entries(root)]


def test_a_new_entry_makes_room_by_the_longest_unused_and_says_so(old):
    said = []
    Cache(old, max_size=17_000, say=said.append).obtain("d", "compress", large)
    assert keys(old) == ["b", "c", "d"]
    assert said == ["cache.max_size=17.0KB: removed 5.3KB that was unused for longest: a (train)"]
    Cache(old, max_size=17_000, say=said.append).obtain("d", "compress", large)
    assert keys(old) == ["b", "c", "d"] and len(said) == 1


def test_without_a_bound_nothing_goes(old):
    Cache(old).obtain("d", "compress", large)
    assert keys(old) == ["a", "b", "c", "d"]


def test_what_a_running_plan_needs_stays_however_old_and_the_excess_is_said_once(old):
    said = []
    cache = Cache(old, max_size=1000, say=said.append)
    cache.reserve(["a", "not made yet"])
    cache.obtain("d", "compress", large)
    cache.obtain("e", "finetune", large)
    assert keys(old) == ["a", "d", "e"]
    assert "b (train), c (train)" in said[0]
    assert said[1:] == [
        f"cache.max_size=1.0KB is exceeded: running commands use what is left in {old}"
    ]


def test_what_another_process_is_using_stays(old):
    code = f"""
        import sys
        from pathlib import Path
        from compressor.cache import Cache
        Cache(Path({str(old)!r})).reserve(["a"])
        print(flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        Cache(old, max_size=0).obtain("d", "compress", large)
        assert keys(old) == ["a", "d"]
        other.stdin.close()
        other.wait()
    Cache(old, max_size=0).obtain("e", "compress", large)
    assert keys(old) == ["d", "e"]


def test_an_entry_in_the_making_and_what_a_killed_one_left_are_not_pruned(old):
    left = old / ".part" / "k.0a" / RESUME
    left.mkdir(parents=True)
    Cache(old, max_size=0).obtain("d", "compress", large)
    assert keys(old) == ["d"] and left.is_dir()


def test_two_processes_that_prune_at_once_do_not_disturb_each_other(old, monkeypatch):
    found = eviction.read(old)
    other = eviction.read(old)
    assert eviction.remove(old, found[0].key, "auto", 60.0)
    assert not eviction.remove(old, other[0].key, "auto", 60.0)
    monkeypatch.setattr(eviction, "read", lambda *a: other)
    removed, kept = eviction.prune(old, max_size=0)
    assert [entry.key for entry in removed] == ["b", "c"] and kept == []


def test_a_cache_that_cannot_be_pruned_ends_no_run(old, monkeypatch):
    def fails(*a, **k):
        raise RunError("cannot change it")

    said = []
    monkeypatch.setattr(eviction, "prune", fails)
    cache = Cache(old, max_size=0, say=said.append)
    cache.obtain("d", "compress", large)
    cache.obtain("e", "compress", large)
    assert keys(old) == [*"abcde"]
    assert said == ["cache.max_size=0B is not kept to: cannot change it"]


@pytest.mark.parametrize(
    ("typed", "size"),
    [(5, 5), ("500M", 5 * 10**8), ("20GB", 2 * 10**10), ("1.5k", 1500), (1e6, 10**6)],
)
def test_a_size_is_a_number_of_bytes_or_text_with_a_unit(typed, size):
    assert sizes.read(typed) == size


@pytest.mark.parametrize("typed", ["much", "", True, "5 G", -3, "-5G"])
def test_what_is_no_size_is_refused(typed):
    with pytest.raises(UsageError, match="is no size: write 500M, 20G|must be positive"):
        sizes.read(typed)
