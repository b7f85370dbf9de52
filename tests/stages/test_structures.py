import torch

from compressor import surgery
from compressor.artefact import Spec
from compressor.stages import _structures
from compressor.stages._structures import structure_of
from compressor.surgery import EMPTY_PLAN

EXAMPLES = (torch.zeros(2, 3, 8, 8),)


def spec(width):
    arguments = {"width": width}
    return Spec("compressor.models.resnet20", arguments, (3, 8, 8), 10, "classification")


def test_a_network_is_analysed_once_whatever_its_weights(monkeypatch):
    seen = []
    analyse = surgery.analyse
    monkeypatch.setattr(surgery, "analyse", lambda *args: seen.append(1) or analyse(*args))
    monkeypatch.setattr(_structures, "_known", {})
    narrow, wide = spec(0.5), spec(1.0)
    first = structure_of(narrow.build(), narrow, EMPTY_PLAN, EXAMPLES)
    assert structure_of(narrow.build(), narrow, EMPTY_PLAN, EXAMPLES) is first
    assert structure_of(wide.build(), wide, EMPTY_PLAN, EXAMPLES) is not first
    assert len(seen) == 2
    # a cut network is another one
    group = first.select("interior")[0]
    plan = surgery.plan_cut(first, {group.name: torch.arange(group.size // 2)})
    small = surgery.replay(narrow.build(), plan)
    left = structure_of(small, narrow, plan, EXAMPLES)
    assert left.group(group.name).size == group.size // 2 and len(seen) == 3
