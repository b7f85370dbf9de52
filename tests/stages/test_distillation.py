"""What a stage with a teacher begins with, and what it leaves."""

import csv
from dataclasses import replace

import pytest
import torch
from torch import nn

from compressor._menu import parse
from compressor.artefact import EXTRAS, Spec
from compressor.cache import RESUME, Cache
from compressor.configuration import Menu, plain, read_command
from compressor.data.digits import Digits
from compressor.distill.data_free import DataFree
from compressor.errors import RunError, UsageError
from compressor.robust.none import CrossEntropy
from compressor.stages import Context, Machine
from compressor.stages._distill.options import Teaching, check_fits
from compressor.stages._distill.taught import distillation
from compressor.stages._distill.teacher import Mean
from compressor.stages._fit import Job, TrainingSet, fit
from compressor.stages._recipe import Recipe
from compressor.stages._resume import Resume
from compressor.tasks.classification import Classification
from compressor.tasks.optimization import OptimizerOptions

SPEC = Spec("compressor.models.resnet20", {"width": 0.5}, (1, 8, 8), 10)
FITTING = OptimizerOptions(
    epochs=1, batch_size=128, optimizer="sgd", lr=0.05, momentum=0.9, nesterov=False,
    weight_decay=0.0, decay_norm_and_bias=True, schedule="cosine", warmup_epochs=0.0,
    milestones=(), gamma=0.1, clip_norm=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    data = Digits(image_size=8, channels=1, validation=0.5)
    data.prepare()
    return data


class Tiny(nn.Module):
    """Two stages of feature maps and a head."""

    stages = ("first", "second")
    head_name = "head"

    def __init__(self, width=8, seed=0, strides=(1, 2)):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = self.block(1, width, strides[0])
            self.second = self.block(width, width, strides[1])
            self.head = nn.Linear(width, 10)

    def block(self, inputs, outputs, stride):
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean(dim=(2, 3)))


class Stored:
    """A teacher's artefact that holds its network in memory."""

    def __init__(self, net, key="t"):
        self.net, self.key = net, key

    def network(self, trust=()):
        return self.net.eval()


def context(folder, data, *teachers, notes=None):
    machine = Machine(
        accelerator="cpu", devices=1, strategy="auto", threads=None, workers=0, progress=False,
        log_every=10, eval_batch_size=256, channels_last=False, latency_batch_size=1,
        latency_seconds=0.0,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    labels = data.labels("train")
    return Context(
        seed=5, folder=folder, data=data, task=Classification(), machine=machine,
        precision="32-true", targets=labels, clean_targets=labels,
        cache=Cache(folder.parent / "cache"), data_key="d",
        roles={f"teacher_{number}": teacher for number, teacher in enumerate(teachers)},
        note=(notes if notes is not None else []).append,
    )  # fmt: skip


def options(*overrides):
    """The group `distill` as the command line would make it."""
    command = read_command(overrides)
    menu = Menu(command)
    groups = [o for o in overrides if o.startswith("distill=")]
    config = menu.compose(groups)
    menu.apply([parse(o) for o in overrides if o not in groups], config)
    return Teaching.read(plain(config["distill"]))


def taught(folder, data, *overrides, student=None, teacher=None, **more):
    where = context(folder, data, *([teacher] if teacher else []), **more)
    return where, distillation(
        options(*overrides), student or Tiny(), SPEC, TrainingSet(targets=where.targets), where
    )


def train(where, made, fitting=FITTING):
    job = Job(
        name="finetune", recipe=Recipe(optimizer=fitting, select="last"), remedy=CrossEntropy(),
        distillation=made.distillation,
    )  # fmt: skip
    fitted = fit(made.student, job, where)
    return made.finish(fitted.net)


def history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_terms_act_and_each_is_logged(tmp_path, digits):
    def weights(name, *overrides):
        where, made = taught(tmp_path / name, digits, *overrides, teacher=Stored(Tiny(12, 1)))
        return train(where, made)[0].first[0].weight

    both = weights("a", "distill=[kd,pkt]", "distill.label_weight=0.1")
    (row,) = history(tmp_path / "a")
    assert float(row["train_kd"]) > 0 and float(row["train_pkt"]) > 0
    without = ("distill.terms.kd.weight=0.0", "distill.terms.pkt.weight=0.0")
    for name, zero in zip("bc", without, strict=True):
        other = weights(name, "distill=[kd,pkt]", "distill.label_weight=0.1", zero)
        assert not torch.equal(both, other)
        (row,) = history(tmp_path / name)
        assert ("train_kd" in row) == ("pkt" in zero)


def test_a_teacher_whose_terms_have_weight_0_changes_nothing(tmp_path, digits):
    zero = ("distill=hints", "distill.terms.hints.weight=0.0")
    where, made = taught(tmp_path / "a", digits, *zero, teacher=Stored(Tiny(12, 1)))
    assert made.distillation.teacher is None and not made.distillation.adapters
    first = train(where, made)[0]
    where, made = taught(tmp_path / "b", digits, "distill=none")
    second = train(where, made)[0]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


class Killed(Exception):
    pass


def test_a_killed_training_with_an_adapter_goes_on_to_the_same_numbers_and_keeps_no_teacher(
    tmp_path, digits, monkeypatch
):
    from dataclasses import replace

    teacher = Tiny(12, 1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    two = replace(FITTING, epochs=2)
    where, made = taught(tmp_path / "a", digits, "distill=[hints,attention]",
                         teacher=Stored(teacher))  # fmt: skip
    whole, _ = train(where, made, two)
    assert set(whole.state_dict()) == set(Tiny().state_dict())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(m.training for m in teacher.modules())

    write = Resume.on_train_epoch_end

    def dies(self, trainer, module):
        write(self, trainer, module)
        module.train()  # does not reach the teacher, which is no part of the module
        assert not teacher.training
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Resume, "on_train_epoch_end", dies)
        where, made = taught(tmp_path / "b", digits, "distill=[hints,attention]",
                             teacher=Stored(teacher))  # fmt: skip
        train(where, made, two)
    state = torch.load(tmp_path / "b" / RESUME / "epoch-1.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if not name.startswith(("net.", "adapters.hints."))]
    where, made = taught(tmp_path / "b", digits, "distill=[hints,attention]",
                         teacher=Stored(teacher))  # fmt: skip
    again, _ = train(where, made, two)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_cached_logits_are_the_teachers_and_train_the_same_student(tmp_path, digits):
    teacher = Stored(Tiny(12, 1))
    where, made = taught(tmp_path / "a", digits, "distill=kd", "distill.cache_teacher=true",
                         teacher=teacher)  # fmt: skip
    images, _, index = next(iter(digits.loader("train", 64)))
    with torch.no_grad():
        expected = teacher.net(images)
    torch.testing.assert_close(made.distillation.logits[index], expected, rtol=1e-4, atol=1e-5)
    cached = train(where, made)[0]
    where, made = taught(tmp_path / "b", digits, "distill=kd", teacher=teacher)
    asked = train(where, made)[0]
    torch.testing.assert_close(cached.head.weight, asked.head.weight, rtol=1e-3, atol=1e-4)
    # the second run finds them on the disk
    teacher.net.forward = None
    notes = []
    with pytest.raises(RunError, match="cannot answer"):
        taught(tmp_path / "c", digits, "distill=kd", teacher=teacher, notes=notes)


def test_several_teachers_are_the_mean_of_their_logits(tmp_path, digits):
    nets = [Tiny(12, 1).eval(), Tiny(6, 2).eval()]
    where = context(tmp_path / "a", digits, *(Stored(net, str(i)) for i, net in enumerate(nets)))
    made = distillation(
        options("distill=mimic"), Tiny(), SPEC, TrainingSet(targets=where.targets), where
    )
    x = torch.randn(3, 1, 8, 8)
    assert isinstance(made.distillation.teacher, Mean)
    with torch.no_grad():
        torch.testing.assert_close(made.distillation.teacher(x), (nets[0](x) + nets[1](x)) / 2)


def outputs_alone(images):
    return images.flatten(1)[:, :10]


def test_a_function_teaches_by_its_outputs(tmp_path, digits):
    ask = ("distill=kd", "distill.teacher.source=callable",
           f"distill.teacher.function={__name__}.outputs_alone")  # fmt: skip
    where, made = taught(tmp_path / "a", digits, *ask)
    net, notes = train(where, made)
    assert float(history(tmp_path / "a")[0]["train_kd"]) > 0
    assert 0 <= notes["teacher_val"]["accuracy"] <= 1


def test_superclasses_are_groups_of_the_teachers_features_and_are_kept(tmp_path, digits):
    wish = ("distill=cckd", "distill.sampler=superclass_uniform", "distill.superclasses=3")
    where, made = taught(tmp_path / "a", digits, *wish, teacher=Stored(Tiny(12, 1)))
    groups = made.distillation.groups
    assert len(groups) == digits.size("train") and groups.unique().tolist() == [0, 1, 2]
    assert (tmp_path / "a" / EXTRAS / "superclasses.npy").exists()
    train(where, made)
    assert float(history(tmp_path / "a")[0]["train_cckd"]) > 0


def test_batches_by_groups_stay_where_all_weights_are_0_and_follow_the_labels(tmp_path, digits):
    zero = ("distill=cckd", "distill.terms.kd.weight=0.0", "distill.terms.cckd.weight=0.0",
            "distill.sampler=class_uniform")  # fmt: skip
    where = context(tmp_path / "a", digits, Stored(Tiny(12, 1)))
    labels = where.targets.flip(0)
    made = distillation(options(*zero), Tiny(), SPEC, TrainingSet(targets=labels), where)
    assert torch.equal(made.distillation.groups, labels) and not made.distillation.acting


# -- images that are made -------------------------------------------------------------------------

FEW = ("distill.terms.data_free.count=16", "distill.terms.data_free.steps=3")


class Poisoned(Digits):
    """Data whose images cannot be read."""

    def prepare(self):
        super().prepare()
        for source, _ in self._parts.values():
            source.images = self.poison

    def poison(self, rows, draw):
        raise AssertionError("an image was read")


@pytest.mark.parametrize("images", ["learned", "untrained", "noise"])
def test_data_free_reads_no_image_and_leaves_the_teacher_alone(tmp_path, images):
    data = Poisoned(image_size=8, channels=1)
    data.prepare()
    with pytest.raises(AssertionError, match="was read"):
        next(iter(data.loader("train", 4)))
    teacher = Tiny(12, 1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    where, made = taught(tmp_path / "a", data, "distill=data_free", *FEW,
                         f"distill.terms.data_free.images={images}", student=Tiny(),
                         teacher=Stored(teacher))  # fmt: skip
    start = {k: v.clone() for k, v in made.distillation.adapters["data_free"].state_dict().items()}
    untrained = Tiny().head.weight
    net, notes = train(where, made)
    assert not torch.equal(net.head.weight, untrained)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    end = made.distillation.adapters["data_free"].state_dict()
    moved = any(not torch.equal(end[n], v) for n, v in start.items() if n.endswith("weight"))
    assert moved == (images == "learned")
    assert made.blind and (tmp_path / "a" / EXTRAS / "generated.png").exists()
    assert {"teacher_confidence", "class_entropy", "agreement"} == set(notes["made_images"])
    (row,) = history(tmp_path / "a")
    assert float(row["train_data_free/entropy"]) < 0


class Watched(DataFree):
    """Notes for each process what the maker's weights sum to, at every step."""

    folder = None

    def draw(self, maker, count, device, rng):
        if torch.distributed.is_initialized():
            total = sum(p.detach().double().sum().item() for p in maker.parameters())
            with (self.folder / f"rank-{torch.distributed.get_rank()}").open("a") as file:
                file.write(f"{total}\n")
        return super().draw(maker, count, device, rng)


@pytest.mark.slow
def test_two_processes_make_images_with_one_generator(tmp_path, digits):
    where, made = taught(
        tmp_path / "a", digits, "distill=data_free", *FEW, teacher=Stored(Tiny(12, 1))
    )
    term = Watched(count=8, steps=4)
    term.folder = tmp_path
    where = replace(where, machine=replace(where.machine, devices=2))
    terms = replace(made.distillation, terms={"data_free": term})
    train(where, replace(made, distillation=terms))
    first, second = ((tmp_path / f"rank-{rank}").read_text().split() for rank in (0, 1))
    assert first == second and len(set(first)) > 3


def test_made_images_may_stand_beside_the_real_ones(tmp_path, digits):
    where, made = taught(
        tmp_path / "a", digits, "distill=data_free", *FEW, "distill.label_weight=1.0",
        "distill.terms.data_free.beside=true", teacher=Stored(Tiny(12, 1)),
    )  # fmt: skip
    train(where, made)
    (row,) = history(tmp_path / "a")
    assert float(row["train_labels"]) > 0 and float(row["train_data_free"]) > 0
    assert not made.blind


# -- several heads --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ensemble_net", "collaborative"])
def test_training_with_several_heads_leaves_a_plain_network(tmp_path, digits, name):
    where = context(tmp_path / "a", digits)
    net = Tiny()
    made = distillation(
        options(f"distill={name}"),
        net,
        SPEC,
        TrainingSet(targets=where.targets),
        where,
        another=lambda head: Tiny(seed=head),
    )
    left, notes = train(where, made)
    assert type(left) is Tiny and set(left.state_dict()) == set(net.state_dict())
    heads = notes["heads"]
    assert heads["count"] == len(heads["val_accuracy"])
    (row,) = history(tmp_path / "a")
    # the head that is kept is the one that validation saw
    assert heads["val_accuracy"][0] == pytest.approx(float(row["val_accuracy"]))


# -- what is refused, in a line -------------------------------------------------------------------

REFUSED = {
    "at=now": ["distill=kd", "distill.at=now"],
    "sampler=x": ["distill=kd", "distill.sampler=x"],
    "teacher.source=x": ["distill=kd", "distill.teacher.source=x"],
    "no dense network to learn from yet": ["distill=kd", "distill.at=train"],
    "needs distill.teacher.path": ["distill=kd", "distill.teacher.source=artefact"],
    "needs distill.teacher.function": ["distill=kd", "distill.teacher.source=callable"],
    "model=resnet65 is not known: choose one of mobilenet_v2": [
        "distill=kd", "distill.teacher.source=model", "distill.teacher.model=resnet65"],
    "distill=hints reads features": [
        "distill=hints", "distill.teacher.source=callable", "distill.teacher.function=a.b"],
    "distill=attention reads features": [
        "distill=attention", "distill.teacher.source=callable", "distill.teacher.function=a.b"],
    "data_free makes images of the teacher's input size": [
        "distill=data_free", "distill.teacher.source=callable", "distill.teacher.function=a.b"],
    "several teachers": [
        "distill=pkt", "distill.teacher.source=artefact", "distill.teacher.path=[a,b]"],
    "cache_teacher keeps logits alone": ["distill=cckd", "distill.cache_teacher=true"],
    "cannot stand beside kd": ["distill=[kd,data_free]"],
    "use distill.at=train": ["distill=ensemble_net", "distill.at=finetune"],
    "temperature=0": ["distill=kd", "distill.terms.kd.temperature=0.0"],
    "per_group=1": ["distill=kd", "distill.per_group=1"],
    "superclasses=1": ["distill=kd", "distill.superclasses=1"],
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_done_is_refused_before_data_is_read(line):
    with pytest.raises(UsageError) as refusal:
        options(*REFUSED[line])
    assert line in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "term, line",
    [
        ("distill.terms.hints.student_layer=conv9", "the student has no layer 'conv9'"),
        ("distill.terms.hints.teacher_layer=conv9", "the teacher has no layer 'conv9'"),
        ("distill.terms.hints.teacher_layer=first", "the adapter of distill.terms.hints"),
    ],
)
def test_layers_that_are_not_there_or_do_not_meet_are_named(tmp_path, digits, term, line):
    with pytest.raises(UsageError, match=line):
        taught(tmp_path / "a", digits, "distill=hints", term, teacher=Stored(Tiny(12, 1)))


def test_a_teacher_of_other_classes_or_another_size_names_both():
    with pytest.raises(UsageError, match="has 100 classes, the student 10"):
        check_fits(Spec("f", {}, (1, 8, 8), 100), SPEC, "x")
    with pytest.raises(UsageError, match="takes images of 3x32x32, the student of 1x8x8"):
        check_fits(Spec("f", {}, (3, 32, 32), 10), SPEC, "x")


def too_few(images):
    return images.flatten(1)[:, :7]


def test_a_function_of_other_classes_is_told(tmp_path, digits):
    ask = ("distill=kd", "distill.teacher.source=callable",
           f"distill.teacher.function={__name__}.too_few")  # fmt: skip
    with pytest.raises(UsageError, match=r"\(2, 7\), the student with \(2, 10\)"):
        taught(tmp_path / "a", digits, *ask)
    with pytest.raises(UsageError, match="cannot be imported"):
        taught(tmp_path / "b", digits, *ask[:2], "distill.teacher.function=nowhere.f")
