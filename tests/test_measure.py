"""Counting, timing and evaluating, against numbers worked out by hand."""

import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compressor import measure
from compressor.errors import RunError, UsageError
from compressor.measure import count_macs, count_params, evaluate, rounds


def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
    )


def test_macs_of_a_convolution_and_a_linear_layer_by_hand():
    # 4 x 4 outputs x 8 filters of 3 x 3 x 3, and 128 x 10; biases and batch norm count nothing.
    assert count_macs(small(), (3, 8, 8)) == 16 * 8 * 27 + 128 * 10
    assert count_params(small()) == 8 * 27 + 8 + 16 + 128 * 10 + 10


def test_macs_are_exactly_half_of_torchs_own_counter():
    net = small().eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(1, 3, 8, 8))
    assert 2 * count_macs(net, (3, 8, 8)) == counter.get_total_flops()


def test_counting_leaves_weights_modes_gradients_and_statistics_alone():
    net = small()
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    identity = [id(p) for p in net.parameters()]
    count_macs(net, (3, 8, 8))
    assert [m.training for m in net] == [True, False, True, True, True, True]
    assert [id(p) for p in net.parameters()] == identity
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in net.parameters())


class NeedsNumbers(nn.Module):
    """Its forward looks at a value, which no meta tensor has."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(x.flatten(1) + x.sum().item())


def test_network_that_needs_real_tensors_is_counted_for_real():
    net = NeedsNumbers()
    assert count_macs(net, (3, 2, 2)) == 60
    assert net.training


def test_shared_parameters_count_once_and_their_work_twice():
    layer = nn.Linear(4, 4, bias=False)
    net = nn.Sequential(nn.Flatten(), layer, layer)
    assert (count_params(net), count_macs(net, (1, 2, 2))) == (16, 32)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_layer_whose_weight_is_made_before_each_forward_is_counted_on_the_meta_device():
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU())
    net(torch.zeros(1, 3, 8, 8))
    copied = measure._meta_copy(net)
    assert all(p.is_meta for p in copied.parameters())
    assert count_macs(net, (3, 8, 8)) == 36 * 8 * 27


def test_attention_does_not_hide_in_the_fused_path():
    net = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    # 9 positions of 16 features: in-projection 3 x 16 x 16, out 16 x 16, feed-forward 2 x 16 x 32,
    # attention scores and their use 2 x 9 x 16.
    assert torch.backends.mha.get_fastpath_enabled()
    assert count_macs(net, (9, 4, 4)) == 9 * (4 * 256 + 1024 + 2 * 9 * 16)
    assert torch.backends.mha.get_fastpath_enabled()


def test_image_that_does_not_fit_is_one_line_with_the_remedy():
    with pytest.raises(UsageError, match="3x16x16.*dataset.image_size") as caught:
        count_macs(small(), (3, 16, 16))
    assert "\n" not in str(caught.value)


class Called(nn.Module):
    """Notes that it was called, in the mode and the precision in which it is to be timed."""

    def __init__(self, milliseconds, calls):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.milliseconds, self.calls = milliseconds, calls

    def forward(self, x):
        assert not self.training and torch.is_inference_mode_enabled()
        self.calls.append(self.milliseconds)
        return x


@pytest.fixture
def clock(monkeypatch):
    """A forward takes what its network says, times what the list holds at that place."""
    factors = []

    def forward_ms(net, images):
        net(images)
        return net.milliseconds * (factors.pop(0) if factors else 1.0)

    monkeypatch.setattr(measure, "forward_ms", forward_ms)
    return factors


def test_networks_are_timed_in_turns_there_and_back(clock):
    calls = []
    nets = {"slow": Called(12, calls), "fast": Called(2, calls)}
    threads = torch.get_num_threads()
    # after three calls each for warmth: of two forwards in a round the faster one counts
    clock += [1.0] * 6 + [1.0, 2.0, 3.0, 4.0]
    times, spent = rounds(nets, dict.fromkeys(nets, (1, 2, 2)), 2, threads=1, least=1, most=2)
    assert calls[6:] == [12, 2, 2, 12, 2, 12, 12, 2]
    assert times == {"slow": [12.0, 12.0], "fast": [4.0, 2.0]}
    assert spent == pytest.approx((3 * 14 + 12 + 4 + 6 + 48 + 2 * 14) / 1000)
    assert all(net.training for net in nets.values()) and torch.get_num_threads() == threads


def test_a_session_ends_by_its_seconds_once_the_least_rounds_are_done(clock):
    net = {"net": Called(5, [])}

    def count(**options):
        times, _ = rounds(net, {"net": (1, 2, 2)}, **options)
        return len(times["net"])

    assert count(seconds=0.0, least=3) == 3
    assert count(seconds=0.1, least=3) == 11  # ten milliseconds a round
    assert count(seconds=0.1, least=3, most=7) == 7
    assert count(seconds=0.1, least=3, limit=0.0) == 1


def test_a_forward_is_timed_by_the_machines_clock():
    class Sleeper(nn.Module):
        def forward(self, x):
            time.sleep(0.002)

    assert measure.forward_ms(Sleeper(), torch.zeros(1)) >= 2


def test_timing_refuses_impossible_counts():
    with pytest.raises(UsageError, match="most=0"):
        rounds({"net": small()}, {"net": (3, 8, 8)}, most=0)


class Meter:
    """Accuracy and mean cross-entropy, in the shape of a torchmetrics collection."""

    def __init__(self):
        self.right = self.loss = self.count = 0

    def to(self, device):
        return self

    def update(self, out, targets):
        self.right += (out["logits"].argmax(1) == targets).sum()
        self.loss += nn.functional.cross_entropy(out["logits"], targets, reduction="sum")
        self.count += len(targets)

    def compute(self):
        return {"accuracy": self.right / self.count, "loss": self.loss / self.count}


class FakeTask:
    headline = ("accuracy", "max")

    def loss_inputs(self, batch):
        return batch

    def outputs(self, net_out):
        return {"logits": net_out}

    def metrics(self, num_classes):
        assert num_classes == 2
        return Meter()


def batches(*targets):
    index = torch.arange(2)
    images = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    return [(images, torch.tensor(pair), index) for pair in targets]


def test_evaluate_is_over_all_batches_in_eval_mode():
    net = nn.Sequential(nn.Identity(), nn.Dropout(0.9))
    result = evaluate(net, FakeTask(), batches([0, 1], [0, 0]), "cpu", num_classes=2)
    assert result["accuracy"] == 0.75
    right, wrong = torch.tensor([-4.0, 4.0]).exp().add(1).log().tolist()
    assert result["loss"] == pytest.approx((3 * right + wrong) / 4)
    assert all(type(value) is float for value in result.values())
    assert net.training and net[1].training


def test_evaluate_takes_the_class_count_noted_on_the_network():
    net = nn.Identity()
    with pytest.raises(UsageError, match="num_classes"):
        evaluate(net, FakeTask(), batches([0, 1]), "cpu")
    net.num_classes = 2
    assert evaluate(net, FakeTask(), batches([0, 1]), "cpu")["accuracy"] == 1.0


def test_evaluate_on_no_batches_is_an_error():
    with pytest.raises(RunError, match="0 batches"):
        evaluate(nn.Identity(), FakeTask(), [], "cpu", num_classes=2)
