import pytest
import torch
from torch.nn import functional as F

from compressor.distill._fork import Forked
from compressor.distill.collaborative import Collaborative, collaborative_loss, consensus
from compressor.errors import UsageError
from compressor.models import build

HEADS = [
    torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    torch.tensor([[0.0, 2.0, 0.0], [0.0, 3.0, 1.0]]),
]
TARGETS = torch.tensor([0, 1])


def criterion(logits):
    return F.cross_entropy(logits, TARGETS)


def net(seed=0):
    torch.manual_seed(seed)
    return build("compressor.models.resnet20", {"width": 0.5}, 4, (3, 8, 8)).double()


@pytest.mark.parametrize("soft_t2, value", [(False, 2.002259), (True, 5.608753)])
def test_known_answers(soft_t2, value):
    loss = collaborative_loss(HEADS, criterion, 0.5, 2.0, soft_t2)
    assert loss.item() == pytest.approx(value, abs=3e-6)


def test_the_consensus_is_the_others_and_a_target():
    heads = [z.clone().requires_grad_() for z in (*HEADS, HEADS[0] + 1)]
    q = consensus(heads, 0, 2.0)
    torch.testing.assert_close(q, ((heads[1] + heads[2]) / 4).softmax(1).detach())
    assert not q.requires_grad


def forked(nets, forks, rescale=True):
    return Forked(nets, forks, rescale).train()


def test_equal_heads_leave_the_trunk_the_gradient_of_one_network():
    single, twins = net(), forked([net() for _ in range(4)], [("layer2", 4)])
    x, y = torch.randn(6, 3, 8, 8).double(), torch.arange(6) % 4
    F.cross_entropy(single.train()(x), y).backward()
    answers = []
    for out in twins.out:
        out.register_forward_hook(lambda m, a, z: answers.append(z))
    twins(x)
    loss = collaborative_loss(answers, lambda z: F.cross_entropy(z, y), beta=1.0)
    loss.backward()
    trunk = dict(twins.net.named_parameters())
    for name, parameter in single.named_parameters():
        torch.testing.assert_close(trunk[name].grad, parameter.grad)  # trunk: 1, head: unscaled


def test_a_tree_of_forks_rescales_at_each_of_them():
    single = net()
    tree = forked([net() for _ in range(4)], [("layer1", 2), ("layer2", 2)])
    x = torch.randn(5, 3, 8, 8).double()
    single.train()(x).sum().backward()
    answers = []
    for out in tree.out:
        out.register_forward_hook(lambda m, a, z: answers.append(z))
    tree(x)
    sum(z.sum() for z in answers).backward()
    grads = dict(tree.net.named_parameters())
    for name, parameter in single.named_parameters():
        torch.testing.assert_close(grads[name].grad, parameter.grad)
    assert len(set(tree.paths[0]) & set(tree.paths[1])) == 2
    assert len(set(tree.paths[0]) & set(tree.paths[2])) == 1


def test_without_rescaling_the_trunk_gets_the_sum():
    one, two = (forked([net(), net()], [("layer2", 2)], rescale) for rescale in (True, False))
    x = torch.randn(5, 3, 8, 8).double()
    for twins in (one, two):
        answers = []
        for out in twins.out:
            out.register_forward_hook(lambda m, a, z, answers=answers: answers.append(z))
        twins(x)
        sum(z.sum() for z in answers).backward()
    torch.testing.assert_close(2 * one.net.conv1.weight.grad, two.net.conv1.weight.grad)


@pytest.mark.parametrize("pattern", ["multi_instance", "simple", "hierarchical"])
def test_head_0_is_the_plain_network_and_gives_its_logits_in_the_graph(pattern):
    grown = Collaborative(pattern=pattern).student(net(), net).train()
    seen = []
    grown.out[0].register_forward_hook(lambda m, a, z: seen.append(z))
    x = torch.randn(4, 3, 8, 8).double()
    with torch.no_grad():
        grown(x)
        torch.testing.assert_close(seen[0], grown.net.train()(x), rtol=0, atol=0)
    assert set(grown.net.state_dict()) == set(net().state_dict())
    shared = {"multi_instance": 0, "simple": 1, "hierarchical": 2}[pattern]
    assert len(grown.paths[0]) == shared + 1


@pytest.mark.parametrize(
    "options", [{"heads": 1}, {"beta": 2}, {"temperature": 0}, {"pattern": "ring"}, {"weight": -1}]
)
def test_options_out_of_range_are_named(options):
    (key,) = options
    with pytest.raises(UsageError, match=f"distill.terms.collaborative.*{key}={options[key]}"):
        Collaborative(**options)


def test_a_tree_has_a_power_of_two_heads():
    with pytest.raises(UsageError, match="heads=3"):
        Collaborative(heads=3, pattern="hierarchical")
