"""The config groups `train`, `finetune` and `pretrain`, read once when the experiment begins."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from compressor.instantiation import made
from compressor.options import hold
from compressor.pretrain import Pretext
from compressor.schema import DataKeys, FinetuningKeys, PretrainingKeys, TrainingKeys
from compressor.tasks.optimization import OptimizerOptions

_OPTIMIZER = tuple(part.name for part in fields(OptimizerOptions))
_KEYS = MappingProxyType(
    {"pretrain": PretrainingKeys, "train": TrainingKeys, "finetune": FinetuningKeys}
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a training runs and which of its epochs goes on (configs/train/_base.yaml).

    select: best, last or clean_peak, of the last phase. select_by: the validation figure that
    decides, None for the task's headline. patience: epochs of the last phase without a better
    figure after which it ends. class_weights: none or balanced.
    """

    optimizer: OptimizerOptions
    select: str = "best"
    select_by: str | None = None
    class_weights: str = "none"
    patience: int | None = None

    @classmethod
    def read(cls, group: str, tree: Mapping[str, Any]) -> "Recipe":
        """tree: the group's sub-tree. Raises UsageError for what no training can do."""
        hold(_KEYS[group], group, tree)
        values = {name: tree[name] for name in _OPTIMIZER}
        values["milestones"] = tuple(values["milestones"])
        own = ("select", "select_by", "class_weights", "patience")
        return cls(optimizer=OptimizerOptions(**values), **{name: tree[name] for name in own})

    @property
    def epochs(self) -> int:
        return self.optimizer.epochs

    def with_optimizer(self, **changes: Any) -> "Recipe":
        """changes: of `OptimizerOptions`, whose ranges are checked."""
        if "milestones" in changes:
            changes["milestones"] = tuple(changes["milestones"])
        return replace(self, optimizer=replace(self.optimizer, **changes))

    def in_key(self) -> dict[str, Any]:
        values = asdict(self)
        optimizer = values.pop("optimizer")
        return {**optimizer, "milestones": list(optimizer["milestones"]), **values}


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """The fine-tuning: a recipe, the labels and the remedy it takes, and where it begins
    (configs/finetune/_base.yaml).
    """

    recipe: Recipe
    labels: str = "auto"
    clean_fraction: float = 1.0
    clean_seed: int = 0
    robust: str = "none"
    mode: str = "finetune"
    epoch_cap: float | None = None
    rewind_epoch: int = 0

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> "Recovery":
        """tree: the `finetune` group. Raises UsageError for what no fine-tuning can do."""
        own = [part.name for part in fields(cls) if part.name != "recipe"]
        return cls(recipe=Recipe.read("finetune", tree), **{name: tree[name] for name in own})

    @property
    def is_none(self) -> bool:
        """Whether the stage hands on what it was given."""
        return self.mode == "finetune" and self.recipe.epochs == 0

    @property
    def from_scratch(self) -> bool:
        """Whether the widths alone of the cut network are kept."""
        return self.mode.startswith("scratch")

    @property
    def start(self) -> int:
        """The epoch of the recipe that it begins behind."""
        return self.rewind_epoch if self.mode == "rewind" else 0

    def with_optimizer(self, **changes: Any) -> "Recovery":
        return replace(self, recipe=self.recipe.with_optimizer(**changes))

    def in_key(self) -> dict[str, Any]:
        """What the chosen mode depends on."""
        own = {name: value for name, value in vars(self).items() if name != "recipe"}
        for name, mode in {"epoch_cap": "scratch_b", "rewind_epoch": "rewind"}.items():
            if self.mode != mode:
                del own[name]
        return {**self.recipe.in_key(), **own}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """The start without labels: a recipe and the task (configs/pretrain/_base.yaml).

    pretext: the task, None for no pretraining. frozen: whether the training that follows leaves
    the trunk as it is. tree: the sub-tree of the pretext, for keys.
    """

    recipe: Recipe
    pretext: Pretext | None = None
    frozen: bool = False
    tree: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> "Pretraining":
        asked = tree["pretext"]
        return cls(
            recipe=Recipe.read("pretrain", tree),
            pretext=None if asked is None else made(asked, Pretext),
            frozen=bool(tree["frozen"]) and asked is not None,
            tree=asked,
        )

    @property
    def is_none(self) -> bool:
        return self.pretext is None

    def in_key(self) -> dict[str, Any]:
        return {**self.recipe.in_key(), "pretext": self.tree}


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """The trainings of a run. balanced: whether every class is visited equally often."""

    pretrain: Pretraining
    train: Recipe
    finetune: Recovery
    balanced: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "Recipes":
        """config: the whole one; a number stands in for each `auto` of a recipe."""
        hold(DataKeys, "dataset", config["dataset"])
        return cls(
            pretrain=Pretraining.read(config["pretrain"]),
            train=Recipe.read("train", config["train"]),
            finetune=Recovery.read(config["finetune"]),
            balanced=config["dataset"]["sampler"] == "balanced",
        )

    def resolved(self, config: Mapping[str, Any]) -> "Recipes":
        """The same trainings, with the numbers that the data decided. config: it has no `auto`."""
        pretrain = replace(self.pretrain, recipe=Recipe.read("pretrain", config["pretrain"]))
        train, finetune = Recipe.read("train", config["train"]), Recovery.read(config["finetune"])
        return replace(self, pretrain=pretrain, train=train, finetune=finetune)

    def of(self, stage: str) -> Recipe:
        """stage: pretrain, train or finetune."""
        return {
            "pretrain": self.pretrain.recipe,
            "train": self.train,
            "finetune": self.finetune.recipe,
        }[stage]
