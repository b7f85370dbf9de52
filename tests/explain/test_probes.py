"""Probes: typed as a list, an entry of the cache each, shown in the run's folder and report."""

import doubles
import pytest
from conformance import tiny

from compressor.errors import UsageError
from compressor.explain import Probe, entries

WORDS = ("prune=weight_sum", "train.epochs=1", "finetune.epochs=1")


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A folder of the user's own, with two probes in it."""
    folder = tmp_path_factory.mktemp("conf")
    (folder / "explain").mkdir()
    for name in ("shades", "more"):
        (folder / "explain" / f"{name}.yaml").write_text(
            f"terms:\n  {name}:\n    _target_: doubles.Shades\n    images: 4   # test images\n"
        )
    return folder


def test_a_list_of_probes_looks_into_the_networks_of_a_run(tmp_path, configs, monkeypatch):
    looks, look = [], doubles.Shades.look

    def counted(self, subjects, folder):
        looks.append(sorted(subjects.artefacts))
        return look(self, subjects, folder)

    monkeypatch.setattr(doubles.Shades, "look", counted)
    words = ("--config-dir", str(configs), *WORDS)
    report = tiny.run(
        tmp_path, "run", *words, "explain=[shades,more]", "explain.terms.more.images=2",
        says="explain: shades",
    )  # fmt: skip
    assert list(report["explain"]) == ["shades", "more"]
    found = report["explain"]["shades"]
    assert found["pictures"] == ["explain/shades/dense.png", "explain/shades/final.png"]
    assert found["dense"] != found["final"]
    assert found["dense"] != report["explain"]["more"]["dense"]
    place = tmp_path / "run" / "explain" / "shades"
    assert sorted(path.name for path in place.iterdir()) == ["dense.png", "final.png"]
    assert "![shades](explain/shades/final.png)" in (tmp_path / "run" / "report.md").read_text()
    # the same networks are looked into once, and what is not asked for any more is gone
    said = tiny.run(tmp_path, "run", *words, "explain=shades", says="Final network")
    assert said["explain"]["shades"] == found
    assert looks == [["dense", "final"], ["dense", "final"]]
    assert not (tmp_path / "run" / "explain" / "more").exists()
    without = tiny.run(tmp_path, "other", *words)
    assert "explain" not in without and not (tmp_path / "other" / "explain").exists()
    assert [s["key"] for s in without["stages"]] == [s["key"] for s in report["stages"]]


def test_an_entry_depends_on_the_artefacts_that_the_probe_reads_and_on_its_options():
    tree = {"_target_": "doubles.Shades", "images": 4}
    (one,), (two,) = (entries.read({"terms": {"s": {**tree, "images": n}}}) for n in (4, 5))
    (same,) = entries.read({"terms": {"s": tree}})
    assert one.options_key == same.options_key != two.options_key


class Nowhere(doubles.Shades):
    points = ("round2/compressed",)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("doubles.Card", "explain=it: doubles.Card is no compressor.explain.Probe"),
        ("explain.test_probes.Nowhere", "asks for the network at round2/compressed: the points"),
    ],
)
def test_what_is_no_probe_is_refused_when_the_run_begins(target, text):
    with pytest.raises(UsageError, match=text):
        entries.read({"terms": {"it": {"_target_": target}}})


def test_a_probe_looks_at_the_final_network_unless_it_says_otherwise():
    assert Probe.points == ("final",) and Probe.version == 1
    with pytest.raises(TypeError, match="abstract"):
        Probe()
