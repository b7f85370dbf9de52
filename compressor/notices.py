"""What a run may do and its author may not have meant: a line each, under the printed plan."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.cache import key_of
from compressor.errors import UsageError
from compressor.instantiation import parameters
from compressor.measure import count_params
from compressor.noise.symmetric import Symmetric
from compressor.stages import _classes, compress
from compressor.stages._blank import without_storage

if TYPE_CHECKING:
    from compressor.artefact import Spec
    from compressor.experiment import Experiment
    from compressor.plan import RunPlan

_DECAY = 0.005  # sgd's weight decay above which a network hardly learns; usual are 1e-4 to 5e-4
_UNEQUAL = 5  # largest class / smallest above which plain accuracy and a plain loss mislead
_STEPS = 12  # halvings on the way to the least factor of a scaler
_clamps: dict[str, list[str]] = {}  # of this process: other members of a sweep scale alike


def notices(plan: "RunPlan") -> list[str]:
    run = plan.run
    return [
        *_changed_code(plan), *_started(plan), *_uncut(plan), *_untrained(plan),
        *_unread_prune(plan), *_in_part(plan), *_clamped(run),
        *_unread_noise(run), *_phases(run), *_remedy(run), *_decay(plan), *_untaught(plan),
        *_unequal(plan), *_unread_figure(plan), *run.data.notices,
        *(run.data.absences() if run.task.labelled else ()),
    ]  # fmt: skip


def _changed_code(plan: "RunPlan") -> list[str]:
    return [
        f"{file} changed since this was done before: {', '.join(titles)} made again"
        for file, titles in plan.changed_code().items()
    ]


def _cuts(plan: "RunPlan") -> bool:
    return any(step.stage == "compress" and not step.identity for step in plan.steps)


def _trains(plan: "RunPlan") -> bool:
    return any(step.stage == "train" for step in plan.steps)


def _started(plan: "RunPlan") -> list[str]:
    """What a start has to say, and options of a training that a walk without one does not read."""
    run = plan.run
    found = [] if run.started is None else list(run.started.notices)
    fed = None if run.started is None else run.started.preprocess
    if fed is not None and (fed.mean, fed.std) != (run.preprocess.mean, run.preprocess.std):
        found.append(
            "the images are normalised otherwise than those that the network of start.path was "
            f"trained on: mean {_short(run.preprocess.mean)}, std {_short(run.preprocess.std)}, "
            f"then {_short(fed.mean)}, {_short(fed.std)}"
        )
    if _trains(plan):
        epochs = run.recipes.train.epochs
        rehearsed = run.remedy.rehearsals(run.data.size("train"), epochs)[0]
        if run.started is not None and rehearsed:
            found.append(
                f"the trainings that {_option(run, 'robust')} learns from begin with the started "
                "network: if it was trained on these labels, what it says of them is no evidence"
            )
        return found
    unread = {
        "regularize": not run.regularizer.is_none,
        "robust": not run.remedy.is_none and run.recipes.finetune.robust != "same",
    }
    return found + [
        f"{_option(run, group)} does nothing: it is part of the stage train, which this run has not"
        for group, chosen in unread.items()
        if chosen
    ]


def _option(run: "Experiment", group: str) -> str:
    return f"{group}={run.config[group]['_target_'].split('.')[-2]}"


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _uncut(plan: "RunPlan") -> list[str]:
    """Ways to recover from a cut, where there was none."""
    if _cuts(plan):
        return []
    found = []
    for before, step in zip(plan.steps, plan.steps[1:], strict=False):
        if step.stage != "finetune" or step.identity:
            continue
        mode = step.options.recovery.mode
        if mode.startswith("scratch") and _trains(plan):
            found.append(f"finetune={mode}: nothing is cut, so the dense network is trained twice")
        elif mode == "rewind":
            epoch = step.options.recovery.start
            found.append(
                f"finetune=rewind: nothing is cut, so the dense training is run again from epoch "
                f"{epoch} on"
            )
        elif step.roles.get("teacher") == before.key:
            terms = step.options.teaching.names
            found.append(
                f"distill={terms}: nothing is cut, so the network begins as its own teacher and "
                "has nothing to learn from it"
            )
    return found


def collapsed(cut: Mapping[str, Any]) -> list[str]:
    """Layers that a budget takes to the least width, counted as the report counts them.

    cut: `compress.preview`'s.
    """
    least = cut["least"]
    thin = [name for name, (size, keep) in cut["widths"].items() if keep <= least and keep < size]
    if not cut["budget"] or cut["decided"] or not thin:
        return []
    ((name, share),) = cut["budget"].items()
    few = ", ".join(thin[:3]) + (", ..." if len(thin) > 3 else "")
    return [
        f"prune.budget.{name}={share} takes {len(thin)} of {len(cut['widths'])} layers to the "
        f"least width, {least} channel{'' if least == 1 else 's'} ({few}): such a network may not "
        "recover; take a larger budget, raise prune.min_channels, or cut more layers"
    ]


def _untaught(plan: "RunPlan") -> list[str]:
    """Distillation that no stage does, or that has nothing to teach."""
    teaching, recipes = plan.run.teaching, plan.run.recipes
    if teaching.is_none:
        return []
    name, at = teaching.names, teaching.at
    if not any(step.stage == at and not step.identity for step in plan.steps):
        return [f"distill={name} does nothing: distill.at={at}, and nothing is trained there"]
    labels, found = teaching.label_weight, []
    if not labels and not teaching.acting:
        found.append(
            f"distill={name}: its weights and distill.label_weight are 0, so that the network "
            "learns nothing"
        )
    makers = {name: term for name, term in teaching.terms.items() if term.makes_images}
    blind = any(not term.reads_images for term in makers.values())
    if (blind or not labels) and recipes.of(at).class_weights != "none":
        found.append(
            f"{at}.class_weights does nothing beside distill={name}: it weighs the loss of the "
            f"labels alone, which has no part (distill.label_weight={labels:g})"
        )
    for name, term in makers.items():
        if term.reads_images and not labels:
            found.append(
                f"distill.terms.{name}.beside=true does nothing beside distill.label_weight=0"
            )
        for group in ("distill", "dataset"):
            sampler = plan.run.config[group]["sampler"]
            if not term.reads_images and sampler != "none":
                found.append(
                    f"{group}.sampler={sampler} does nothing: distill={name} reads no image"
                )
    return found


def _trained(plan: "RunPlan") -> list[str]:
    """Those of the trainings with labels that this run has."""
    run = {step.stage for step in plan.steps if not step.identity}
    return [
        name for name in ("train", "finetune") if name in run and plan.run.recipes.of(name).epochs
    ]


def _unequal(plan: "RunPlan") -> list[str]:
    """Classes so unequal that the frequent ones decide the loss and the accuracy."""
    experiment, stages = plan.run, _trained(plan)
    labels, recipes = experiment.labels, experiment.recipes
    found = _classes.counts(labels.given, labels.labelled, experiment.data.num_classes)
    if not stages or _classes.ratio(found) <= _UNEQUAL:
        return []
    present = found > 0
    most, least = int(found.argmax()), int(found.masked_fill(~present, float("inf")).argmin())
    names = experiment.data.classes
    words = []
    if not recipes.balanced:
        plain = [name for name in stages if recipes.of(name).class_weights == "none"]
        if plain:
            words.append(
                " ".join(f"{name}.class_weights=balanced" for name in plain)
                + ", or dataset.sampler=balanced, gives each class the same weight"
            )
    picks = [
        name
        for name in stages
        if (recipes.of(name).select, recipes.of(name).select_by) == ("best", "accuracy")
    ]
    if picks and "balanced_accuracy" in experiment.task.metrics(len(found)).keys():
        words.append(
            " ".join(f"{name}.select_by=balanced_accuracy" for name in picks)
            + " picks the epoch by all classes alike"
        )
    if not words:
        return []
    return [
        f"the classes are unequal: {int(found[most]):,} train images of '{names[most]}' and "
        f"{int(found[least]):,} of '{names[least]}'; {'; '.join(words)}"
    ]


def _unread_figure(plan: "RunPlan") -> list[str]:
    """A figure to pick the epoch by where another one, or none, picks it."""
    found = []
    for name in _trained(plan):
        own = plan.run.recipes.of(name)
        read = own.select == "best" or (own.select == "last" and own.patience is not None)
        if own.select_by != "accuracy" and not read:
            found.append(
                f"{name}.select_by={own.select_by} does nothing beside {name}.select={own.select}"
            )
    return found


def _untrained(plan: "RunPlan") -> list[str]:
    """A criterion whose paper prepares the network for it; how a started one was is not known."""
    if not (_cuts(plan) and _trains(plan)) or not plan.run.regularizer.is_none:
        return []
    method = plan.run.pruning.method
    if method.trained_with is None:
        return []
    return [
        f"prune={method.name} works, but its paper trains the network with "
        f"regularize={method.trained_with}"
    ]


def _unread_prune(plan: "RunPlan") -> list[str]:
    """LAMP, which one allocation alone reads; the other ways of `normalize` are methods' own."""
    asked = plan.run.pruning.widths
    if asked.normalize != "lamp" or asked.allocation == "global" or not _cuts(plan):
        return []
    return [
        f"prune.normalize=lamp does nothing beside prune.allocation={asked.allocation}: it makes "
        "the scores of layers comparable for prune.allocation=global"
    ]


def _in_part(plan: "RunPlan") -> list[str]:
    """Names in prune.skip and prune.ratios that hold a part of some layer's channels."""
    return compress.in_part(plan.run.blank(), plan.run.pruning) if _cuts(plan) else []


def _unread_noise(experiment: "Experiment") -> list[str]:
    """Options of noise that this kind does not read; all kinds have them for the sweeps' sake."""
    asked = experiment.config["noise"]
    name = asked["_target_"].split(".")[-2]
    if name == "none":
        return []
    known = parameters(asked["_target_"])
    signature = inspect.signature(Symmetric).parameters
    usual = {key: signature[key].default for key in ("rate", "mode", "include_true", "stratified")}
    usual["seed"] = experiment.config["seed"]
    return [
        f"noise.{key}={str(asked[key]).lower()} does nothing beside noise={name}"
        for key, value in usual.items()
        if key in asked and key not in known and asked[key] != value
    ]


def _phases(experiment: "Experiment") -> list[str]:
    """A training too short for what its remedy does in turn."""
    total = experiment.recipes.train.epochs if experiment.trains else 0
    phases = [phase.epochs for phase in experiment.remedy.phases(total)]
    if not total or len(phases) == 1 or all(phases):
        return []
    shown = ", ".join(map(str, phases))
    return [f"train.epochs={total} leaves the phases of this remedy {shown} epochs"]


def _remedy(experiment: "Experiment") -> list[str]:
    """What a remedy has to say, and one whose paper counts on one way of optimising."""
    remedy, train = experiment.remedy, experiment.recipes.train.optimizer
    if not experiment.trains:
        return []
    here = train.optimizer
    found = remedy.cautions(train.epochs, train.schedule, experiment.data.num_classes)
    found = [*remedy.follows(experiment.labels.injected_rate), *found]
    if remedy.optimizer in (None, here):
        return found
    name = type(remedy).__module__.rpartition(".")[2]
    return [
        *found,
        f"robust={name} works with train.optimizer={here}, but its paper counts on "
        f"train.optimizer={remedy.optimizer} at a high train.lr, which keeps a network from "
        "memorising wrong labels",
    ]


def _decay(plan: "RunPlan") -> list[str]:
    """The decay of adamw's recipe under sgd, where it is no longer decoupled from the gradient."""
    for name in ("train", "finetune"):
        own = plan.run.recipes.of(name).optimizer
        runs = any(step.stage == name and not step.identity for step in plan.steps)
        if runs and own.epochs and own.optimizer == "sgd" and own.weight_decay > _DECAY:
            return [
                f"{name}.weight_decay={own.weight_decay:g} is far above what sgd is used with: "
                f"a recipe of adamw may have left it; {name}.weight_decay=1e-4 is usual"
            ]
    return []


def _clamped(experiment: "Experiment") -> list[str]:
    """Factors so small that the model cannot follow: channels and blocks have a least number."""
    if experiment.spec == experiment.unscaled:
        return []
    key = key_of(**{name: experiment.config[name] for name in ("model", "dataset", "scale")})
    if key not in _clamps:
        _clamps[key] = list(_too_small(experiment))
    return _clamps[key]


def _too_small(experiment: "Experiment") -> Iterator[str]:
    for name in ("width", "depth"):
        factor = experiment.config["scale"].get(name, 1.0)
        if not factor < 1:
            continue
        here = _params(experiment, experiment.spec)

        def same(tried: float, name: str = name, here: int = here) -> bool:
            try:
                return _params(experiment, experiment.scaled({name: tried})) == here
            except (UsageError, RuntimeError):  # a class of one's own may refuse
                return False

        if not same(factor / 2):
            continue
        low, high = factor, 1.0
        for _ in range(_STEPS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if same(middle) else (low, middle)
        yield (
            f"scale.{name}={factor} is less than this model can follow (a layer keeps 8 channels, "
            f"a stage one block): every value up to about {low:.2g} gives this network"
        )


def _params(experiment: "Experiment", spec: "Spec") -> int:
    return count_params(without_storage(spec, experiment.trust))
