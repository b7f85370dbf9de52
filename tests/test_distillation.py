"""Teachers of every source, and students of a form of their own, through whole runs."""

import pytest
import torch
from test_pipeline import compose, keys, plan, run

import compressor
from compressor.errors import RunError, UsageError
from compressor.experiment import Experiment

WORDS = ("stages=[train]", "prune=none", "train.epochs=1", "dataset.channels=1",
         "machine.latency_seconds=0")  # fmt: skip
FROM_MODEL = (
    "distill.at=train", "distill.teacher.source=model", "distill.teacher.model=resnet20",
    "++distill.teacher.arguments.width=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def alone(folder):
    return run(folder, "alone", *WORDS)


def test_a_bottleneck_is_multiplied_out_and_that_network_is_measured_and_saved(folder, alone):
    student = ("model=shallow_mimic", "model.filters=8", "model.pool=2", "model.bottleneck=6",
               "model.hidden=40", "distill=mimic")  # fmt: skip
    report = run(folder, "mimic", *student, *WORDS, *FROM_MODEL)
    width = 8 * 4 * 4
    notes = report["training"]["final"]["folded"]
    others = (25 * 8 + 8) + 40 + (40 * 10 + 10)
    assert notes["params_before"] == 6 * (40 + width) + others
    assert notes["params_after"] == 40 * width + others
    assert notes["error"] <= 1e-5
    assert report["points"]["final"]["params"] == notes["params_after"]
    net = compressor.load(folder / "mimic" / "model")
    assert isinstance(net.hidden, torch.nn.Linear)


def test_a_bottleneck_that_saves_nothing_is_refused_before_anything_is_trained(folder):
    student = ("model=shallow_mimic", "model.filters=8", "model.pool=2", "model.hidden=40")
    with pytest.raises(UsageError, match="bottleneck=31 saves nothing: 5,208 .* at most 30, or 0"):
        Experiment(compose(folder, *WORDS, *student, "model.bottleneck=31"))
    teacher = ("distill=kd", "distill.at=train", "distill.teacher.source=model",
               "distill.teacher.model=shallow_mimic",
               "++distill.teacher.arguments.bottleneck=500")  # fmt: skip
    with pytest.raises(UsageError, match="bottleneck=500 saves nothing"):
        Experiment(compose(folder, *WORDS, *teacher))


def test_the_teacher_of_a_model_is_the_run_of_that_model(folder, alone):
    coming = plan(folder, *WORDS, *FROM_MODEL, "model=resnet20", "distill=kd")
    (step,) = coming.steps
    (side,) = step.sides
    assert side.key == alone["stages"][0]["key"] == step.roles["teacher"]
    assert coming.reused()[side.key]


def test_a_saved_run_teaches_and_its_content_is_in_the_key(folder, alone):
    words = (*WORDS, "distill=kd", "distill.at=train", "distill.teacher.source=artefact",
             f"distill.teacher.path={folder / 'alone'}")  # fmt: skip
    report = run(folder, "taught", *words)
    assert 0 <= report["training"]["final"]["teacher_val"]["accuracy"] <= 1
    assert report["stages"][0]["key"] != alone["stages"][0]["key"]
    names = {path.name for path in (folder / "taught" / "model").iterdir()}
    assert names == {path.name for path in (folder / "alone" / "model").iterdir()}


def test_a_path_that_is_no_artefact_and_a_teacher_of_another_size_are_refused(folder, alone):
    words = (*WORDS, "distill=kd", "distill.at=train", "distill.teacher.source=artefact")
    with pytest.raises(UsageError):
        Experiment(compose(folder, *words, f"distill.teacher.path={folder}"))
    path = f"distill.teacher.path={folder / 'alone'}"
    with pytest.raises(UsageError, match="takes images of 1x8x8, the student of 1x16x16"):
        Experiment(compose(folder, *words, path, "dataset.image_size=16"))


def test_logits_are_kept_for_images_that_stay_as_they_are(folder):
    wish = ("distill=kd", "distill.cache_teacher=true")
    with pytest.raises(UsageError, match="dataset.augment.crop=0"):
        Experiment(compose(folder, *wish, "dataset.augment.crop=2"))
    base, kept = keys(folder, "distill=kd"), keys(folder, *wish, "dataset.augment.crop=0")
    assert base["finetune"] != kept["finetune"]


def test_groups_larger_than_a_batch_are_refused(folder):
    words = ("distill=kd", "distill.sampler=class_uniform", "finetune.batch_size=32")
    with pytest.raises(UsageError, match="at most finetune.batch_size=32"):
        Experiment(compose(folder, *words, "distill.per_group=33"))


def test_what_no_stage_reads_enters_no_key(folder):
    base = keys(folder, "distill=kd")
    more = ("distill.superclasses=7", "distill.teacher.epochs=3", "distill.per_group=2")
    assert keys(folder, "distill=kd", *more) == base
    assert keys(folder, "distill=kd", "distill.sampler=class_uniform") != base


@pytest.mark.parametrize(
    "words, line",
    [
        (("distill.terms.hints.student_layer=conv9",), "the student has no layer 'conv9'"),
        (("distill.terms.hints.teacher_layer=layer9",), "the teacher has no layer 'layer9'"),
        (("distill.terms.hints.teacher_layer=layer1",), "16x4x4, the teacher's 'layer1' is 8x8x8"),
        (("distill.teacher.source=model", "distill.teacher.model=vgg16_bn"), "adapter"),
    ],
)
def test_layers_are_checked_before_anything_is_trained(folder, words, line):
    with pytest.raises(UsageError, match=line):
        Experiment(compose(folder, "distill=hints", *words))


def five_classes(images):
    return images.new_zeros(len(images), 5)


def no_logits(images):
    return None


def not_numbers(images):
    return images.new_full((len(images), 10), float("nan"))


@pytest.mark.parametrize(
    "name, line",
    [
        ("five_classes", "answers 2 images with"),
        ("no_logits", "answers with NoneType: it must answer images with logits"),
        ("not_numbers", "with nan or inf"),
        ("WORDS", "is nothing that can be called"),
    ],
)
def test_a_function_that_is_no_teacher_is_told_before_anything_is_trained(folder, name, line):
    words = ("distill.teacher.source=callable", f"distill.teacher.function={__name__}.{name}")
    with pytest.raises((UsageError, RunError), match=line):
        Experiment(compose(folder, "distill=kd", *words))


@pytest.mark.parametrize("library, name", [("timm", "resnet10t"), ("torchvision", "resnet18")])
def test_a_librarys_network_can_be_the_teacher(folder, library, name):
    words = (f"distill.teacher.model={library}", f"++distill.teacher.arguments.name={name}")
    Experiment(compose(folder, "distill=kd", "distill.teacher.source=model", *words))


@pytest.mark.parametrize(
    "words",
    [
        ("distill=ensemble_net", "distill.terms.ensemble_net.split_at=layer9"),
        ("distill=collaborative", "distill.terms.collaborative.split_at=[layer9]"),
    ],
)
def test_forks_are_checked_before_anything_is_trained(folder, words):
    with pytest.raises(UsageError, match="has no module 'layer9'"):
        Experiment(compose(folder, *words))


def test_images_that_cannot_be_made_are_told_before_anything_is_trained(folder):
    with pytest.raises(UsageError, match="10x10 is no multiple of 4"):
        Experiment(compose(folder, "distill=data_free", "dataset.image_size=10"))


def test_heads_of_one_network_and_a_remedy_that_trains_two_are_refused(folder):
    with pytest.raises(UsageError, match="distill=collaborative looks into one network"):
        run(folder, "two", *WORDS, "distill=collaborative", "robust=co_teaching")


def test_logits_of_damaged_images_are_not_kept(folder):
    with pytest.raises(UsageError, match="this noise changes them"):
        Experiment(compose(folder, "distill=kd", "distill.cache_teacher=true", "noise=pixels",
                           "noise.rate=0.1", "dataset.augment.crop=0"))  # fmt: skip
