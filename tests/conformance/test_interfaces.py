"""Methods stand behind classes with null answers: nobody asks what they have, nothing is overridden
but an empty hook, and one LightningModule trains them all.
"""

import ast
import inspect
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

from compressor.distill import Term
from compressor.loop import Loop
from compressor.noise import Noise
from compressor.regularize import Regularizer
from compressor.robust import Remedy
from compressor.tasks.holding import Holding

PACKAGE = Path(__file__).parents[2] / "compressor"
INTERFACES = (Term, Remedy, Regularizer, Noise, Loop, Holding)
ROOMS = ("tasks", "distill", "robust", "regularize", "noise", "pretrain")
# A network of the user's may name its stages and its head or not: no class of ours stands above it.
OF_NETWORKS = ("stages", "head_name")


def modules():
    for room in ROOMS:
        yield from sorted((PACKAGE / room).glob("*.py"))
    stages = PACKAGE / "stages"
    names = ("train", "finetune", "pretrain", "baseline", "noise", "_fit", "_crossfit", "_labels")
    yield from (stages / f"{name}.py" for name in (*names, "_recipe", "_classes", "_callbacks"))
    yield from sorted((stages / "_distill").glob("*.py"))


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: path.stem)
def test_nobody_asks_a_collaborator_what_it_has(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "hasattr", f"{path.name}:{node.lineno}"
            if node.func.id == "getattr":
                asked = node.args[1].value
                assert asked in OF_NETWORKS, f"{path.name}:{node.lineno} asks for {asked}"


def test_one_lightning_module_stands_behind_every_training():
    found = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any("LightningModule" in ast.unparse(base) for base in node.bases)
    ]
    assert found == ["tasks/training.py: Training"]
    training = import_module("compressor.tasks.training").Training
    assert training.__subclasses__() == []


def methods_of(interface):
    """Every class of this package below an interface."""
    for room in ROOMS:
        for path in (PACKAGE / room).glob("*.py"):
            import_module(f"compressor.{room}.{path.stem}".removesuffix(".__init__"))
    todo, found = [interface], []
    while todo:
        todo += (more := todo.pop().__subclasses__())
        found += [each for each in more if each.__module__.startswith("compressor.")]
    return found


def is_null(function):
    """Whether a body does nothing but answer: at most one return, or a refusal."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    rest = [
        part
        for part in node.body
        if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
    ]
    return not rest or (len(rest) == 1 and isinstance(rest[0], ast.Return | ast.Raise))


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda interface: interface.__name__)
def test_what_a_method_overrides_was_an_empty_hook(interface):
    methods = methods_of(interface)
    assert methods or interface is Holding
    for method in methods:
        for name, value in vars(method).items():
            if name.startswith("__") or not inspect.isfunction(value):
                continue
            above = [base for base in method.__mro__[1:] if name in vars(base)]
            for base in above:
                assert is_null(vars(base)[name]), f"{method.__name__} overrides {base}.{name}"
