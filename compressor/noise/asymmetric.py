"""Asymmetric noise: some classes are taken for a similar one, the others are left alone.

Patrini et al. CVPR 2017, arXiv:1609.03683, section 5 (MNIST, CIFAR-10 and CIFAR-100); Zhang,
Sabuncu. NeurIPS 2018, arXiv:1805.07836, section 4 (Fashion-MNIST).
Run: compress-run noise=asymmetric noise.rate=0.4
     compress-run noise=asymmetric noise.map='{3: 5, 5: 3}'
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.noise import Noise, Part
from compressor.noise._drawing import (
    Mode,
    choose_in_classes,
    warn_if_drowned,
)
from compressor.options import Fraction, Seed, checked

_TAG = 3  # this kind's stream under the noise seed
_DIGITS = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}
# By data set: class -> the class that it is taken for.
MAPS: Mapping[str, Mapping[int, int]] = {
    # truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog
    "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    "mnist": _DIGITS,
    "digits": _DIGITS,
    # ankle boot -> sneaker, sneaker -> sandal, pullover -> shirt, coat <-> dress
    "fashion_mnist": {9: 7, 7: 5, 2: 6, 4: 3, 3: 4},
}


def within_superclasses(superclasses: Tensor) -> dict[int, int]:
    """Every class becomes the next one of its superclass, the last one the first.

    superclasses: (K,) int64.
    """
    mapped: dict[int, int] = {}
    for group in superclasses.unique():
        members = torch.nonzero(superclasses == group).flatten().tolist()
        mapped.update(zip(members, members[1:] + members[:1], strict=True))
    return mapped


class Asymmetric(Noise):
    """A share `rate` of each mapped class flips, so that less than `rate` of all labels do.

    On CIFAR-10, where five of ten classes are mapped, half of it. map: "auto", or class -> class,
    by number or by name.
    """

    injects = True

    @checked("noise")
    def __init__(
        self,
        map: str | Mapping[object, object] = "auto",
        rate: Fraction = 0.4,
        mode: Mode = "exact",
        seed: Seed = 0,
        **shared: object,
    ) -> None:
        if isinstance(map, str) and map != "auto":
            raise UsageError(
                f"noise.map={map} is no map: give noise.map=auto or noise.map='{{3: 5, 5: 3}}', say"
            )
        self.map = map
        self.rate = float(rate)
        self.mode = mode
        self.seed = int(seed)

    def corrupt(self, part: Part) -> Tensor:
        mapped = self._mapped(part)
        warn_if_drowned(self.rate, 0.5, self.rate)
        rng = np.random.default_rng([self.seed, _TAG])
        clean = part.labels.numpy()
        classes = np.array(sorted(mapped), dtype=np.int64)
        chosen = choose_in_classes(rng, clean, self.rate, self.mode, classes)
        becomes = np.arange(part.num_classes)
        becomes[classes] = [mapped[label] for label in classes.tolist()]
        given = clean.copy()
        given[chosen] = becomes[clean[chosen]]
        return torch.from_numpy(given)

    def _mapped(self, part: Part) -> dict[int, int]:
        if not isinstance(self.map, str):
            numbers = [(_number(a, part), _number(b, part)) for a, b in self.map.items()]
            mapped = {a: b for a, b in numbers if a != b}
            if not mapped:
                raise UsageError(
                    f"noise.map={dict(self.map)} takes no class for another one: give "
                    "noise.map='{3: 5, 5: 3}', say"
                )
            return mapped
        if part.superclasses is not None:
            return within_superclasses(part.superclasses)
        if part.dataset not in MAPS:
            raise UsageError(
                f"noise=asymmetric knows no map for dataset={part.dataset or '(unnamed)'}: give "
                "one as noise.map='{3: 5, 5: 3}' (class: the class that it is taken for)"
            )
        return dict(MAPS[part.dataset])


def _number(label: object, part: Part) -> int:
    text = str(label)
    if text in part.class_names:
        return part.class_names.index(text)
    if text.isdigit() and int(text) < part.num_classes:
        return int(text)
    names = f" or one of {', '.join(part.class_names[:10])}" if part.class_names else ""
    raise UsageError(
        f"noise.map names class '{label}', which the data set does not have: give a number from 0 "
        f"to {part.num_classes - 1}{names}"
    )
