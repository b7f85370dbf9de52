import pytest
import torch

from compressor import surgery
from compressor.errors import UsageError
from compressor.models.resnet_cifar import resnet20
from compressor.prune import Ranking
from compressor.stages._allocate import by_curve, by_ratio, by_threshold, lamp, slopes
from compressor.stages._budget import solve
from compressor.stages._counts import choose
from compressor.stages._options import WidthOptions


@pytest.fixture(scope="module")
def small():
    return surgery.analyse(resnet20(10, (3, 16, 16)).eval(), (torch.zeros(2, 3, 16, 16),))


def rankings(groups, cost):
    """cost: (group, index of the removal) -> float."""
    return {
        g.name: Ranking(
            torch.arange(g.size).flip(0),
            torch.tensor([cost(g, i) for i in range(g.size)], dtype=torch.float64).flip(0),
        )
        for g in groups
    }


def globally(structure, cost, **options):
    options = WidthOptions(allocation="global", **options)
    groups = choose(structure, options)
    family = by_threshold(groups, options, rankings(groups, cost), structure)
    return groups, solve(structure, groups, options, family)


def test_slopes_are_those_of_the_convex_hull():
    assert slopes(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1, 2, 3]
    assert slopes(torch.tensor([3.0, 1.0, 5.0])).tolist() == [2, 2, 5]
    assert slopes(torch.tensor([4.0, 1.0, 1.0, 1.5])).tolist() == pytest.approx([1.875] * 4)
    torch.manual_seed(0)
    costs = torch.rand(50, dtype=torch.float64)
    found = slopes(costs)
    assert (found.diff() >= 0).all()
    assert (found.cumsum(0) <= costs.cumsum(0) + 1e-12).all()
    assert found.sum() == pytest.approx(float(costs.sum()))


def test_one_threshold_takes_the_lowest_scores_wherever_they_are(small):
    # layer1's channels cost 0 to 15, the others' 100 and more: half of all is layer1 and the next
    def cost(group, i):
        return float(i) if group.name.startswith("layer1") else 100.0 + i

    _, counts = globally(small, cost, ratio=0.25, normalize="none")
    # 84 of 336: 45 of layer1, whose last channels stay, and the lowest of the rest
    assert [counts[f"layer1.{b}.conv1"] for b in range(3)] == [1, 1, 1]
    rest = [counts[f"layer{s}.{b}.conv1"] for s in (2, 3) for b in range(3)]
    assert sum(rest) == 336 - 48 - (84 - 45)
    assert sum(counts.values()) == 336 - 84


def test_means_take_away_a_layers_own_unit(small):
    plain = globally(small, lambda g, i: i + 1.0, ratio=0.5)[1]
    unit = {"layer1": 1e-3, "layer2": 7.0, "layer3": 1e4}
    assert globally(small, lambda g, i: unit[g.name[:6]] * (i + 1.0), ratio=0.5)[1] == plain


def test_cost_divides_by_what_a_channel_takes(small):
    groups = choose(small, WidthOptions())

    def macs(group):
        return small.macs({}) - small.macs({group.name: group.size - 1})

    # equal errors for equal MACs: every layer has the same threshold, so the same fraction goes
    _, counts = globally(
        small, lambda g, i: macs(g) * (i + 1) / g.size, normalize="cost", budget=("macs", 0.5)
    )
    kept = [counts[g.name] / g.size for g in groups]
    assert max(kept) - min(kept) < 0.13


def test_lamp_divides_by_what_stays_longer():
    found = lamp(torch.tensor([1.0, 2.0, 2.0, 4.0]))
    assert found.tolist() == pytest.approx([1 / 25, 4 / 24, 4 / 20, 1.0])
    assert torch.equal(found, lamp(3 * torch.tensor([1.0, 2.0, 2.0, 4.0])))
    assert lamp(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("normalize", ["none", "mean", "cost", "lamp"])
@pytest.mark.parametrize("name, share", [("macs", 0.5), ("macs", 0.15), ("params", 0.3)])
@pytest.mark.parametrize("round_to, slack", [(None, 0.01), (4, 0.02)])
def test_a_threshold_meets_a_budget(small, normalize, name, share, round_to, slack):
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def cost(group, i):
        return float(noise[group.size % 63, i]) * (i + 1) * group.size

    groups, counts = globally(
        small, cost, normalize=normalize, budget=(name, share), round_to=round_to, scope="all"
    )
    figure = getattr(small, name)
    assert abs(figure(counts) / figure({}) - share) <= slack
    assert all(count % (round_to or 1) == 0 for count in counts.values())


def test_own_ratios_and_least_widths_hold_under_a_threshold(small):
    options = {"ratios": {"layer1": 0.25, "layer1.1": 0}, "min_channels": 3}
    _, counts = globally(small, lambda g, i: float(i), normalize="none", ratio=0.8, **options)
    assert [counts[f"layer1.{i}.conv1"] for i in range(3)] == [12, 16, 12]
    assert min(counts.values()) >= 3
    rest = sum(count for name, count in counts.items() if name[:6] != "layer1")
    assert rest == round(0.2 * 288)
    every = {"ratios": {"layer1": 0.5, "layer2": 0.5, "layer3": 0.5}}
    assert set(globally(small, lambda g, i: float(i), **every)[1].values()) == {8, 16, 32}


def test_a_criterion_without_scores_is_refused(small):
    options = WidthOptions(allocation="global")
    groups = choose(small, options)
    orders = {g.name: Ranking(torch.arange(g.size)) for g in groups}
    with pytest.raises(UsageError, match="gives none for 'layer1.0.conv1'.*uniform"):
        by_threshold(groups, options, orders, small)


def table_of(groups, rise, dense=0.3):
    rows = []
    for group in groups:
        for ratio in (0.25, 0.5, 0.75):
            kept = surgery.keep_count(group.size, ratio)
            rows.append(
                {"layer": group.name, "channels": group.size, "ratio": ratio, "kept": kept,
                 "loss": dense + rise(group, ratio)}
            )  # fmt: skip
    return {"loss": dense, "images": 512, "rows": rows}


def sensitively(structure, rise, dense=0.3, **options):
    options = WidthOptions(allocation="sensitivity", **options)
    groups = choose(structure, options)
    family = by_curve(groups, options, table_of(groups, rise, dense), structure)
    return groups, family, solve(structure, groups, options, family)


@pytest.mark.parametrize("target", [{"ratio": 0.5}, {"budget": ("macs", 0.3)}])
def test_curves_that_say_nothing_give_every_layer_the_same_fraction(small, target):
    # a loss that falls with the cut, as it may within the noise, is no gain
    for rise in (lambda g, r: 0.0, lambda g, r: -0.01 * r * int(g.name[5])):
        groups, family, counts = sensitively(small, rise, **target)
        alike = solve(small, groups, WidthOptions(**target))
        assert all(abs(counts[g.name] - alike[g.name]) <= 1 + g.size // 32 for g in groups)
    assert family(0.0) == {g.name: g.size for g in groups}
    assert set(family(1.0).values()) == {1}


def test_the_sum_of_the_curves_is_least_for_what_is_saved(small):
    """Straight curves and next to no dense loss: the layers go whole, the best bargain first."""
    per_channel = {"layer1": 0.5, "layer2": 0.02, "layer3": 0.3}
    _, _, counts = sensitively(
        small, lambda g, r: per_channel[g.name[:6]] * r * g.size, dense=1e-3, ratio=96 / 336
    )
    gone = {n: sum(g.size - counts[g.name] for g in choose(small, WidthOptions())
                   if g.name[:6] == n) for n in per_channel}  # fmt: skip
    assert gone["layer1"] == 0 and gone["layer2"] > 70  # of 96; the end of a layer is dear


def test_a_layer_that_saves_nothing_is_not_emptied_for_a_budget(small):
    """Its curve is flat, and that was reason enough to cut all of it."""

    def macs(group):
        return small.macs({}) - small.macs({group.name: group.size - 1})

    groups = choose(small, WidthOptions())
    flat = min(groups, key=lambda g: macs(g) * g.size)
    _, _, counts = sensitively(
        small, lambda g, r: 0.0 if g.name == flat.name else 0.4 * r**2,
        budget=("macs", 0.3),
    )  # fmt: skip
    assert counts[flat.name] / flat.size > 0.1


def test_sensitive_layers_keep_more_under_a_budget_and_under_a_ratio(small):
    def rise(group, ratio):
        return ratio**2 * (2.0 if group.name.startswith("layer1") else 0.1)

    groups, _, counts = sensitively(small, rise, budget=("macs", 0.5))
    assert small.macs(counts) / small.macs({}) == pytest.approx(0.5, abs=0.01)
    assert counts["layer1.0.conv1"] / 16 > counts["layer3.0.conv1"] / 64 + 0.2
    _, _, counts = sensitively(small, rise, ratio=0.5)
    assert sum(counts.values()) == sum(g.size for g in groups) // 2


def test_an_allocation_never_widens_a_layer_as_it_goes_on(small):
    options = WidthOptions(round_to=4)
    groups = choose(small, options)
    made = rankings(groups, lambda g, i: (i * 7919 % 13) + 0.1 * i)
    table = table_of(groups, lambda g, r: (0.3 - r) ** 2 * int(g.name[5]))
    families = (
        by_ratio(groups, options),
        by_threshold(groups, options, made, small),
        by_curve(groups, options, table, small),
    )
    for family in families:
        steps = [family(i / 50) for i in range(51)]
        for before, after in zip(steps, steps[1:], strict=False):
            assert all(after[g.name] <= before[g.name] for g in groups)
        assert steps[0] == {g.name: g.size for g in groups}
