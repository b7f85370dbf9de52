"""Trainings inside a stage."""

import csv
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from compressor.cache import Cache
from compressor.data.digits import Digits
from compressor.errors import UsageError
from compressor.eviction import entries
from compressor.manifest import about
from compressor.stages import Context, Machine, _inner
from compressor.stages._fit import Fitted, TrainingSet
from compressor.stages._recipe import Recipe
from compressor.stages._resume import Resume
from compressor.tasks.classification import Classification
from compressor.tasks.optimization import OptimizerOptions

MACHINE = Machine(
    accelerator="cpu", devices=1, strategy="auto", threads=None, workers=0, progress=False,
    log_every=10, eval_batch_size=256, channels_last=True, latency_batch_size=1,
    latency_seconds=0.0,
)  # fmt: skip
RECIPE = Recipe(optimizer=OptimizerOptions(
    epochs=2, batch_size=128, optimizer="sgd", lr=0.1, momentum=0.9, nesterov=False,
    weight_decay=0.0, decay_norm_and_bias=True, schedule="cosine", warmup_epochs=0.0,
    milestones=(), gamma=0.1, clip_norm=None,
))  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    data = Digits(image_size=8, channels=1)
    data.prepare()
    return data


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def context(folder, data, **changes):
    labels = data.labels("train")
    made = Context(
        seed=5, folder=folder, data=data, task=Classification(), machine=MACHINE,
        precision="32-true", targets=labels, clean_targets=labels, cache=Cache(folder / "cache"),
        data_key="d",
    )  # fmt: skip
    return replace(made, **changes)


def kinds(folder):
    return sorted(about(path).get("stage") for _, path in entries(folder / "cache"))


def same(one, other):
    return all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


@pytest.fixture
def untrained(monkeypatch):
    """Trainings that take no time: the n-th one is as good as the n-th of these figures."""
    figures = iter([0.3, 0.7, 0.5, *[0.1] * 30])

    def fit(net, options, context, **_):
        (context.folder / "history.csv").write_text("epoch\n1\n")
        found = next(figures)
        with torch.no_grad():
            net[0].weight.fill_(found)
        return Fitted(net.eval(), {"epochs": 1, "picked_val_accuracy": found})

    monkeypatch.setattr(_inner.outer, "fit", fit)


def test_a_training_inside_is_made_once_for_all_and_disturbs_nothing_around_it(tmp_path, digits):
    mine = net()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    torch.manual_seed(3)
    made = context(tmp_path, digits).fit("candidate 1", mine, RECIPE)
    drawn = torch.rand(3)
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())
    torch.manual_seed(3)
    found = context(tmp_path, digits).fit("candidate 1", mine, RECIPE)
    assert torch.equal(torch.rand(3), drawn)  # whoever made it, the stage draws the same
    assert found.metrics == made.metrics and found.metrics["epochs"] == 2
    assert kinds(tmp_path) == ["inner", "inner figures"]
    trained = made.network()
    assert same(trained, found.network()) and not same(trained, mine) and not trained.training
    with found.history.open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_of_candidates_the_best_keeps_its_weights_and_all_keep_their_figures(
    tmp_path, digits, untrained
):
    here = context(tmp_path, digits)
    first, second, third = (here.fit(f"candidate {n}", net(n), RECIPE) for n in (1, 2, 3))
    assert here.best([first, second]) is second
    assert here.best([second, third]) is second
    assert kinds(tmp_path) == ["inner", *["inner figures"] * 3]
    again = [context(tmp_path, digits).fit(f"candidate {n}", net(n), RECIPE) for n in (1, 2, 3)]
    assert [one.metrics["picked_val_accuracy"] for one in again] == [0.3, 0.7, 0.5]
    assert again[1].network()[0].weight.unique().item() == pytest.approx(0.7)
    assert kinds(tmp_path) == ["inner", *["inner figures"] * 3]


def test_weights_that_were_left_go_through_the_same_training_again(tmp_path, digits):
    here = context(tmp_path, digits)
    quick = RECIPE.with_optimizer(epochs=1)
    one, other = here.fit("a", net(1), quick), here.fit("b", net(2), quick)
    before = {candidate.name: candidate.network() for candidate in (one, other)}
    best = here.best([one, other])
    assert kinds(tmp_path) == ["inner", *["inner figures"] * 2]
    left = other if best is one else one
    assert same(left.network(), before[left.name])


def test_weights_that_another_process_uses_stay(tmp_path, digits, untrained, monkeypatch):
    here = context(tmp_path, digits)
    one, other = here.fit("a", net(1), RECIPE), here.fit("b", net(2), RECIPE)
    monkeypatch.setattr(here.cache.session, "name", "another one")  # ours counts as that of others
    assert here.best([one, other]) is other
    assert kinds(tmp_path) == [*["inner"] * 2, *["inner figures"] * 2]


def test_a_killed_training_inside_goes_on_after_its_last_epoch(tmp_path, digits, monkeypatch):
    whole = context(tmp_path / "a", digits).fit("candidate", net(), RECIPE)
    write = Resume.on_train_epoch_end

    def dies(self, trainer, module):
        write(self, trainer, module)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Resume, "on_train_epoch_end", dies)
        context(tmp_path / "b", digits).fit("candidate", net(), RECIPE)
    said = []
    on = context(tmp_path / "b", digits, note=said.append).fit("candidate", net(), RECIPE)
    assert said == ["candidate: goes on after epoch 1 of 2"]
    assert on.key == whole.key and same(on.network(), whole.network())
    assert {k: v for k, v in on.metrics.items() if k != "earlier_seconds"} == whole.metrics


class Gated(nn.Sequential):
    share = 0.5


def test_the_key_knows_what_a_training_inside_depends_on_and_nothing_else(
    tmp_path, digits, untrained
):
    here = context(tmp_path, digits)

    def key(where=here, name="a", start=None, recipe=RECIPE, **more):
        return where.fit(name, start or net(), recipe, **more).key

    labels = digits.labels("train")
    fixed, deeper, gated = net(), net(), Gated(*net())
    fixed[0].requires_grad_(False)
    deeper[2] = nn.ReLU6()
    others = [
        key(name="b"),
        key(start=net(1)),
        key(start=fixed),
        key(start=deeper),
        key(start=gated),
        key(recipe=RECIPE.with_optimizer(lr=0.2)),
        key(recipe=replace(RECIPE, select="last")),
        key(parts={"share": 0.4}),
        key(replace(here, targets=labels.flip(0))),
        key(replace(here, labelled=torch.arange(100))),
        key(training=TrainingSet(targets=labels, balanced=True)),
        key(replace(here, seed=6)),
        key(replace(here, precision="bf16-mixed")),
        key(replace(here, machine=replace(MACHINE, devices=2))),
        key(replace(here, data_key="e")),
    ]
    assert len({key(), *others}) == 1 + len(others)
    assert key() == key(replace(here, machine=replace(MACHINE, eval_batch_size=7)))
    assert key() == key(replace(here, labels_key="of labels that it does not read"))


def test_damage_to_the_images_is_in_the_key(tmp_path, digits, untrained):
    here = context(tmp_path, digits, damage=lambda images, index, seed: images)
    keys = {replace(here, labels_key=key).fit("a", net(), RECIPE).key for key in ("p", "q")}
    assert len(keys) == 2


def test_a_class_that_was_made_on_the_way_has_a_key_and_its_network_comes_back(
    tmp_path, digits, untrained
):
    class Local(nn.Conv2d):
        pass

    start = net()
    start[0] = Local(1, 4, 3, padding=1)
    start[5] = parametrizations.weight_norm(start[5])
    trained = context(tmp_path, digits).fit("a", start, RECIPE)
    images = digits.pixels("val", torch.arange(2)).float()
    assert trained.network()(images).shape == (2, 10)


def test_a_training_of_no_epochs_is_refused(tmp_path, digits):
    with pytest.raises(UsageError, match="candidate 1 is trained inside a stage: give it an epoch"):
        context(tmp_path, digits).fit("candidate 1", net(), RECIPE.with_optimizer(epochs=0))


def test_without_a_validation_part_there_is_no_best(tmp_path, digits, untrained):
    one = context(tmp_path, digits).fit("a", net(), RECIPE)
    blind = replace(one, metrics={"epochs": 1})
    with pytest.raises(UsageError, match="no validation image: raise dataset.validation"):
        context(tmp_path, digits).best([one, blind])
