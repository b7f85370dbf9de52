import json
import re
import subprocess
import sys
from html.parser import HTMLParser

from compressor.report import plots, sweep

FETCHING = {"src", "srcset", "href", "xlink:href", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """Every tag with its attributes, every id, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def members():
    """Two criteria, two ratios, three seeds; one of them failed, with words that are markup."""
    for place, prune in enumerate(("random", "thinet")):
        for ratio in (0.3, 0.5):
            for seed in range(3):
                accuracy = 0.9 - ratio / 10 + place * (0.02 + seed / 1000) + seed / 100
                options = {"method": prune, "ratio": ratio, "seed": seed, "accuracy": accuracy}
                failed = (prune, ratio, seed) == ("thinet", 0.5, 2)
                overrides = [f"prune={prune}", f"prune.ratio={ratio}", f"seed={seed}"]
                yield overrides, None if failed else options


def test_the_page_asks_no_host_for_anything(a_sweep):
    folder = a_sweep(*members())
    (folder / "11" / "status.json").write_text(
        json.dumps({"state": "failed", "error": '<script src="https://example.org/x.js">'})
    )
    sweep.summarise(folder)
    text = (folder / "report.html").read_text()
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert not set(names) & {"script", "link", "iframe", "object", "embed", "img", "base"}
    for tag, attributes in page.tags:
        for name in FETCHING & attributes.keys():
            assert attributes[name].startswith("#"), (tag, attributes)
        style = attributes.get("style") or ""
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", style))
    assert (
        "@import" not in text and "@font-face" not in text and "url(" not in text.split("<svg")[0]
    )
    assert '<script src="https://example.org/x.js">' in page.text  # as words
    assert names.count("svg") == 4 and "Accuracy against MACs" in page.text
    # each figure keeps its own clip paths: ids are unique, and every reference has its target
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text)) <= set(ids)


def test_the_page_says_what_the_sweep_shows(a_sweep, monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda summary: {})
    folder = a_sweep(*members())
    sweep.summarise(folder)
    page = Page((folder / "report.html").read_text())
    assert "Sweep over prune and prune.ratio, 3 seeds" in page.text
    assert "11 of 12 members done, 1 failed." in page.text
    assert "thinet beats random at prune.ratio=0.3 by 2.1 ± 0.2 points over 3 seeds" in page.text
    assert "prune.ratio=2 is no fraction | of channels" in page.text
    assert "cheapest first: thinet at prune.ratio=0.5, thinet at prune.ratio=0.3" in page.text
    assert ("td", {"class": "word better"}) in page.tags
    assert any(tag == "meta" and "viewport" == found.get("name") for tag, found in page.tags)
    assert "prefers-color-scheme:dark" in page.text


def test_the_report_is_written_without_torch(a_sweep):
    folder = a_sweep((["prune=thinet", "seed=0"], {}), (["prune=random", "seed=0"], {}))
    code = (
        "import sys; from pathlib import Path; from compressor import report_command; "
        "from compressor.report import run, sweep; "
        "assert not {'matplotlib', 'scipy', 'rich'} & sys.modules.keys(); "
        f"assert report_command.main([{str(folder)!r}]) == 0; "
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)
