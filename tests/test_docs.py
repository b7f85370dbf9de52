"""The commands of the documents are sound."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = [
    line
    for path in sorted(DOCS.glob("*.md"))
    for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder that holds `pictures`, two classes of 12 images each."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documents_plans(command, pictures, monkeypatch, capsys):
    from compressor.run import main

    program, *words = shlex.split(command)
    assert program == "compress-run"
    monkeypatch.chdir(pictures)
    words = [*words, "machine.latency_seconds=0", "machine.threads=1"]
    assert main([*dict.fromkeys([*words, "plan_only=true"])]) == 0
    assert "train" in capsys.readouterr().out
