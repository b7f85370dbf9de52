"""A version that was forgotten: results of before would be taken for those of changed code."""

import json

import pytest
from conformance import digests

KNOWN = json.loads(digests.FILE.read_text(encoding="utf-8"))
NOW = digests.digests()


def test_every_stage_and_method_is_recorded_and_none_that_is_gone():
    assert KNOWN.keys() == NOW.keys(), "run tests/conformance/digests.py"


@pytest.mark.parametrize("name", sorted(NOW))
def test_a_version_stands_for_the_code_that_it_was_recorded_with(name):
    assert KNOWN.get(name) == NOW[name], (
        f"the code behind {name} changed (or its version did): raise the version of {name} "
        "(VERSION in its module; 1 where there is none) if a figure can change; then record the "
        "new digest with tests/conformance/digests.py, and say why in the commit"
    )


def test_a_digest_changes_with_a_private_module_of_the_room_and_with_nothing_else(
    tmp_path, monkeypatch
):
    room = tmp_path / "prune"
    room.mkdir()
    (room / "a.py").write_text("from compressor.prune._b import x\nimport compressor.errors\n")
    (room / "_b.py").write_text("x = 1\n")
    (tmp_path / "errors.py").write_text("x = 1\n")
    monkeypatch.setattr(digests, "PACKAGE", tmp_path)
    before = digests.digest("compressor.prune.a")
    (room / "_b.py").write_text('"""Said."""\nx = 1  # why\n')
    (tmp_path / "errors.py").write_text("x = 2\n")
    assert digests.digest("compressor.prune.a") == before
    (room / "_b.py").write_text("x = 2\n")
    assert digests.digest("compressor.prune.a") != before


def test_a_version_of_a_method_is_read_from_its_module(tmp_path, monkeypatch):
    (tmp_path / "prune").mkdir()
    (tmp_path / "prune" / "a.py").write_text("VERSION = 3\n")
    (tmp_path / "prune" / "b.py").write_text("")
    monkeypatch.setattr(digests, "PACKAGE", tmp_path)
    assert digests.version("compressor.prune.a") == 3
    assert digests.version("compressor.prune.b") == 1
