"""What a stage with a teacher begins with: the terms, the teacher, adapters, and what is trained.

Nothing here draws from the global random state: a distillation whose weights are all 0 gives the
numbers of none.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.artefact import Spec
from compressor.cache import key_of
from compressor.distill._layers import places, unit
from compressor.errors import RunError, UsageError
from compressor.instantiation import make
from compressor.measure import evaluate
from compressor.seeding import derive
from compressor.stages import Context
from compressor.stages._fit import TrainingSet
from compressor.taps import Tap, tapped
from compressor.tasks.training import Distillation

VERSION = 1
SOURCES = ("dense", "artefact", "model", "callable")
SAMPLERS = ("none", "class_uniform", "superclass_uniform")
EXTRAS = "extras"  # in an artefact's folder: what is worth a look and no part of the network
_IMAGES = 64  # on the sheet of made images


# -- what a config can have wrong -----------------------------------------------------------------


def check(options: Mapping[str, Any]) -> None:
    """Refuse what no run can do, before any data is read. options: the distill group."""
    at, teacher = options["at"], options["teacher"]
    _one_of("at", at, ("train", "finetune"))
    _one_of("sampler", options["sampler"], SAMPLERS)
    _one_of("teacher.source", teacher["source"], SOURCES)
    if options["per_group"] < 2:
        raise UsageError(
            f"distill.per_group={options['per_group']} leaves no pair of a group: give 2 or more"
        )
    if options["superclasses"] < 0 or options["superclasses"] == 1:
        raise UsageError(
            f"distill.superclasses={options['superclasses']} is out of range: give 2 or more, or 0 "
            "for the data set's own"
        )
    terms = {name: make(term) for name, term in options["terms"].items()}
    for name, term in terms.items():
        if term.alone and len(terms) > 1:
            raise UsageError(
                f"distill={name} takes the whole training: it cannot stand beside "
                f"{', '.join(other for other in terms if other != name)}"
            )
        if term.only_at not in (None, at):
            raise UsageError(
                f"distill={name} trains a network from the start: use distill.at={term.only_at}"
            )
    if any(term.needs_teacher for term in terms.values()):
        _check_teacher(options, terms)


def _check_teacher(options: Mapping[str, Any], terms: Mapping[str, Any]) -> None:
    at, teacher = options["at"], options["teacher"]
    source = teacher["source"]
    if source == "dense" and at == "train":
        raise UsageError(
            "distill.at=train has no dense network to learn from yet: use distill.at=finetune, or "
            "distill.teacher.source=model, artefact or callable"
        )
    needed = {"artefact": "path", "callable": "function", "model": "model"}.get(source)
    if needed and not teacher[needed]:
        example = {
            "path": "outputs/runs/.../model",
            "function": "my_package.predict",
            "model": "resnet56",
        }
        raise UsageError(
            f"distill.teacher.source={source} needs distill.teacher.{needed}, such as "
            f"{example[needed]}"
        )
    epochs = teacher["epochs"]
    if epochs is not None and (not isinstance(epochs, int) or epochs < 0):
        raise UsageError(f"distill.teacher.epochs={epochs}: give a whole number, or null")
    if source == "model":
        _teacher_spec(teacher, (3, 32, 32), 2)  # refuses unknown names
    several = source == "artefact" and not isinstance(teacher["path"], str)
    for name, term in terms.items():
        if source == "callable" and hasattr(term, "draw"):
            raise UsageError(
                f"distill={name} makes images of the teacher's input size through its gradients, "
                "and distill.teacher.source=callable tells neither: use dense, model or artefact"
            )
        if (source == "callable" or several) and term.layers()[1]:
            what = "a callable" if source == "callable" else "several teachers"
            raise UsageError(
                f"distill={name} reads features of the teacher, and {what} gives logits alone: use "
                "kd or mimic, or another distill.teacher"
            )
        if options["cache_teacher"] and term.layers()[1]:
            raise UsageError(
                f"distill.cache_teacher keeps logits alone, and distill={name} reads features of "
                "the teacher: use distill.cache_teacher=false"
            )


def check_fixed(options: Mapping[str, Any], augment: Any, damaged: bool) -> None:
    """Refuse to keep what the teacher answers to images that are not always the same.

    damaged: whether the noise is one of the images.
    """
    if options["cache_teacher"] and damaged:
        raise UsageError(
            "distill.cache_teacher keeps what the teacher answers to the images as they are, and "
            "this noise changes them: set distill.cache_teacher=false"
        )
    if options["cache_teacher"] and (augment.crop or augment.flip or augment.scale < 1):
        raise UsageError(
            "distill.cache_teacher keeps one answer an image, and the train images change from "
            "epoch to epoch: set dataset.augment.crop=0 dataset.augment.flip=false "
            "dataset.augment.scale=1.0, or distill.cache_teacher=false"
        )


def check_layers(
    options: Mapping[str, Any], student: nn.Module, teacher: nn.Module | None, images: Tensor
) -> None:
    """Refuse layers that are not there or do not meet, before the first epoch.

    student, teacher: before any cut, which changes widths alone; without storage if need be, as
    the images. teacher: None where it gives logits alone.
    """
    made = {name: make(term) for name, term in options["terms"].items()}
    terms = {n: term for n, term in made.items() if term.weight and not hasattr(term, "grow")}
    own, other = _taps(terms, student, teacher)
    try:
        shapes = [_shapes(n, taps, images) for n, taps in ((student, own), (teacher, other))]
    except (RuntimeError, NotImplementedError):
        return  # a network that needs real values: the stage itself will tell
    with torch.random.fork_rng(devices=[]):
        for term in terms.values():
            if hasattr(term, "adapter"):
                term.adapter(*shapes, tuple(images.shape[1:]))


def reads(options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the distill group that a stage with terms depends on, for its key."""
    found = {name: options[name] for name in ("label_weight", "terms")}
    if options["sampler"] != "none":
        found["sampler"] = {n: options[n] for n in ("sampler", "per_group", "superclasses")}
    if options["cache_teacher"]:
        found["cache_teacher"] = True
    if options["teacher"]["source"] == "callable" and needs_teacher(options):
        # under the name that the digest of its source is found by
        found["teacher"] = {"_target_": options["teacher"]["function"]}
    return found


def needs_teacher(options: Mapping[str, Any]) -> bool:
    return any(make(term).needs_teacher for term in options["terms"].values())


def _teacher_spec(teacher: Mapping[str, Any], size: tuple[int, ...], classes: int) -> Spec:
    """Of source=model: one of this tool's networks, its other options at their defaults."""
    from compressor import models

    arguments = models.full_arguments(teacher["model"], teacher["arguments"], "distill.teacher")
    return Spec(f"compressor.models.{teacher['model']}", arguments, tuple(size), classes)


def teacher_spec(options: Mapping[str, Any], student: Spec) -> Spec:
    return _teacher_spec(options["teacher"], student.input_size, student.num_classes)


def check_fits(teacher: Spec, student: Spec, where: str) -> None:
    """Refuse a teacher of other classes or of another input size."""
    if teacher.num_classes != student.num_classes:
        raise UsageError(
            f"the teacher {where} has {teacher.num_classes} classes, the student "
            f"{student.num_classes}: choose one that was trained on the same classes"
        )
    if tuple(teacher.input_size) != tuple(student.input_size):
        sizes = ["x".join(map(str, spec.input_size)) for spec in (teacher, student)]
        raise UsageError(
            f"the teacher {where} takes images of {sizes[0]}, the student of {sizes[1]}: set "
            "dataset.image_size and dataset.channels to the teacher's"
        )


def _one_of(key: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise UsageError(f"distill.{key}={value} is not known: choose one of {', '.join(options)}")


# -- what a stage begins with ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Taught:
    """The network to train, and what it is trained with.

    last: the last epoch is the one to take, whatever the stage's `select`.
    """

    student: nn.Module
    distillation: Distillation
    context: Context
    notes: dict[str, Any] = field(default_factory=dict)
    last: bool = False

    def finish(self, net: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
        """The plain network that is left of the trained one, and what is to be told of it."""
        for name, term in self.distillation.acting.items():
            if hasattr(term, "grow"):
                return net.net.eval(), {**self.notes, "heads": _heads(net, term, self.context)}
            if hasattr(term, "draw"):
                figures = _made(net, name, term, self.distillation, self.context)
                return net, {**self.notes, "made_images": figures}
        return net, self.notes


class Mean(nn.Module):
    """Several teachers as one: the mean of their logits."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self.nets]).mean(dim=0)


class Called(nn.Module):
    """A function of images that answers logits, and nothing else."""

    def __init__(self, name: str) -> None:
        from hydra.utils import get_object

        super().__init__()
        self.name = name
        try:
            found = get_object(name)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"distill.teacher.function={name} cannot be imported ({reason}): check the name, "
                "and that its folder is on PYTHONPATH or the one you stand in"
            ) from error
        if not callable(found):
            raise UsageError(f"distill.teacher.function={name} is nothing that can be called")
        self.function = copy.deepcopy(found) if isinstance(found, nn.Module) else found

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def distillation(
    options: Mapping[str, Any],
    net: nn.Module,
    spec: Spec,
    training: TrainingSet,
    context: Context,
    another: Callable[[int], nn.Module] | None = None,
) -> Taught:
    """options: what `reads` answers. net: the student, already of its final widths.

    training: what the stage trains on. another: the number of a head -> a network like `net` with
    other initial weights.
    """
    terms = {name: make(term) for name, term in options["terms"].items()}
    plain = Distillation(terms=terms, label_weight=options["label_weight"])
    # the control of a study of weights has them all at 0, and the same batches
    if not plain.acting and "sampler" not in options:
        return Taught(student=net, distillation=plain, context=context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(context.seed, "distill"))
        return _with_teacher(options, plain, net, spec, training, context, another)


def _with_teacher(
    options: Mapping[str, Any],
    plain: Distillation,
    net: nn.Module,
    spec: Spec,
    training: TrainingSet,
    context: Context,
    another: Callable[[int], nn.Module] | None,
) -> Taught:
    terms = plain.acting
    teacher, key = None, ""
    if any(term.needs_teacher for term in plain.terms.values()):
        teacher, key = _teacher(options, context)
        _check_answer(teacher, spec, context)
    for term in terms.values():
        if hasattr(term, "grow"):
            net = term.grow(net, another)
    own, other = _taps(terms, net, teacher)
    (images,) = context.task.example_inputs(spec.input_size, 2)
    adapters = {}
    for name, term in terms.items():
        if hasattr(term, "adapter"):
            shapes = [_shapes(n, taps, images) for n, taps in ((net, own), (teacher, other))]
            made = term.adapter(*shapes, spec.input_size)
            if made is not None:
                adapters[name] = made
    logits = _Logits(teacher, key, context)
    for term in terms.values():
        if getattr(term, "surveys", False):
            term.survey(logits())
    notes: dict[str, Any] = {}
    # a method that makes its images reads none of the real ones
    blind = any(hasattr(term, "draw") and not term.beside for term in terms.values())
    if teacher is not None and not blind and context.data.size("val"):
        notes["teacher_val"] = _figure(teacher, context)
        context.note(f"the teacher's validation {notes['teacher_val']}")
    return Taught(
        student=net,
        distillation=replace(
            plain,
            teacher=teacher,
            logits=logits() if options.get("cache_teacher") else None,
            adapters=adapters,
            student_taps=own,
            teacher_taps=other,
            groups=_groups(options.get("sampler"), teacher, training, context),
            per_group=options["sampler"]["per_group"] if "sampler" in options else 1,
        ),
        context=context,
        notes=notes,
        last=blind,
    )


def _taps(
    terms: Mapping[str, Any], net: nn.Module, teacher: nn.Module | None
) -> tuple[dict[str, tuple[Tap, ...]], dict[str, tuple[Tap, ...]]]:
    """What the terms read of the student and of the teacher."""
    own, other = {}, {}
    for term in terms.values():
        student_layers, teacher_layers = term.layers()
        own |= {name: places(net, name, "student") for name in student_layers}
        other |= {name: places(teacher, name, "teacher") for name in teacher_layers}
    return own, other


def _teacher(options: Mapping[str, Any], context: Context) -> tuple[nn.Module, str]:
    """Loaded afresh, so that nothing done to the student reaches it; and what identifies it."""
    if "teacher" in options:
        name = options["teacher"]["_target_"]
        net: nn.Module = Called(name)
        from compressor.instantiation import sources

        key = key_of(function=name, code=sources(options["teacher"]))
    else:
        roles = [role for role in context.roles if role.startswith("teacher")]
        nets = [context.roles[role].network(context.trust) for role in sorted(roles)]
        net = nets[0] if len(nets) == 1 else Mean(nets)
        key = key_of(teachers=[context.roles[role].key for role in sorted(roles)])
    return net.eval().requires_grad_(False), key


def _check_answer(teacher: nn.Module, spec: Spec, context: Context) -> None:
    """One forward tells whether the teacher takes these images and answers these classes."""
    (images,) = context.task.example_inputs(spec.input_size, 2)
    size = "x".join(map(str, spec.input_size))
    try:
        with torch.no_grad():
            logits = context.task.outputs(teacher(images))["logits"]
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"the teacher cannot answer images of {size}: {reason}") from error
    if not isinstance(logits, Tensor) or tuple(logits.shape[:2]) != (2, spec.num_classes):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"the teacher answers 2 images with {shape}, the student with (2, {spec.num_classes}): "
            "choose one that was trained on the same classes"
        )


def _shapes(
    net: nn.Module | None, taps: Mapping[str, tuple[Tap, ...]], images: Tensor
) -> dict[str, list[tuple[int, ...]]]:
    """Sizes of the features of some images, by name; measured, since a cut changes the widths."""
    if net is None or not taps:
        return {}
    found: dict[Tap, tuple[int, ...]] = {}

    def keep(tap: Tap) -> Callable[[nn.Module, Tensor], None]:
        return lambda _, value: found.__setitem__(tap, tuple(value.shape))

    training = net.training
    net.eval()
    like = next(net.parameters(), images)
    try:
        with torch.no_grad(), tapped(net, {t: keep(t) for places in taps.values() for t in places}):
            net(images.to(like.device))
    finally:
        net.train(training)
    return {name: [found[tap] for tap in here] for name, here in taps.items()}


class _Logits:
    """The teacher's logits on the un-augmented train part, computed once for all runs."""

    def __init__(self, teacher: nn.Module | None, key: str, context: Context) -> None:
        self.teacher = teacher
        self.context = context
        self.key = key_of(
            stage="teacher", version=VERSION, teacher=key, data=context.data_key,
            task=type(context.task).__name__,
        )  # fmt: skip

    def __call__(self) -> Tensor:
        from safetensors.torch import load_file, save_file

        def take(folder: Path) -> None:
            self.context.note("the teacher answers the train part")
            save_file({"logits": self._answers()}, folder / "logits.safetensors")

        self.context.cache.obtain(self.key, "teacher", take)
        return load_file(self.context.cache.folder(self.key) / "logits.safetensors")["logits"]

    def _answers(self) -> Tensor:
        parts = [
            self.context.task.outputs(out)["logits"].float().cpu()
            for out in _over_train(self.teacher, self.context, lambda images: self.teacher(images))
        ]
        return torch.cat(parts)


def _over_train(net: nn.Module, context: Context, ask: Callable[[Tensor], Any]) -> list[Any]:
    """`ask` of every batch of the train part, in order and without augmentation."""
    device = context.machine.device
    net.to(device)
    loader = context.data.loader(
        "train", context.machine.eval_batch_size, workers=context.machine.workers
    )
    with torch.no_grad():
        answers = [ask(context.task.loss_inputs(batch)[0].to(device)) for batch in loader]
    net.to("cpu")
    return answers


def _figure(net: nn.Module, context: Context) -> dict[str, float]:
    loader = context.data.loader(
        "val", context.machine.eval_batch_size, workers=context.machine.workers
    )
    found = evaluate(
        net, context.task, loader, context.machine.device, num_classes=context.data.num_classes
    )
    net.to("cpu")
    name = context.task.headline[0]
    return {name: found[name]}


# -- what batches are drawn from ------------------------------------------------------------------


def _groups(
    options: Mapping[str, Any] | None,
    teacher: nn.Module | None,
    training: TrainingSet,
    context: Context,
) -> Tensor | None:
    """(n,) int64: the group of every sample, None for batches by lot."""
    if options is None:
        return None
    targets = context.targets if training.targets is None else training.targets
    if targets.ndim == 2:  # distributions over the classes
        targets = targets.argmax(dim=1)
    if options["sampler"] == "class_uniform":
        return targets.clone()
    if options["superclasses"] == 0:
        coarse = getattr(context.data, "superclasses", ())
        if not coarse:
            raise UsageError(
                f"distill.superclasses=0 asks for the data set's own, and {context.data.name} has "
                "none: give how many k-means shall find"
            )
        return torch.tensor(coarse)[targets]
    if teacher is None:
        raise UsageError("distill.sampler=superclass_uniform needs a teacher's features")
    return _superclasses(options["superclasses"], teacher, context)


def _superclasses(count: int, teacher: nn.Module, context: Context) -> Tensor:
    """k-means groups of the teacher's normalised penultimate features, kept with the run."""
    import numpy as np
    from sklearn.cluster import KMeans

    from compressor.distill._layers import pooled

    (tap,) = places(teacher, "penultimate", "teacher")
    seen: list[Tensor] = []

    def keep(_: nn.Module, value: Tensor) -> None:
        seen.append(unit(pooled(value)).cpu())

    with tapped(teacher, {tap: keep}):
        _over_train(teacher, context, teacher)
    features = torch.cat(seen).double().numpy()
    if len(features) < count:
        raise UsageError(f"distill.superclasses={count} of {len(features)} images: give fewer")
    seed = derive(context.seed, "superclasses") % 2**32
    found = KMeans(count, n_init=4, random_state=seed).fit_predict(features)
    folder = context.folder / EXTRAS
    folder.mkdir(exist_ok=True)
    np.save(folder / "superclasses.npy", found, allow_pickle=False)
    return torch.from_numpy(found).long()


# -- what is told at the end ----------------------------------------------------------------------


def _heads(net: nn.Module, term: Any, context: Context) -> dict[str, Any]:
    """Validation accuracy of each head and of all of them together; one is kept."""
    from compressor.distill._fork import all_heads

    correct = torch.zeros(net.heads, dtype=torch.long)
    together = total = 0
    device = context.machine.device
    net.to(device)
    loader = context.data.loader("val", context.machine.eval_batch_size)
    for batch in loader:
        images, targets, _ = context.task.loss_inputs(batch)
        answers = [z.cpu() for z in all_heads(net, images.to(device))]
        correct += torch.stack([(z.argmax(dim=1) == targets).sum() for z in answers])
        together += int((term.ensemble(answers).argmax(dim=1) == targets).sum())
        total += len(targets)
    net.to("cpu")
    if not total:
        return {"count": net.heads}
    return {
        "count": net.heads,
        "val_accuracy": [int(c) / total for c in correct],
        "ensemble_val_accuracy": together / total,
        "kept": 0,
    }


def _made(
    net: nn.Module, name: str, term: Any, distillation: Distillation, context: Context
) -> dict[str, float]:
    """A sheet of made images, and how teacher and student see fresh ones."""
    maker, teacher = distillation.adapters[name].cpu().eval(), distillation.teacher.cpu()
    rng = torch.Generator().manual_seed(derive(context.seed, "sheet"))
    with torch.no_grad():
        images = term.draw(maker, max(_IMAGES, term.count), torch.device("cpu"), rng)
        answer = context.task.outputs(teacher(images))["logits"].softmax(dim=1)
        own = context.task.outputs(net.cpu().eval()(images))["logits"]
    _sheet(images[:_IMAGES], context)
    mean = answer.mean(dim=0)
    return {
        "teacher_confidence": float(answer.amax(dim=1).mean()),
        "class_entropy": float(-(mean * mean.clamp_min(1e-12).log()).sum()),
        "agreement": float((own.argmax(dim=1) == answer.argmax(dim=1)).double().mean()),
    }


def _sheet(images: Tensor, context: Context) -> None:
    """extras/generated.png: 8 images a row, in the pixels that the normalisation stands for."""
    from torchvision.utils import save_image

    mean = torch.tensor(context.data.mean).view(-1, 1, 1)
    std = torch.tensor(context.data.std).view(-1, 1, 1)
    folder = context.folder / EXTRAS
    folder.mkdir(exist_ok=True)
    save_image((images * std + mean).clamp(0, 1), folder / "generated.png", nrow=8)
