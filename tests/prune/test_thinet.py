from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.prune import thinet
from compressor.prune._rows import by_class
from compressor.surgery import Group, Slot

WORKED = torch.tensor([[6, 0, 1, 1.1, -1.5], [0, 5, 0, 0, 0], [1, 2, 0, 0, 0], [2, -1, 0, 0, 0]])


def literal_backward(x, n_keep):
    """Algorithm 1 of the paper as printed: re-sum the removed set for every trial."""
    x, removed = x.double(), []
    while len(removed) < x.shape[1] - n_keep:
        trials = {
            j: float(x[:, [*removed, j]].sum(1).square().sum())
            for j in range(x.shape[1])
            if j not in removed
        }
        removed.append(min(trials, key=trials.get))
    return removed


def literal_forward(x, n_keep):
    """Residual, best single fit, full refit by least squares, and again."""
    x, picked = x.double(), []
    y = x.sum(1)
    r = y
    for _ in range(n_keep):
        fit = (x.T @ r).square() / x.square().sum(0)
        fit[picked] = -1
        picked.append(int(fit.argmax()))
        w = torch.linalg.lstsq(x[:, picked], y[:, None]).solution[:, 0]
        r = y - x[:, picked] @ w
    return picked


def consumer_group(parameter, size, *more, classes=None):
    slots = tuple(
        Slot(p, 1, torch.arange(size) if classes is None else classes, p.rpartition(".")[0])
        for p in (parameter, *more)
    )
    maker = Slot("0.weight", 0, torch.arange(size), "0")
    return Group("0", size, (maker,), slots, (), True, "interior", False, ())


def statistics_of(net, x, group, samples=10):
    found = {}
    for observer in thinet.observers(group, net, samples):
        module = net.get_submodule(observer.tap.module)
        sums = observer.measure(module, x, torch.Generator().manual_seed(0))
        found |= {f"{observer.key}/{k}": v for k, v in sums.items()}
    return found


def test_backward_removes_what_cancels_not_what_is_small():
    # By size alone channel 3 would follow channel 2; the running sum prefers 4, which cancels 2.
    assert thinet.select_backward(thinet.gram(WORKED), 3).tolist() == [2, 4]


def test_rescale_solves_least_squares_on_the_kept_channels():
    w = thinet.rescale(thinet.gram(WORKED), torch.tensor([0, 1, 3]))
    torch.testing.assert_close(w, torch.tensor([1, 1, 0.545455]).double(), atol=1e-3, rtol=0)


def test_residual_is_what_least_squares_leaves():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    g, kept = thinet.gram(x), torch.tensor([0, 2, 3])
    w = thinet.rescale(g, kept)
    y = x.double().sum(1)
    expected = (y - x.double()[:, kept] @ w).square().sum() / y.square().sum()
    assert thinet.residual(g, kept, w) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("channels", [3, 17, 128])
def test_gram_order_equals_the_literal_pseudo_code(channels):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(400, channels, generator=generator).relu() + 0.1
    keep = channels - min(channels, 40)
    assert thinet.select_backward(thinet.gram(x), keep).tolist() == literal_backward(x, keep)


@pytest.mark.parametrize("channels", [3, 17, 60])
def test_forward_order_equals_refitting_by_least_squares(channels):
    x = torch.randn(400, channels, generator=torch.Generator().manual_seed(channels))
    picked = thinet.select_forward(thinet.gram(x), channels // 2 + 1)
    assert picked.tolist() == literal_forward(x, channels // 2 + 1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(0, 10_000), st.data())
def test_every_prefix_answers_another_ratio(channels, seed, data):
    g = thinet.gram(torch.randn(30, channels, generator=torch.Generator().manual_seed(seed)))
    keep = data.draw(st.integers(0, channels))
    removed = thinet.select_backward(g, 0).tolist()
    assert thinet.select_backward(g, keep).tolist() == removed[: channels - keep]
    picked = thinet.select_forward(g, channels).tolist()
    assert thinet.select_forward(g, keep).tolist() == picked[:keep]
    assert sorted(picked) == sorted(removed) == list(range(channels))


def test_of_equal_channels_the_lowest_index_goes_first():
    g = torch.eye(4, dtype=torch.float64)
    assert thinet.select_backward(g, 0).tolist() == [0, 1, 2, 3]
    assert thinet.select_forward(g, 4).tolist() == [3, 2, 1, 0]


def test_forward_takes_dependent_channels_late_and_silent_ones_last():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    x = torch.stack([torch.zeros(60), x[:, 0], x[:, 1], x[:, 0], x[:, 2]], 1)
    picked = thinet.select_forward(thinet.gram(x), 5).tolist()
    assert picked[-1] == 0 and picked[-2] in (1, 3)


def test_gram_adds_up_over_blocks_and_is_symmetric():
    x = torch.randn(5000, 70, generator=torch.Generator().manual_seed(2))
    g = thinet.gram(x)
    assert torch.equal(g, g.T)
    torch.testing.assert_close(g, x.double().T @ x.double(), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(g, thinet.gram(x[:100]) + thinet.gram(x[100:]), rtol=1e-5, atol=1e-3)


CONVS = [
    (nn.Conv2d(6, 8, 3, stride=2, padding=1), (5, 6, 9, 8)),
    (nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), (5, 6, 9, 8)),
    (nn.Conv2d(6, 4, (3, 2), dilation=(2, 1), padding=(3, 0)), (5, 6, 9, 8)),
    (nn.Conv2d(6, 4, 3, padding="same", padding_mode="circular"), (5, 6, 7, 7)),
    (nn.Conv2d(6, 4, 4, padding="same"), (5, 6, 7, 7)),
    (nn.Conv2d(6, 4, 1, stride=2), (5, 6, 7, 7)),
    (nn.Conv2d(6, 6, 1, groups=3), (5, 6, 7, 7)),
    (nn.Conv1d(6, 4, 5, padding=2, stride=3), (5, 6, 20)),
    (nn.Conv3d(2, 3, 3, padding=1), (4, 2, 4, 5, 6)),
    (nn.Linear(6, 4), (5, 6)),
    (nn.Linear(6, 4), (5, 7, 6)),
]


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("module, shape", CONVS, ids=lambda v: str(v))
def test_row_sums_are_the_outputs_without_bias(module, shape):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(*shape, generator=generator)
    rows = thinet.draw(module, x, 50, generator)
    columns = thinet.contributions(module, x, rows)
    out = module(x).detach()
    out = out if isinstance(module, nn.Linear) else out.movedim(1, -1)
    picked = out[(rows.image, *rows.location.T, rows.filter)] - module.bias.detach()[rows.filter]
    assert columns.shape == (50 * len(x), module.weight.shape[1])
    torch.testing.assert_close(columns.sum(1), picked, atol=1e-5, rtol=0)


def test_one_column_is_the_convolution_with_one_channel():
    conv = nn.Conv2d(4, 5, 3, padding=1, stride=2)
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    rows = thinet.draw(conv, x, 20, torch.Generator().manual_seed(0))
    alone = F.conv2d(x[:, 2:3], conv.weight[:, 2:3], stride=2, padding=1).detach()
    expected = alone[rows.image, rows.filter, rows.location[:, 0], rows.location[:, 1]]
    torch.testing.assert_close(thinet.contributions(conv, x, rows)[:, 2], expected)


def test_channels_last_input_gives_the_same_rows():
    conv, x = nn.Conv2d(4, 5, 3), torch.randn(3, 4, 6, 6)
    rows = thinet.draw(conv, x, 20, torch.Generator().manual_seed(0))
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(thinet.contributions(conv, x, rows), thinet.contributions(conv, last, rows))


def test_filters_and_locations_are_drawn_anew_for_every_row_and_cover_everything():
    conv, x = nn.Conv2d(2, 4, 3, padding=1), torch.zeros(100, 2, 3, 5)
    rows = thinet.draw(conv, x, 10, torch.Generator().manual_seed(0))
    assert torch.equal(rows.image.bincount(), torch.full((100,), 10))
    cells = rows.filter * 15 + rows.location[:, 0] * 5 + rows.location[:, 1]
    assert len(cells.unique()) == 60
    assert len(cells[:10].unique()) > 5


def test_rows_do_not_depend_on_the_batch_size():
    conv, x = nn.Conv2d(2, 4, 3), torch.zeros(7, 2, 8, 8)
    whole = thinet.draw(conv, x, 3, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    parts = [thinet.draw(conv, part, 3, generator) for part in x.split(2)]
    assert torch.equal(whole.filter, torch.cat([p.filter for p in parts]))
    assert torch.equal(whole.location, torch.cat([p.location for p in parts]))


def test_columns_of_a_flattened_map_are_summed_per_channel():
    columns = torch.arange(12.0)[None]
    assert by_class(columns, torch.arange(3).repeat_interleave(4), 3).tolist() == [[6, 22, 38]]
    # Not in blocks, and with columns of another group.
    assert by_class(columns[:, :5], torch.tensor([1, -1, 0, 1, 0]), 2).tolist() == [[6, 3]]


def test_rows_are_drawn_a_few_images_at_a_time_with_the_same_sums(monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(12, 4))
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
    group = consumer_group("1.weight", 3, classes=torch.arange(3).repeat_interleave(4))
    whole = statistics_of(net, x, group)
    monkeypatch.setattr(thinet, "_NUMBERS", 12 * 10 * 4)
    for name, value in statistics_of(net, x, group).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-5)
    energy = thinet.gram(torch.ones(1, 3)).flatten() @ whole["rows:1.weight/gram"].flatten()
    torch.testing.assert_close(energy, whole["rows:1.weight/energy"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", get_args(thinet.Variant))
def test_planted_silent_channels_go_first(variant):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3))
    x = torch.randn(40, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    net[1].weight.data[:, [3, 5]] = 0
    group = consumer_group("1.weight", 8)
    ranking = thinet.ThiNet(variant).rank(group, statistics_of(net, x, group), {}, None)
    assert ranking.order[6:].tolist() == [5, 3]
    assert ranking.cost[6:].tolist() == [0, 0]


def test_forward_drops_planted_duplicates():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3))
    x = torch.randn(40, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    x[:, 3], x[:, 5] = x[:, 1], x[:, 6]
    net[1].weight.data[:, 3], net[1].weight.data[:, 5] = net[1].weight[:, 1], net[1].weight[:, 6]
    group = consumer_group("1.weight", 8)
    statistics = statistics_of(net, x, group)
    ranking = thinet.ThiNet("forward").rank(group, statistics, {}, None)
    kept = set(ranking.order[:6].tolist())
    assert len(kept & {1, 3}) == 1 and len(kept & {5, 6}) == 1
    # Each twin that stays speaks for two.
    w = thinet.rescale(statistics["rows:1.weight/gram"], torch.tensor(sorted(kept)))
    twins = torch.tensor([c in (1, 3, 5, 6) for c in sorted(kept)])
    torch.testing.assert_close(w, torch.where(twins, 2.0, 1.0).double(), atol=1e-3, rtol=0)


def test_cost_is_the_growth_of_the_removed_energy():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(4)).double()
    g, y = thinet.gram(x.float()), x.sum(1)
    group = consumer_group("1.weight", 6)
    statistics = {"rows:1.weight/gram": g, "rows:1.weight/energy": y.square().sum()}
    ranking = thinet.ThiNet().rank(group, statistics, {}, None)
    for i in range(6):
        after = x[:, ranking.order[i:]].sum(1).square().sum()
        before = x[:, ranking.order[i + 1 :]].sum(1).square().sum()
        expected = float((after - before) / y.square().sum())
        assert float(ranking.cost[i]) == pytest.approx(expected, abs=1e-5)
    forward = thinet.ThiNet("forward").rank(group, statistics, {}, None)
    for i in range(6):
        left = y - x[:, forward.order[:i]] @ thinet.rescale(g, forward.order[:i]).to(y)
        then = y - x[:, forward.order[: i + 1]] @ thinet.rescale(g, forward.order[: i + 1])
        expected = float((left.square().sum() - then.square().sum()) / y.square().sum())
        assert float(forward.cost[i]) == pytest.approx(expected, abs=1e-4)


def test_rescale_aware_removes_what_the_factors_of_the_others_make_up_for():
    x = torch.randn(300, 7, generator=torch.Generator().manual_seed(6)).double()
    x = x + 0.5 * x[:, [1, 2, 3, 4, 5, 6, 0]]
    g, y = thinet.gram(x.float()), x.sum(1)
    group = consumer_group("1.weight", 7)
    statistics = {"rows:1.weight/gram": g, "rows:1.weight/energy": y.square().sum()}
    ranking = thinet.ThiNet("rescale_aware").rank(group, statistics, {}, None)

    def left_over(kept):
        w = torch.linalg.lstsq(x[:, kept], y[:, None]).solution[:, 0]
        return float((y - x[:, kept] @ w).square().sum() / y.square().sum())

    kept, before = list(range(7)), 0.0
    for removed, cost in zip(ranking.order.flip(0)[:6], ranking.cost.flip(0)[:6], strict=True):
        trials = {c: left_over([k for k in kept if k != c]) for c in kept}
        assert int(removed) == min(trials, key=trials.get)
        assert float(cost) == pytest.approx(trials[int(removed)] - before, abs=1e-4)
        before = trials[int(removed)]
        kept.remove(int(removed))


def test_no_consumer_dominates_by_its_scale():
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(5))
    loud, quiet = thinet.gram(1000 * x), thinet.gram(x[:, [4, 3, 2, 1, 0]])
    energy = x.sum(1).double().square().sum()
    group = consumer_group("1.weight", 5, "2.weight")
    ranking = thinet.ThiNet().rank(
        group,
        {
            "rows:1.weight/gram": loud, "rows:1.weight/energy": energy * 1e6,
            "rows:2.weight/gram": quiet, "rows:2.weight/energy": energy,
        },
        {}, None,
    )  # fmt: skip
    expected = thinet.select_backward(loud / 1e6 + quiet, 0).flip(0)
    assert ranking.order.tolist() == expected.tolist()


def test_a_consumer_that_cannot_be_read_is_named():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Bilinear(8, 8, 3))
    with pytest.raises(UsageError, match="'1', which reads '0' with '1.weight', is a Bil.*skip=.0"):
        thinet.observers(consumer_group("1.weight", 8), net)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"variant": "sideways"}, "variant=sideways is not known"),
        ({"samples": 0}, "prune.samples=0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        thinet.ThiNet(**options)


def test_a_count_beyond_the_channels_is_refused():
    with pytest.raises(UsageError, match="n_keep=6 of 5 channels"):
        thinet.select_forward(thinet.gram(WORKED), 6)
