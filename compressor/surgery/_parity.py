"""The gate after a cut: the small network equals the dense one without the removed channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressor.errors import RunError
from compressor.surgery._cut import duplicate, replay
from compressor.surgery._forward import as_tree, watched
from compressor.surgery._plan import Plan, plan_cut
from compressor.surgery._structure import Group, Structure, output_dim

TOLERANCE = 1e-5
# rounding alone stays far below this in float64, a wrong channel far above
TOLERANCE_DOUBLE = 1e-8


def check_parity(
    dense: nn.Module, structure: Structure, plan: Plan, inputs: tuple[Tensor, ...]
) -> float:
    """Compare the cut network with the dense one whose removed channels are read with weight zero.

    Returns the error of the outputs in eval mode, relative to their largest value. A RunError
    names the layer when the outputs of either mode differ by more than 1e-5, and refuses a plan
    that cuts nothing, cuts the outputs, loses requires_grad or the mode, or cannot be trained.
    Plans that cut groups marked `mixing` change the function (a statistic runs over the channels),
    so their error is only returned. The given network stays as it is.
    """
    kept = plan.by_slot
    mixing = _check_slots(structure, kept)
    _check_cuts(dense, plan)
    small = replay(_copy_sharing(dense, set()), plan)
    check_state(dense, small)
    # Channels that are gone are the same as channels that nobody reads: zero in the consumers'
    # weights. Zeros in the producers would not do, because a bias, a shift of a batch norm or a
    # sigmoid makes something of a zero.
    read = {(s.parameter, s.dim) for g in structure.groups for s in g.consumers} & set(kept)
    masked = _copy_sharing(dense, {name for name, _ in read})
    _zero_removed(masked, read, kept)
    with _exact_arithmetic():
        try:
            error = _compare(masked.eval(), small.eval(), plan, inputs, mode="eval", mixing=mixing)
            _compare(masked.train(), small.train(), plan, inputs, mode="train", mixing=mixing)
        except RunError as refusal:
            advice = _advice(dense, structure, kept, inputs, masked.training)
            raise RunError(f"{refusal}; {advice}") from refusal
        # its weights are not needed any more beside the gradients of the step below
        del masked
        _optimizer_step(duplicate(small), inputs)
    return error


def _copy_sharing(net: nn.Module, own: set[str]) -> nn.Module:
    """A copy that shares all parameters but those named in `own`; buffers are its own."""
    return duplicate(net, shared=[p for name, p in net.named_parameters() if name not in own])


def _check_cuts(dense: nn.Module, plan: Plan) -> None:
    """Every operation removes something; a plan without one is no cut at all."""
    if not plan.cuts:
        raise RunError("the plan cuts nothing; raise prune.ratio or widen prune.scope")
    shapes = {n: t.shape for n, t in [*dense.named_parameters(), *dense.named_buffers()]}
    for cut in plan.cuts:
        for name, dim in cut.slots:
            if name in shapes and shapes[name][dim] == len(cut.kept):
                raise RunError(f"the plan keeps all of '{name}' along dimension {dim}: no cut")


def _check_slots(structure: Structure, kept: dict) -> bool:
    """Every cut slot belongs to a group; True when one of the cut groups is mixing."""
    known, mixing = set(), set()
    for group in structure.groups:
        for slot in group.slots:
            known.add((slot.parameter, slot.dim))
        if group.mixing:
            mixing |= {(s.parameter, s.dim) for s in group.producers}
    for name, dim in kept:
        if (name, dim) not in known:
            raise RunError(
                f"the plan cuts dimension {dim} of '{name}', which holds no prunable channels "
                "(an input, an output of the network, or frozen)"
            )
    return bool(mixing & set(kept))


def check_state(dense: nn.Module, small: nn.Module) -> None:
    """Refuse a cut that has left a part in another mode, or with another requires_grad."""
    for (name, old), new in zip(dense.named_parameters(), small.parameters(), strict=True):
        if old.requires_grad != new.requires_grad:
            raise RunError(f"cutting changed requires_grad of '{name}' to {new.requires_grad}")
    for (path, old), new in zip(dense.named_modules(), small.modules(), strict=True):
        if old.training != new.training:
            raise RunError(
                f"cutting changed the mode of '{path or 'the network'}' to training={new.training}"
            )


def _zero_removed(net: nn.Module, read: set[tuple[str, int]], kept: dict) -> None:
    tensors = {**dict(net.named_buffers()), **dict(net.named_parameters())}
    with torch.no_grad():
        for name, dim in read:
            gone = torch.ones(tensors[name].shape[dim], dtype=torch.bool)
            gone[list(kept[name, dim])] = False
            indices = gone.nonzero().flatten().to(tensors[name].device)
            tensors[name].index_fill_(dim, indices, 0)


# --- comparing ---------------------------------------------------------------------------------


class _NoDropout(TorchDispatchMode):
    """Random masks become ones, scaled alike in both networks: nothing is dropped."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        # nn.Dropout2d multiplies by a Bernoulli mask over the share that is kept
        if name == "bernoulli_":
            return args[0].fill_(1)
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **kwargs)


@contextmanager
def _exact_arithmetic() -> Iterator[None]:
    """TF32 on a GPU has an error of 1e-3, which would hide a wrong channel."""
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul


def _outputs(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad(), _NoDropout():
        out = as_tree(net(*inputs))
    return [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point()]


def relative_error(reference: Tensor, other: Tensor) -> float:
    """Largest difference over the largest absolute value of the reference."""
    scale = float(reference.abs().max())
    difference = float((reference - other).abs().max())
    return difference / scale if scale > 0 else difference


def _compare(
    masked: nn.Module, small: nn.Module, plan: Plan, inputs: tuple, *, mode: str, mixing: bool
) -> float:
    error = _error(masked, small, inputs)
    if mixing or error <= TOLERANCE:
        return error
    # rounding or a wrong channel? In float64 the first one vanishes
    exact = _exact_error(masked, small, inputs, error)
    if exact <= TOLERANCE_DOUBLE:
        return error if mode == "train" else min(error, exact)
    layer = _first_difference(masked, small, plan, inputs)
    raise RunError(
        f"after the cut the network computes something else in {mode} mode (relative error "
        f"{error:.1e}), first seen in layer '{layer}'"
    )


def _exact_error(masked: nn.Module, small: nn.Module, inputs: tuple, error: float) -> float:
    """The error in float64: ill-conditioned arithmetic (a batch norm over few values) is no wrong
    cut. error: what it is without.
    """
    # Apple's GPUs have no float64
    if inputs[0].device.type == "mps":
        return error
    double = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    return _error(duplicate(masked).double(), duplicate(small).double(), double)


def _advice(
    dense: nn.Module, structure: Structure, kept: dict, inputs: tuple[Tensor, ...], training: bool
) -> str:
    """What to skip: the groups whose cut alone changes the network.

    Where a difference shows says little: what depends on the number of channels does so at the
    layer that reads them.
    """
    guilty = []
    for group in structure.groups:
        slot = group.producers[0]
        if (slot.parameter, slot.dim) not in kept:
            continue
        # a group that keeps all or nothing in this plan cannot be cut by itself
        classes = torch.unique(slot.classes[list(kept[slot.parameter, slot.dim])])
        classes = classes[classes >= 0]
        if 0 < len(classes) < group.size and _changes(
            dense, group, plan_cut(structure, {group.name: classes}), inputs, training
        ):
            guilty.append(group.name)
    if not guilty:
        return "no cut of one layer alone does that: cut fewer layers with prune.skip"
    return f"the cut of {' and of '.join(guilty)} does that: type prune.skip=[{','.join(guilty)}]"


def _changes(
    dense: nn.Module, group: Group, plan: Plan, inputs: tuple[Tensor, ...], training: bool
) -> bool:
    # as check_parity does, for one group
    read = {(slot.parameter, slot.dim) for slot in group.consumers}
    small = replay(_copy_sharing(dense, set()), plan).train(training)
    masked = _copy_sharing(dense, {name for name, _ in read}).train(training)
    _zero_removed(masked, read, plan.by_slot)
    try:
        error = _error(masked, small, inputs)
        return error > TOLERANCE and (_exact_error(masked, small, inputs, error) > TOLERANCE_DOUBLE)
    except RunError:  # it does not run
        return True


def _error(masked: nn.Module, small: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    before = _outputs(masked, inputs)
    try:
        after = _outputs(small, inputs)
    except Exception as error:  # whatever a user's forward raises at a size it did not expect
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"the cut network does not run in layer '{_failing(small, inputs)}': {line}"
        ) from error
    worst = 0.0
    for left, right in zip(before, after, strict=True):
        # an output keeps its channels: they are what the network is for
        if left.shape != right.shape:
            raise RunError(
                f"the cut changed an output of the network from {tuple(left.shape)} to "
                f"{tuple(right.shape)}: the classifier was cut"
            )
        worst = max(worst, relative_error(left, right))
    return worst


def _failing(net: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """Path of the innermost module whose forward raises."""
    stack = [""]
    try:
        with watched(net, stack.append, lambda path, output: stack.pop()):
            _outputs(net, inputs)
    except Exception:
        return stack[-1]
    return ""


def _note(outputs: dict[str, Tensor], path: str, out: Tensor) -> None:
    outputs.setdefault(path, out.detach())


def _first_difference(masked: nn.Module, small: nn.Module, plan: Plan, inputs: tuple) -> str:
    """Path of the first layer whose kept outputs differ."""
    seen: list[dict[str, Tensor]] = []
    for net in (masked, small):
        outputs: dict[str, Tensor] = {}
        handles = [
            module.register_forward_hook(
                lambda m, a, out, path=path, outputs=outputs: _note(outputs, path, out)
            )
            for path, module in net.named_modules()
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        ]
        try:
            _outputs(net, inputs)
        finally:
            for handle in handles:
                handle.remove()
        seen.append(outputs)
    for path, before in seen[0].items():
        after = seen[1].get(path)
        dim = before.ndim - 1 if isinstance(masked.get_submodule(path), nn.Linear) else 1
        # the dense layer's outputs, without those that the cut has taken out
        kept = plan.by_slot.get((f"{path}.weight", output_dim(masked.get_submodule(path))))
        if kept is not None and len(kept) <= before.shape[dim]:
            before = before.index_select(dim, torch.tensor(kept, device=before.device))
        if after is None or before.shape != after.shape:
            return path
        if relative_error(before, after) > TOLERANCE:
            return path
    return "the output"


def _optimizer_step(small: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """One step of SGD on the caller's copy: gradients reach the new tensors and fit them."""
    parameters = {n: p for n, p in small.named_parameters() if p.requires_grad}
    if not parameters:
        return
    with torch.enable_grad():
        out = as_tree(small(*inputs))
        leaves = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.requires_grad]
        if not leaves:
            raise RunError("no output of the cut network depends on a trainable parameter")
        # any loss will do that depends on every output
        sum((t.float() ** 2).mean() for t in leaves).backward()
    for name, parameter in parameters.items():
        if parameter.grad is not None and parameter.grad.shape != parameter.shape:
            raise RunError(f"the gradient of '{name}' does not fit it after the cut")
    if all(p.grad is None for p in parameters.values()):
        raise RunError("no trainable parameter of the cut network gets a gradient")
    torch.optim.SGD(parameters.values(), lr=1e-3).step()
