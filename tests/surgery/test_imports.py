"""The order of the files: rules write in the ledger, the tracer stands above the rules."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from compressor import surgery

FILES = {path.stem: path for path in Path(surgery.__file__).parent.glob("_[a-z]*.py")}


def imported(path: Path) -> set[str]:
    """Files of the room that a file imports, also late or for a type checker alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "compressor.surgery":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.removeprefix("compressor.surgery.")}
    return found & FILES.keys()


GRAPH = {name: imported(path) for name, path in FILES.items()}


def test_no_file_of_the_surgery_imports_one_that_imports_it():
    list(TopologicalSorter(GRAPH).static_order())  # raises CycleError


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_import_is_hidden_from_the_interpreter(name):
    assert "TYPE_CHECKING" not in FILES[name].read_text(encoding="utf-8")


def test_the_tracer_stands_above_the_rules_and_the_ledger_below_them():
    assert {"_ledger", "_rules"} <= GRAPH["_trace"]
    assert GRAPH["_ledger"] == {"_ids"}
    users = {name for name, seen in GRAPH.items() if "_trace" in seen}
    assert users == {"_analyse"}
