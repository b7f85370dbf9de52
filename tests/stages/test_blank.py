import pytest
import torch
from torch import nn

from compressor import measure
from compressor.artefact import Spec
from compressor.errors import UsageError
from compressor.stages import _blank
from compressor.stages._blank import blank, without_storage
from compressor.stages._statistics import count_calls
from compressor.tasks.classification import Classification


def spec(**arguments):
    return Spec("compressor.models.resnet20", arguments, (3, 8, 8), 10, "classification")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(_blank, "_known", {})


def storage(net):
    return {tensor.device.type for tensor in (*net.parameters(), *net.buffers())}


def test_a_blank_network_has_the_figures_and_the_calls_of_one_with_weights():
    found = blank(spec(), (), Classification())
    assert storage(found.net) == {"meta"}
    net = found.with_storage()
    assert storage(net) == {"cpu"}
    assert found.figures == {
        "macs": measure.count_macs(net, (3, 8, 8)),
        "params": measure.count_params(net),
    }
    assert found.calls == count_calls(net, torch.zeros(2, 3, 8, 8))
    assert found.structure.macs({}) == found.figures["macs"]


def test_a_blank_network_is_looked_at_once_a_process(monkeypatch):
    seen = []
    count = _blank.count_macs
    monkeypatch.setattr(_blank, "count_macs", lambda *args: seen.append(1) or count(*args))
    first = blank(spec(width=0.5), (), Classification())
    assert blank(spec(width=0.5), (), Classification()) is first
    assert blank(spec(width=1.0), (), Classification()) is not first
    assert len(seen) == 2


class ReadsValues(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1)) * (1.0 if float(x.sum()) > 1e9 else 2.0)


def test_a_forward_that_wants_values_gets_a_network_with_storage():
    named = f"{__name__}.ReadsValues"
    made = Spec(named, {}, (3, 8, 8), 10, "classification")
    assert storage(without_storage(made, (named,))) == {"meta"}
    found = blank(made, (named,), Classification())
    assert storage(found.net) == {"cpu"}
    assert found.figures == {"macs": 1920, "params": 1930}
    assert found.calls["head"] == 1


def test_an_image_that_the_network_cannot_take_is_refused():
    named = f"{__name__}.ReadsValues"
    small = Spec(named, {}, (3, 4, 4), 10, "classification")
    with pytest.raises(UsageError, match="cannot take an image of 3x4x4"):
        blank(small, (named,), Classification())


def test_nothing_is_drawn_from_the_global_random_state():
    before = torch.get_rng_state()
    blank(spec(width=0.5), (), Classification()).with_storage()
    assert torch.equal(torch.get_rng_state(), before)
