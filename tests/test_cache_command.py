import os
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from compressor import cache_command, eviction, sessions
from compressor.cache import Cache
from compressor.eviction import entries
from compressor.locks import Locks


def keys(root):
    return [key for key, _ in entries(root)]


@pytest.fixture
def cache(tmp_path):
    """A cache of entries that a process which is gone made: a, then b, then c."""
    code = f"""
        import time
        from pathlib import Path
        from compressor.cache import Cache
        for key in "abc":
            cache = Cache(Path({str(tmp_path)!r}), run=f"runs/{{key}}")
            cache.obtain(key, "train", lambda folder: (folder / "w").write_bytes(bytes(5000)))
            time.sleep(0.05)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    return tmp_path


def run(capsys, *words):
    code = cache_command.main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_list_says_what_lies_there_and_who_used_it(cache, capsys):
    code, out, _ = run(capsys, "list", "--dir", cache)
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:4]]
    assert [(row[0], row[1], row[2][-2:]) for row in rows] == [(k, "train", "KB") for k in "abc"]
    assert out.splitlines()[-1].startswith("3 entries, 1")
    code, out, _ = run(capsys, "show", "b", "--dir", cache)
    assert code == 0 and "used by runs/b" in out and "whole" in out and "5.0KB  w" in out


def test_a_damaged_entry_is_said_to_be_damaged(cache, capsys):
    (cache / "b" / "w").write_bytes(b"x")
    assert "not whole" in run(capsys, "show", "b", "--dir", cache)[1]


def test_pruning_by_size_takes_the_longest_unused_first(cache, capsys):
    Cache(cache).session.record("a", "reused", "train", "runs/again")  # a is the newest now
    code, out, _ = run(capsys, "prune", "--max-size", "12K", "--dir", cache, "--dry-run")
    assert code == 0 and "1 entries would be removed" in out and keys(cache) == ["a", "b", "c"]
    assert run(capsys, "prune", "--max-size", "12K", "--dir", cache)[0] == 0
    assert keys(cache) == ["a", "c"]


def test_pruning_by_age_takes_what_was_not_used_for_so_long(cache, capsys):
    assert run(capsys, "prune", "--older-than", "1h", "--dir", cache)[0] == 0
    assert keys(cache) == ["a", "b", "c"]
    time.sleep(0.02)
    assert run(capsys, "prune", "--older-than", "0s", "--dir", cache)[0] == 0
    assert keys(cache) == []
    left = [p for p in cache.rglob("*") if p.is_file() and ".locks" not in p.parts]
    assert left == []


def test_what_a_running_process_uses_stays(cache, capsys):
    assert Cache(cache).obtain("b", "train", None)  # this process
    code, out, _ = run(capsys, "prune", "--older-than", "0s", "--dir", cache)
    assert code == 0 and "in use and stay: b" in out
    assert keys(cache) == ["b"]


def test_an_entry_that_comes_to_be_used_while_it_is_pruned_comes_back(cache, monkeypatch):
    found = eviction.read(cache)
    Cache(cache).session.uses("a")  # after the list was made
    assert not eviction.remove(cache, found[0].key, "auto", 60.0)
    assert keys(cache) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "list|show|prune"),
        (["empty"], "invalid choice"),
        (["prune"], "--older-than AGE or --max-size SIZE"),
        (["prune", "--older-than", "soon"], "'soon' is no age"),
        (["prune", "--max-size", "much"], "'much' is no size"),
        (["prune", "--max-size", "-5G"], "--max-size: -5G must be positive"),
        (["prune", "--older-than", "-3d"], "--older-than: -3d must be positive"),
        (["show", "zzz"], "no entry begins with 'zzz'"),
        (["list", "--dir", "/nowhere/at/all"], "cannot be read"),
    ],
)
def test_a_wrong_command_is_one_line(cache, capsys, words, says):
    more = [] if not words or words[0] == "empty" or "--dir" in words else ["--dir", cache]
    code, out, err = run(capsys, *words, *more)
    assert code == 2 and out == ""
    assert says in err and err.count("\n") == 1 and err.startswith("compress-cache: ")


def test_the_command_does_not_wait_for_torch():
    code = "import sys, compressor.cache_command; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_leases_are_watched_at_once_and_only_where_that_tells_something(tmp_path, monkeypatch):
    # of another machine nothing but silence tells that a process is dead
    names = [f"elsewhere-{number}-0a" for number in range(6)]
    own = f"{socket.gethostname()}-{os.getpid()}-0a"
    folder = tmp_path / ".sessions"
    folder.mkdir()
    for name in (*names, own):
        (folder / f"{name}.jsonl").write_text('{"key": "b"}\n[]\n{"key"')
    all_at_once = threading.Barrier(6, timeout=60)
    monkeypatch.setattr(Locks, "is_held", lambda self, name: all_at_once.wait() < 0)
    alive = {used.path.stem: used.alive for used in sessions.read(tmp_path, "lease", 60.0)}
    assert alive == {**dict.fromkeys(names, False), own: True}
    assert sessions.read(tmp_path, "lease", 60.0, key="of nobody") == []


@pytest.mark.parametrize("command", ["list", "prune --older-than 0s"])
def test_a_folder_that_is_no_cache_is_left_alone(tmp_path, capsys, command):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("words")
    code, out, err = run(capsys, *command.split(), "--dir", tmp_path)
    assert (code, out) == (2, "") and "is no cache of finished stages" in err
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_what_is_no_entry_stays_in_a_cache(cache, capsys):
    (cache / "notes").mkdir()
    (cache / ("0123456789" * 2)).mkdir()  # named as an entry: a damaged one
    assert run(capsys, "prune", "--older-than", "0s", "--dir", cache)[0] == 0
    assert keys(cache) == [] and (cache / "notes").is_dir()
