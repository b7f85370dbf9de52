"""Teachers of every source, and students of a form of their own, through whole runs."""

import pytest
import torch
from test_pipeline import compose, keys, plan, run

import compressor
from compressor import instantiation
from compressor.data import ImageData
from compressor.errors import RunError, UsageError
from compressor.experiment import Experiment
from compressor.report import sentences

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


def test_a_saved_teacher_is_another_one_under_another_release_of_its_library(
    folder, alone, monkeypatch
):
    words = (*WORDS, "distill=kd", "distill.at=train", "distill.teacher.source=artefact",
             f"distill.teacher.path={folder / 'alone'}")  # fmt: skip
    before = Experiment(compose(folder, *words)).teachers
    monkeypatch.setattr(instantiation, "_release", lambda name: "99.0")
    assert not before.keys() & Experiment(compose(folder, *words)).teachers.keys()


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


# -- without data ---------------------------------------------------------------------------------

FREE = ("distill=data_free", "prune=weight_sum", "stages=[train,compress,finetune]",
        "distill.terms.data_free.count=16", "distill.terms.data_free.steps=2",
        "dataset.channels=1", "machine.latency_seconds=0")  # fmt: skip


@pytest.mark.parametrize(
    "words, wish",
    [
        ((), "recalibrate and prune would: type stages=[train,compress,finetune] prune=weight_sum"),
        (("prune=weight_sum",), "recalibrate would: type stages=[train,compress,finetune]"),
        (("prune=apoz", FREE[2]), "prune would: type prune=weight_sum (or bn_scale, fpgm, group_l"),
        (
            ("prune=weight_sum", FREE[2], "prune.reconstruct=refit", "prune.statistics=sequential"),
            "prune would: type prune.reconstruct=none prune.statistics=dense",
        ),
        (
            ("prune=weight_sum", FREE[2], "prune.sensitivity.table=true"),
            "prune would: type prune.sensitivity.table=false",
        ),
        ((*FROM_MODEL, "prune=none"), "finetune would: type stages=[train,compress,recalibrate]"),
        ((*FROM_MODEL, "prune=none", "stages=[train]", "pretrain=rotnet"), "type pretrain=none"),
        ((*FROM_MODEL, "prune=none", "stages=[train]", "robust=confident"), "type robust=none"),
        ((*FROM_MODEL, "prune=none", "stages=[train]", "baselines=true"), "type baselines=false"),
    ],
)
def test_a_data_free_run_that_would_read_images_is_refused_with_what_to_type(folder, words, wish):
    with pytest.raises(UsageError) as caught:
        plan(folder, "distill=data_free", "dataset.channels=1", *words)
    assert wish in str(caught.value) and str(caught.value).startswith("distill=data_free reads no")


@pytest.mark.parametrize("name", ["weight_sum", "bn_scale", "fpgm", "group_l2", "random"])
def test_the_criteria_that_a_data_free_run_is_told_of_read_no_image(folder, name):
    plan(folder, *FREE, f"prune={name}")


@pytest.mark.parametrize(
    "words",
    [
        ("prune.scope=all", "distill.sampler=superclass_uniform"),
        ("prune=none", "stages=[train]", *FROM_MODEL, "train.epochs=1"),
    ],
)
def test_a_data_free_run_reads_no_image_and_no_label_of_its_students(folder, monkeypatch, words):
    noise = ("noise=symmetric", "noise.rate=0.4")
    student = "distill.at=train" in words
    if student:  # the teacher is the network of this run
        run(folder, "before", *WORDS, *noise, "++model.width=0.5")
    else:
        run(folder, "before", "stages=[train]", "prune=none", "dataset.channels=1",
            "machine.latency_seconds=0", *noise)  # fmt: skip
    loader = ImageData.loader

    def guarded(self, part, *args, **kwargs):
        assert part == "test", f"an image of the {part} part was read"
        return loader(self, part, *args, **kwargs)

    def unread(self, part, index):
        raise AssertionError("an image was read")

    monkeypatch.setattr(ImageData, "loader", guarded)
    monkeypatch.setattr(ImageData, "pixels", unread)
    report = run(folder, "free", *FREE, *noise, *words)
    stage = "train" if student else "finetune"
    assert report["labels"]["unread"] == {stage: "data_free"}
    notes = report["training"]["final"]
    assert "picked_val_accuracy" not in notes and 0 <= notes["picked_fresh_made_agreement"] <= 1
    said = sentences.labels(report)
    assert "read none of them: distill=data_free learns from its teacher alone" in said
    assert "used all the clean ones" not in said
    assert "agreement with the teacher on made images" in sentences.taught(report)
    header = (folder / "free" / report["history"][stage]).read_text().splitlines()[0].split(",")
    assert {"made_loss", "made_agreement", "fresh_made_loss", "fresh_made_agreement"} <= set(header)
    assert not any(name.endswith("accuracy") for name in header)


def test_fine_tuning_by_mimic_reads_no_label_and_the_report_says_so(folder):
    words = ("stages=[train,compress,finetune]", "prune=weight_sum", "dataset.channels=1",
             "train.epochs=1", "machine.latency_seconds=0", "noise=symmetric")  # fmt: skip
    report = run(folder, "unread", *words, "distill=mimic")
    assert report["labels"]["finetune"] == "none"
    said = sentences.labels(report)
    assert "fine-tuning read none of them: distill=mimic" in said and "clean" not in said
    report = run(folder, "read", *words, "distill=kd")
    assert "unread" not in report["labels"]
    assert "fine-tuning used all the clean ones" in sentences.labels(report)
