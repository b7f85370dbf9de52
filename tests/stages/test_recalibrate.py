import torch
from torch import nn

from compressor.stages.recalibrate import has_batch_norm, recalibrate_norms


def test_running_statistics_become_the_mean_over_the_batches():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5))
    batches = [torch.randn(8, 2, 4, 4) * 3 + 5 for _ in range(4)]
    assert recalibrate_norms(net, batches) == 32
    means = torch.stack([b.mean(dim=(0, 2, 3)) for b in batches]).mean(0)
    variances = torch.stack([b.var(dim=(0, 2, 3)) for b in batches]).mean(0)
    torch.testing.assert_close(net[0].running_mean, means)
    torch.testing.assert_close(net[0].running_var, variances)


def test_weights_momentum_and_gradients_stay_and_the_network_is_left_in_eval_mode():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, momentum=0.3))
    before = net[0].weight.clone()
    recalibrate_norms(net.train(), [torch.randn(4, 1, 3, 3)])
    assert torch.equal(net[0].weight, before)
    assert net[1].momentum == 0.3
    assert not any(module.training for module in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_network_without_batch_norm_is_recognised():
    assert has_batch_norm(nn.Sequential(nn.BatchNorm1d(2)))
    assert not has_batch_norm(nn.Sequential(nn.LayerNorm(2)))
