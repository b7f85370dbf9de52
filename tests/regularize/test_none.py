from torch import nn

from compressor.regularize.none import NoRegularizer


def test_it_adds_nothing_to_the_loss():
    assert NoRegularizer().penalties(nn.BatchNorm2d(3)) == {}
