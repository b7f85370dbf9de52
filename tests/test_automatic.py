"""Recipes that follow from the data: numbers for `auto`, and the way back."""

from types import SimpleNamespace

import pytest

from compressor import automatic

OWN = {"epochs": "auto", "batch_size": "auto", "lr": "auto", "optimizer": "sgd"}


def config(share=1.0, train=None, finetune=None):
    return {
        "seed": 0,
        "dataset": {"labelled_fraction": share, "image_size": "auto", "augment": {"scale": "auto"}},
        "pretrain": dict(OWN),
        "train": {**OWN, **(train or {})},
        "finetune": {**OWN, "mode": "finetune", **(finetune or {})},
    }


def data(images):
    resolved = {"dataset.image_size": (64, "their size"), "dataset.augment.scale": (0.64, "few")}
    return SimpleNamespace(resolved=resolved, size=lambda part: images)


def test_a_thousand_images_get_no_recipe_of_a_million():
    made, told = automatic.resolve(config(), data(900))
    assert {k: made["train"][k] for k in OWN} == {
        "epochs": 60, "batch_size": 16, "lr": 0.00625, "optimizer": "sgd",
    }  # fmt: skip
    assert [made["finetune"][k] for k in ("epochs", "batch_size", "lr")] == [15, 16, 0.000625]
    assert made["dataset"] == {
        "labelled_fraction": 1.0, "image_size": 64, "augment": {"scale": 0.64},
    }  # fmt: skip
    assert told["train.epochs"] == {"value": 60, "reason": "900 images"}
    assert told["train.lr"]["reason"] == "0.1 at a batch of 256, here 16"
    assert told["dataset.image_size"] == {"value": 64, "reason": "their size"}


def test_a_million_images_get_the_papers_recipe():
    made, _ = automatic.resolve(config(), data(1_153_050))
    assert [made["train"][k] for k in ("epochs", "batch_size", "lr")] == [90, 256, 0.1]
    assert [made["finetune"][k] for k in ("epochs", "batch_size", "lr")] == [20, 256, 0.001]


def test_more_images_never_mean_fewer_steps_or_smaller_batches():
    edges = [500, 1_000, 1_001, 5_000, 5_001, 20_000, 20_001, 100_000, 100_001, 10**6]
    rows = [automatic.recipe(n) for n in edges]
    steps = [row.epochs * (n / row.batch_size) for n, row in zip(edges, rows, strict=True)]
    assert [row.batch_size for row in rows] == sorted(row.batch_size for row in rows)
    # where the batch doubles the steps fall by less than half of it
    assert all(after > 0.4 * before for before, after in zip(steps, steps[1:], strict=False))
    assert all(1_500 < each < 4_000_000 for each in steps)


def test_a_typed_number_wins_and_what_depends_on_it_follows():
    made, told = automatic.resolve(config(train={"batch_size": 64, "epochs": 7}), data(900))
    assert [made["train"][k] for k in ("epochs", "batch_size", "lr")] == [7, 64, 0.025]
    assert "train.epochs" not in told and "train.batch_size" not in told and "train.lr" in told
    made, _ = automatic.resolve(config(train={"optimizer": "adamw"}), data(900))
    assert made["train"]["lr"] == 0.001


def test_only_images_whose_label_may_be_read_count_but_in_pretraining():
    made, _ = automatic.resolve(config(share=0.1), data(9000))
    assert [made[stage]["batch_size"] for stage in ("pretrain", "train")] == [64, 16]


def test_a_mode_that_trains_again_takes_the_numbers_of_the_training():
    own = config(train={"epochs": 7}, finetune={"mode": "scratch_e", "epochs": 7})
    made, told = automatic.resolve(own, data(900))
    assert [made["finetune"][k] for k in ("epochs", "batch_size", "lr")] == [7, 16, 0.00625]
    assert told["finetune.lr"]["reason"] == "that of the training"


@pytest.mark.parametrize("train", [{}, {"epochs": 7}])
def test_the_composed_config_comes_back_from_the_resolved_one(train):
    own = config(train=train)
    made, told = automatic.resolve(own, data(900))
    assert made != own and automatic.unresolved(made, told) == own
    assert "auto" not in str(made)


def test_a_config_without_auto_stays_as_it_is():
    numbers = {"epochs": 2, "batch_size": 4, "lr": 0.1, "optimizer": "sgd"}
    own = {
        **{stage: dict(numbers) for stage in automatic.STAGES},
        "dataset": {"labelled_fraction": 1.0},
    }
    own["finetune"]["mode"] = "finetune"
    assert automatic.resolve(own, SimpleNamespace(resolved={}, size=lambda part: 9)) == (own, {})
    assert automatic.stood_in(own) == own


def test_the_plan_tells_what_its_stages_read():
    _, told = automatic.resolve(config(), data(900))
    shown = automatic.told(told, {"train", "compress"})
    assert {key.split(".")[0] for key in shown} == {"dataset", "train"}


def test_the_reason_of_a_fine_tunings_rate_holds_beside_a_typed_rate_of_the_training():
    made, told = automatic.resolve(config(train={"lr": 0.5}), data(900))
    assert made["finetune"]["lr"] == 0.000625  # no share of 0.5
    reason = "0.1 of a usual training's: 0.1 at a batch of 256, here 16"
    assert told["finetune.lr"]["reason"] == reason
