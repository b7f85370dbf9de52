"""The layers that distillation terms read, of the student and of the teacher, and their sizes."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from compressor.distill import Term
from compressor.distill._layers import places
from compressor.taps import Tap, tapped


def taps_of(
    terms: Mapping[str, Term], net: nn.Module, teacher: nn.Module | None
) -> tuple[dict[str, tuple[Tap, ...]], dict[str, tuple[Tap, ...]]]:
    """What the terms read of the student and of the teacher."""
    own, other = {}, {}
    for term in terms.values():
        student_layers, teacher_layers = term.layers()
        own |= {name: places(net, name, "student") for name in student_layers}
        other |= {name: places(teacher, name, "teacher") for name in teacher_layers}
    return own, other


def shapes_of(
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
