"""The groups that a stage with a teacher draws its batches from (`distill.sampler`)."""

import torch
from torch import Tensor, nn

from compressor.artefact import EXTRAS
from compressor.distill._layers import places, unit
from compressor.errors import UsageError
from compressor.seeding import derive
from compressor.stages import Context
from compressor.stages._distill.options import Grouping
from compressor.stages._distill.teacher import over_train
from compressor.stages._fit import TrainingSet
from compressor.taps import tapped


def batch_groups(
    grouping: Grouping | None,
    teacher: nn.Module | None,
    training: TrainingSet,
    context: Context,
) -> Tensor | None:
    """(n,) int64: the group of every sample, None for batches by lot."""
    if grouping is None:
        return None
    targets = context.targets if training.targets is None else training.targets
    if targets.ndim == 2:  # distributions over the classes
        targets = targets.argmax(dim=1)
    if grouping.sampler == "class_uniform":
        return targets.clone()
    if grouping.superclasses == 0:
        coarse = context.data.superclasses
        if not coarse:
            raise UsageError(
                f"distill.superclasses=0 asks for the data set's own, and {context.data.name} has "
                "none: give how many k-means shall find"
            )
        return torch.tensor(coarse)[targets]
    if teacher is None:
        raise UsageError("distill.sampler=superclass_uniform needs a teacher's features")
    return _superclasses(grouping.superclasses, teacher, context)


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
        over_train(teacher, context, teacher)
    features = torch.cat(seen).double().numpy()
    if len(features) < count:
        raise UsageError(f"distill.superclasses={count} of {len(features)} images: give fewer")
    seed = derive(context.seed, "superclasses") % 2**32
    found = KMeans(count, n_init=4, random_state=seed).fit_predict(features)
    folder = context.folder / EXTRAS
    folder.mkdir(exist_ok=True)
    np.save(folder / "superclasses.npy", found, allow_pickle=False)
    return torch.from_numpy(found).long()
