import numpy as np
import pytest
import torch

from compressor.errors import UsageError
from compressor.noise import Part, transition
from compressor.noise.symmetric import Symmetric

CLEAN = torch.arange(50_000) % 10


def corrupt(noise, clean=CLEAN, classes=10):
    given = noise.corrupt(Part(clean, classes))
    return given, transition(clean, given, classes)


def changed(given, clean=CLEAN):
    return int((given != clean).sum())


def test_exact_symmetric_changes_exactly_its_share():
    given, t = corrupt(Symmetric(0.4))
    assert changed(given) == 20_000
    off = t[~torch.eye(10, dtype=torch.bool)]
    assert (off - 0.4 / 9).abs().max() < 0.012
    assert torch.allclose(t.sum(1), torch.ones(10, dtype=t.dtype))


def test_include_true_in_bernoulli_mode_changes_nine_tenths_of_its_share():
    noise = Symmetric(0.4, mode="bernoulli", include_true=True)
    given, _ = corrupt(noise)
    assert abs(changed(given) / 50_000 - 0.36) < 0.0065
    assert noise.flip_rate(10) == pytest.approx(0.36)


def test_bernoulli_mode_is_within_three_sigma():
    given, _ = corrupt(Symmetric(0.4, mode="bernoulli"))
    assert 0 < abs(changed(given) / 50_000 - 0.4) < 3 * 0.0022


def test_stratified_changes_the_same_share_of_every_class():
    clean = torch.cat([torch.zeros(30), torch.ones(70), torch.full((101,), 2)]).long()
    given, t = corrupt(Symmetric(0.3, stratified=True), clean, 3)
    flips = [int(((given != clean) & (clean == k)).sum()) for k in range(3)]
    assert flips == [9, 21, 30]
    assert t.diagonal().tolist() == pytest.approx([0.7, 0.7, 71 / 101])


def test_labels_depend_on_the_noise_seed_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    one = corrupt(Symmetric(0.4, seed=3))[0]
    torch.manual_seed(1)
    np.random.seed(1)
    state = torch.get_rng_state()
    again = corrupt(Symmetric(0.4, seed=3))[0]
    assert one.numpy().tobytes() == again.numpy().tobytes()
    assert torch.equal(torch.get_rng_state(), state)
    assert changed(corrupt(Symmetric(0.4, seed=4))[0], one) > 20_000


def test_clean_labels_are_left_as_they_are():
    clean = CLEAN.clone()
    corrupt(Symmetric(0.4), clean)
    assert torch.equal(clean, CLEAN)


def test_rate_zero_changes_nothing():
    given, t = corrupt(Symmetric(0.0))
    assert torch.equal(given, CLEAN) and torch.equal(t, torch.eye(10, dtype=t.dtype))


def test_a_rate_that_drowns_the_true_class_warns():
    with pytest.warns(UserWarning, match="noise.rate=0.9 changes 0.9 of a class's labels"):
        corrupt(Symmetric(0.9))


def test_transition_counts_rows_by_clean_class():
    t = transition(torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0, 1, 1, 1, 1]), 3)
    assert t.tolist() == [[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"rate": 1.5}, "noise.rate=1.5"),
        ({"rate": -0.1}, "noise.rate=-0.1"),
        ({"rate": float("nan")}, "noise.rate=nan"),
        ({"mode": "exactly"}, "noise.mode=exactly"),
        ({"mode": "bernoulli", "stratified": True}, "noise.stratified=true"),
        ({"seed": -1}, "noise.seed=-1"),
    ],
)
def test_an_option_out_of_range_is_named_in_one_line(options, text):
    with pytest.raises(UsageError) as caught:
        Symmetric(**options)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_single_class_cannot_be_corrupted():
    with pytest.raises(UsageError, match="needs 2 classes"):
        Symmetric(0.1).corrupt(Part(torch.zeros(5, dtype=torch.int64), 1))
