import json

import pytest

from compressor import manifest
from compressor.errors import RunError, UsageError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.json").write_text('{"figure": 1.5}')
    (tmp_path / "below" / "b.bin").write_bytes(bytes(range(256)))
    manifest.seal(tmp_path, {"stage": "train"})
    return tmp_path


def test_a_sealed_folder_is_whole_and_says_what_it_is(folder):
    assert manifest.verify(folder) == {"a.json", "below/b.bin"}
    assert manifest.about(folder) == {"stage": "train"}


def test_every_changed_byte_of_every_file_is_noticed(folder):
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        content = path.read_bytes()
        for place in range(0, len(content), 7):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises((RunError, UsageError)) as caught:
                manifest.verify(folder)
            assert "\n" not in str(caught.value)
        for length in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises((RunError, UsageError)):
                manifest.verify(folder)
        path.write_bytes(content)
    assert manifest.verify(folder)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.json", "below/../../a.json", "", "."])
def test_a_manifest_may_not_name_a_path_outside_its_folder(folder, name):
    listing = folder / manifest.NAME
    body = json.loads(listing.read_text())
    body["files"][name] = {"bytes": 1, "sha256": ""}
    listing.write_text(json.dumps(body))
    with pytest.raises(UsageError, match="outside its folder"):
        manifest.verify(folder)


def test_a_folder_of_another_version_is_told_from_a_damaged_one(folder):
    listing = folder / manifest.NAME
    body = json.loads(listing.read_text())
    listing.write_text(json.dumps({**body, "format": 3}))
    with pytest.raises(manifest.OtherVersion, match="format 3, this version reads 2"):
        manifest.verify(folder)


def test_a_link_in_place_of_a_file_is_not_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.json"
    elsewhere.write_bytes((folder / "a.json").read_bytes())
    (folder / "a.json").unlink()
    (folder / "a.json").symlink_to(elsewhere)
    with pytest.raises(RunError, match="a.json is a symbolic link, which is not followed"):
        manifest.verify(folder)


def test_a_file_that_is_gone_is_told_from_what_stands_in_its_place(folder):
    path = folder / "below" / "b.bin"
    path.unlink()
    with pytest.raises(RunError, match="b.bin is missing: restore"):
        manifest.verify(folder)
    path.mkdir()
    with pytest.raises(RunError, match="b.bin is no regular file: restore"):
        manifest.verify(folder)
    path.rmdir()
    path.parent.rename(folder / "moved")
    path.parent.symlink_to(folder / "moved")
    with pytest.raises(RunError, match="below is a symbolic link, which is not followed"):
        manifest.verify(folder)


def test_a_manifest_that_is_a_link_or_no_file_is_told_from_none(folder):
    path = folder / manifest.NAME
    path.rename(folder / "other")
    with pytest.raises(UsageError, match="it has no manifest.json"):
        manifest.verify(folder)
    path.symlink_to("other")
    with pytest.raises(UsageError, match="manifest.json is a symbolic link, which is not followed"):
        manifest.verify(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match="manifest.json is no regular file"):
        manifest.verify(folder)


def test_whoever_may_read_the_manifest_may_read_every_file(tmp_path):
    (tmp_path / "weights").write_bytes(b"w")
    (tmp_path / "weights").chmod(0o600)  # as safetensors leaves it
    manifest.seal(tmp_path)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["weights"] == modes[manifest.NAME]
