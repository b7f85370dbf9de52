"""What a user's class depends on in code, and what of it counts."""

import sys
import textwrap

import pytest

from compressor.instantiation import sources
from compressor.source_code import imports, reached, syntax


@pytest.fixture(autouse=True)
def remembers_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(root, **files):
    for name, text in files.items():
        path = root.joinpath(*name.split("__"))
        path = path.with_name(path.name + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


@pytest.fixture
def lab(tmp_path):
    root = tmp_path / "here"
    write(
        root,
        a_lab__rkd="import math, torch\nfrom a_lab.helper import FACTOR\n",
        a_lab__helper="def late():\n    from .sub import deep\n",
        a_lab__sub__deep="import compressor.errors\nfrom ... import outside\nimport beside\n",
        a_lab__unread="",
        beside="import a_lab.rkd\n",
    )
    (root / "a_lab" / "sub" / "__init__.py").write_text("")
    (root / "a_lab" / "__init__.py").write_text("")
    return root


def digests(lab):
    return reached("a_lab.rkd", [lab / "a_lab" / "rkd.py"])


def test_all_modules_that_are_imported_in_turn_count_and_no_others(lab):
    assert list(digests(lab)) == [
        "a_lab/__init__.py",
        "a_lab/helper.py",
        "a_lab/rkd.py",
        "a_lab/sub/__init__.py",
        "a_lab/sub/deep.py",
        "beside.py",
    ]


def test_a_changed_helper_is_another_digest_and_only_that_one(lab):
    before = digests(lab)
    write(lab, a_lab__helper="def late():\n    from .sub import deep\n    return 2\n")
    after = digests(lab)
    assert {name for name in before if before[name] != after[name]} == {"a_lab/helper.py"}


def test_docstrings_comments_and_blank_lines_change_nothing(lab):
    before = digests(lab)
    write(
        lab,
        a_lab__helper='"""Said."""\n\n# why\ndef late():\n    "again"\n    from .sub import deep\n',
    )
    assert digests(lab) == before


def test_the_folder_that_holds_the_code_does_not_count(lab, tmp_path):
    before = digests(lab)
    moved = lab.rename(tmp_path / "there")
    assert reached("a_lab.rkd", [moved / "a_lab" / "rkd.py"]) == before


def test_other_packages_beside_an_installed_one_are_not_followed(tmp_path):
    place = tmp_path / "site-packages"
    write(place, mine__net="import theirs\nimport mine.more\n", mine__more="", theirs="")
    assert list(reached("mine.net", [place / "mine" / "net.py"])) == ["mine/more.py", "mine/net.py"]


def test_helpers_in_the_other_folders_that_a_command_imports_from_count(tmp_path, monkeypatch):
    first, second, stood_in = (tmp_path / name for name in ("first", "second", "here"))
    write(first, net="import shared.tools\nimport mine\n")
    write(second, shared__tools="from . import deep\n", shared__deep="", unread="")
    write(stood_in, mine="FACTOR = 1.0\n")
    monkeypatch.setenv("PYTHONPATH", f"{first}:{second}")
    monkeypatch.chdir(stood_in)
    before = reached("net", [first / "net.py"])
    assert list(before) == ["mine.py", "net.py", "shared/deep.py", "shared/tools.py"]
    write(second, shared__deep="FACTOR = 2.0\n")
    write(stood_in, mine="FACTOR = 2.0\n")
    after = reached("net", [first / "net.py"])
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"mine.py", "shared/deep.py"}


def test_of_two_modules_of_one_name_the_one_that_is_imported_counts(tmp_path, monkeypatch):
    for place, text in (("first", "FACTOR = 1\n"), ("second", "FACTOR = 2\n")):
        write(tmp_path / place, helper=text)
    write(tmp_path / "second", net="import helper\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    before = reached("net", [tmp_path / "second" / "net.py"])
    write(tmp_path / "second", helper="FACTOR = 3\n")
    assert reached("net", [tmp_path / "second" / "net.py"]) == before
    write(tmp_path / "first", helper="FACTOR = 3\n")
    assert reached("net", [tmp_path / "second" / "net.py"]) != before


def test_distributions_on_pythonpath_are_not_followed(tmp_path, monkeypatch):
    write(tmp_path / "mine", net="import theirs\n")
    write(tmp_path / "target", theirs="")
    (tmp_path / "target" / "theirs-1.0.dist-info").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "target"))
    assert list(reached("net", [tmp_path / "mine" / "net.py"])) == ["net.py"]


def test_a_file_that_is_no_python_stands_for_its_bytes(tmp_path):
    write(tmp_path, odd="def (:\n")
    first = reached("odd", [tmp_path / "odd.py"])
    write(tmp_path, odd="def (;\n")
    assert reached("odd", [tmp_path / "odd.py"]) != first


def test_digests_are_remembered_by_size_and_time(lab, monkeypatch):
    import os

    from compressor import source_code

    for path in lab.rglob("*.py"):
        os.utime(path, (1, 1))  # settled
    before = digests(lab)
    monkeypatch.setattr(source_code, "_known", {})
    monkeypatch.setattr(source_code, "_loaded", set())
    monkeypatch.setattr(source_code, "_reached", {})
    monkeypatch.setattr(source_code.ast, "parse", lambda text: pytest.fail("read again"))
    assert digests(lab) == before


def test_an_edit_that_keeps_size_and_time_is_noticed(lab):
    import os

    from compressor import source_code

    path = lab / "beside.py"
    path.write_text("FACTOR = 1.0\n")
    for each in lab.rglob("*.py"):
        os.utime(each, (1, 1))
    before = digests(lab)
    path.write_text("FACTOR = 2.0\n")
    os.utime(path, (1, 1))  # as out of an archive
    assert digests(lab)["beside.py"] != before["beside.py"]
    assert str(path) in source_code._known


def test_what_was_reached_is_known_until_a_file_of_it_changes(lab, monkeypatch):
    import os

    from compressor import source_code

    for path in lab.rglob("*.py"):
        os.utime(path, (1, 1))
    before = digests(lab)
    facts = source_code._facts
    monkeypatch.setattr(source_code, "_facts", lambda path: pytest.fail("looked at again"))
    assert digests(lab) == before
    monkeypatch.setattr(source_code, "_facts", facts)
    (lab / "beside.py").write_text("import a_lab.rkd, math\n")
    assert digests(lab) != before


def test_imports_are_found_wherever_they_stand():
    import ast

    text = """
    import a.b as c
    from . import d
    from ..e import f
    def g():
        importlib.import_module("h.i")
    """
    assert set(imports(ast.parse(textwrap.dedent(text)))) == {
        "a.b", ".", ".d", "..e", "..e.f", "h.i",
    }  # fmt: skip


def test_the_syntax_is_told_in_a_form_that_versions_of_python_share():
    assert syntax("x = f'{y}' # said") == syntax("x = f'{y}'")
    # an empty list of type parameters, a keyword's kind: some versions have them
    assert "type_params" not in syntax("def f(): pass") and "kind" not in syntax("x = u'y'")
    assert syntax("x = None") != syntax("x = 0")


def test_a_name_that_is_exported_elsewhere_counts_the_way_to_it(lab, monkeypatch):
    (lab / "a_lab" / "__init__.py").write_text("from a_lab.rkd import RKD\n")
    write(lab, a_lab__rkd="class RKD: pass\n")
    monkeypatch.syspath_prepend(str(lab))
    try:
        assert list(sources({"_target_": "a_lab.RKD"})) == ["a_lab/__init__.py", "a_lab/rkd.py"]
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "a_lab"]:
            del sys.modules[name]


def test_classes_of_torch_and_timm_stand_by_their_release():
    (version,) = sources({"_target_": "torch.nn.Linear"}).values()
    import torch

    assert version == ".".join(torch.__version__.split(".")[:2])


def test_our_own_methods_stand_by_their_version(monkeypatch):
    from compressor.prune import thinet

    target = {"_target_": "compressor.prune.thinet.ThiNet"}
    monkeypatch.setattr(thinet, "VERSION", 1, raising=False)
    assert sources(target) == {}
    monkeypatch.setattr(thinet, "VERSION", 2)
    assert sources(target) == {"compressor.prune.thinet.ThiNet": "version 2"}
