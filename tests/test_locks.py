import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager

import pytest

from compressor import locks
from compressor.errors import RunError, UsageError
from compressor.locks import Locks, check_held, is_on_network


@contextmanager
def holder(folder, kind, seconds, then):
    """A process that holds the lock `k` and then runs a statement."""
    code = f"""
        import signal, time
        from pathlib import Path
        from compressor.locks import Locks
        with Locks(Path({str(folder)!r}), {kind!r}, {seconds}).hold("k"):
            print("held", flush=True)
            {then}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process


@pytest.mark.parametrize("kind", ["lock", "lease"])
def test_a_lock_is_held_by_one_and_freed_by_its_holder(tmp_path, kind):
    mine = Locks(tmp_path, kind, 1.0)
    assert not mine.is_held("k")
    waited = []
    with holder(tmp_path, kind, 1.0, "time.sleep(0.5)"):
        with mine.hold("k", lambda: waited.append(1)):
            assert waited == [1]
    assert not mine.is_held("k")


@pytest.mark.parametrize("kind", ["lock", "lease"])
def test_a_killed_holder_is_followed_by_the_next(tmp_path, kind):
    mine, taken = Locks(tmp_path, kind, 0.5), []
    with holder(tmp_path, kind, 0.5, "time.sleep(600)") as process:
        assert mine.is_held("k")
        process.kill()
    with mine.hold("k"):
        taken.append(1)
    assert taken == [1]


def test_a_lease_that_was_taken_over_is_an_error_of_its_sleeping_holder(tmp_path):
    mine = Locks(tmp_path, "lease", 0.5)
    with mine.hold("k") as lock:
        check_held(lock)
        # as a process that takes over leaves it
        (tmp_path / "k.lock").unlink()
        deadline = time.monotonic() + 20
        while lock.compromise is None and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(RunError, match="cache.lease_seconds"):
            check_held(lock)


def test_the_disk_decides_between_lock_and_lease(tmp_path, monkeypatch):
    assert not is_on_network(tmp_path / "not" / "there")
    table = "36 35 98:0 / / rw shared:1 - ext4 /dev/a rw\n"
    table += f"37 36 0:50 / {tmp_path.resolve()} rw - nfs4 server:/home rw\n"
    monkeypatch.setattr(locks.Path, "read_text", lambda *_, **__: table)
    assert is_on_network(tmp_path / "cache")
    assert not is_on_network(tmp_path.parent / "elsewhere")


@pytest.mark.parametrize(("kind", "seconds"), [("flock", 60.0), ("lease", 0.0)])
def test_a_wrong_option_is_refused(tmp_path, kind, seconds):
    with pytest.raises(UsageError, match="cache.l"):
        Locks(tmp_path, kind, seconds)


def test_a_folder_that_cannot_be_written_is_told_with_its_own_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for remedy, expected in (({}, "cache.dir="), ({"remedy": "set TMPDIR"}, "set TMPDIR")):
        with (
            pytest.raises(RunError, match=expected),
            Locks(tmp_path / "file", "lock", **remedy).hold("k"),
        ):
            pass
