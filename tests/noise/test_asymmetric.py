import pytest
import torch

from compressor.data.cifar100 import CIFAR100
from compressor.errors import UsageError
from compressor.noise import Part, transition
from compressor.noise.asymmetric import Asymmetric, within_superclasses

CLEAN = torch.arange(50_000) % 10
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_half_of_the_classes_of_cifar10_flip_to_what_they_are_taken_for():
    given = Asymmetric(rate=0.4).corrupt(Part(CLEAN, 10, "cifar10"))
    assert int((given != CLEAN).sum()) == 10_000  # 0.4 * 5 / 10
    t = transition(CLEAN, given, 10)
    expected = torch.eye(10).double()
    for a, b in ((9, 1), (2, 0), (4, 7), (3, 5), (5, 3)):
        expected[a, a], expected[a, b] = 0.6, 0.4
    assert torch.allclose(t, expected)


def test_mnist_and_the_digits_share_a_map():
    a, b = (Asymmetric(rate=0.3).corrupt(Part(CLEAN, 10, name)) for name in ("mnist", "digits"))
    assert torch.equal(a, b)
    pairs = {(int(c), int(g)) for c, g in zip(CLEAN[a != CLEAN], a[a != CLEAN], strict=True)}
    assert pairs == {(7, 1), (2, 7), (5, 6), (6, 5), (3, 8)}


def test_cifar100_has_twenty_superclasses_of_five():
    superclasses = torch.tensor(CIFAR100.superclasses)
    assert torch.bincount(superclasses).tolist() == [5] * 20
    mapped = within_superclasses(superclasses)
    # flowers are 54 orchids, 62 poppies, 70 roses, 82 sunflowers and 92 tulips
    assert [mapped[k] for k in (54, 62, 70, 82, 92)] == [62, 70, 82, 92, 54]
    clean = torch.arange(10_000) % 100
    given = Asymmetric(rate=0.2).corrupt(Part(clean, 100, "cifar100", (), superclasses))
    assert int((given != clean).sum()) == 2000
    assert torch.equal(superclasses[given], superclasses[clean])


def test_a_map_may_use_names_or_numbers():
    by_name = Asymmetric({"cat": "dog"}, 0.2).corrupt(Part(CLEAN, 10, "x", NAMES))
    by_number = Asymmetric({3: 5}, 0.2).corrupt(Part(CLEAN, 10, "x"))
    assert torch.equal(by_name, by_number) and int((by_name != CLEAN).sum()) == 1000


@pytest.mark.parametrize("bad", [{3: 10}, {"cat": "wolf"}, {-1: 2}])
def test_a_map_that_names_an_unknown_class_is_refused(bad):
    with pytest.raises(UsageError, match="noise.map names class"):
        Asymmetric(bad, 0.2).corrupt(Part(CLEAN, 10, "x", NAMES))


def test_a_data_set_without_a_map_is_refused_rather_than_given_another_kind():
    with pytest.raises(UsageError, match="knows no map for dataset=svhn: give one"):
        Asymmetric().corrupt(Part(CLEAN, 10, "svhn"))


def test_a_map_that_leaves_every_class_is_refused():
    part = Part(torch.arange(10), 10)
    with pytest.raises(UsageError, match="takes no class for another"):
        Asymmetric({3: 3}).corrupt(part)


def test_a_map_of_another_word_is_refused():
    with pytest.raises(UsageError, match="noise.map=automatic"):
        Asymmetric("automatic")
