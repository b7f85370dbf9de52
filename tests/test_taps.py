import pytest
import torch
from torch import nn

from compressor.errors import RunError, UsageError
from compressor.taps import Tap, tapped


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()
        self.first.weight.data = torch.eye(2)
        self.second.weight.data = -torch.eye(2)
        self.first.bias.data.zero_()
        self.second.bias.data.zero_()

    def forward(self, x):
        return self.act(self.second(input=self.act(self.first(x))))


def test_a_tap_sees_the_call_it_names_in_every_forward():
    net, seen = Twice(), []
    with tapped(net, {Tap("act", "output", call=1): lambda _, x: seen.append(x.tolist())}):
        net(torch.tensor([[1.0, -2.0]]))
        net(torch.tensor([[-3.0, 4.0]]))
    assert seen == [[[0.0, 0.0]], [[0.0, 0.0]]]


def test_a_tap_without_call_sees_every_call_and_input_differs_from_output():
    net, before, after = Twice(), [], []
    taps = {
        Tap("act", "input"): lambda _, x: before.append(x.tolist()),
        Tap("act", "output"): lambda _, x: after.append(x.tolist()),
    }
    with tapped(net, taps):
        net(torch.tensor([[1.0, -2.0]]))
    assert before == [[[1.0, -2.0]], [[-1.0, 0.0]]]
    assert after == [[[1.0, 0.0]], [[0.0, 0.0]]]


def test_a_returned_tensor_replaces_the_value_also_for_keyword_arguments():
    net = Twice()
    with tapped(net, {Tap("second", "input"): lambda _, x: -x - 1}):
        assert net(torch.tensor([[1.0, 2.0]])).tolist() == [[2.0, 3.0]]
    assert net(torch.tensor([[1.0, 2.0]])).tolist() == [[0.0, 0.0]]


def test_hooks_are_removed_even_after_an_exception():
    net = Twice()

    def fail(module, x):
        raise KeyError("stop")

    with pytest.raises(KeyError), tapped(net, {Tap("act", "input"): fail}):
        net(torch.ones(1, 2))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


def test_an_unknown_module_is_refused_with_near_names():
    with pytest.raises(UsageError, match="secnd.*second"):
        with tapped(Twice(), {Tap("secnd", "input"): lambda _, x: None}):
            pass


def test_a_tap_has_a_side():
    with pytest.raises(UsageError, match="'input' or 'output'"):
        Tap("act", "middle")


def test_a_value_that_is_no_tensor_is_refused_by_name():
    net = nn.Sequential(nn.LSTM(2, 2))
    with pytest.raises(RunError, match="output of '0' is a tuple"):
        with tapped(net, {Tap("0", "output"): lambda _, x: None}):
            net(torch.zeros(1, 1, 2))
