"""Multiplies out, once a network is trained, what is one layer in two for the training's sake."""

import torch
from torch import nn

from compressor.errors import RunError
from compressor.measure import count_params
from compressor.stages import Context, Given


def folded(net: nn.Module, given: Given, context: Context) -> dict[str, object]:
    """Bring `net`, in place, into the form that is measured and shipped; returns what to tell.

    It is compared with the network before.
    """
    if given.spec.handed_on() == given.spec:
        return {}
    (images,) = context.task.example_inputs(given.spec.input_size, 8)
    net.eval()
    before = count_params(net)
    with torch.no_grad():
        old = net(images)
        net.fold()
        new = net(images)
    after = count_params(net)
    error = float((new - old).abs().max() / old.abs().max().clamp_min(1e-12))
    if not error <= 1e-5:
        raise RunError(f"the folded network differs from the trained one by {error:.1e}: a bug")
    context.note(
        f"the bottleneck is multiplied out: {before:,} parameters in training, {after:,} in use"
    )
    return {"folded": {"params_before": before, "params_after": after, "error": error}}
