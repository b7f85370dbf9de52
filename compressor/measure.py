"""Measure a network: multiply-accumulates, parameters, latency, and how well it does its task.

One convention everywhere: MACs are those of convolutions and linear layers (matrix products), at
batch 1, without biases, batch norms and activations: half of what torch's own counter says.
"""

import copy
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.errors import RunError, UsageError


def count_macs(net: nn.Module, input_size: tuple[int, int, int]) -> int:
    """MACs of one eval-mode forward of one image; exactly FlopCounterMode's total, halved.

    input_size: (C, H, W). Counted on a meta-device copy, so that no arithmetic is done; a network
    whose forward needs real tensors is run for real. `net` stays as it is, its modes too.
    """
    try:
        return _count(_meta_copy(net), input_size)
    except Exception:  # whatever foreign code does on meta tensors, the real forward decides
        try:
            with evaluating(net):
                return _count(net, input_size)
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"the network cannot take an image of {'x'.join(map(str, input_size))} ({reason}); "
                "change dataset.image_size or choose another model"
            ) from error


def count_params(net: nn.Module) -> int:
    """Elements of all parameters, shared ones once; buffers are not counted."""
    return sum(parameter.numel() for parameter in net.parameters())


def rounds(
    nets: Mapping[str, nn.Module],
    sizes: Mapping[str, tuple[int, int, int]],
    batch_size: int = 1,
    *,
    threads: int | None = None,
    least: int = 18,
    most: int = 200,
    seconds: float = 2.0,
    limit: float = math.inf,
) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of one forward of each network, in turns, so that a busy spell hits all.

    A round goes through the networks and back again, the next one the other way round. A network's
    figure is the faster of the two: an interruption only makes slower, and seldom hits both. (Two
    networks of 1 ms, nine processes on two cores, 200 rounds: the ratio's interval was 0.87 to
    0.98, and 0.16 to 6.6 by the mean of the two.)

    sizes: (C, H, W) by name. threads: CPU threads during the measurement (default: as set now).
    Ends after `most` rounds, or after `seconds` inside forwards once `least` rounds are done, or
    once `limit` is spent and one round is done. Returns {name: (R,) milliseconds by round} and the
    seconds that were spent, warm-up included.
    """
    if batch_size < 1 or most < 1 or (threads is not None and threads < 1):
        raise UsageError(
            f"latency with batch_size={batch_size}, most={most}, threads={threads}: "
            "all must be 1 or more"
        )
    before = torch.get_num_threads()
    times: dict[str, list[float]] = {name: [] for name in nets}
    inputs = {name: _images(net, sizes[name], batch_size) for name, net in nets.items()}
    spent = 0.0
    try:
        torch.set_num_threads(threads or before)
        with evaluating(*nets.values()), torch.inference_mode():
            for name, net in nets.items():
                for _ in range(3):  # the first calls choose kernels and touch fresh memory
                    spent += forward_ms(net, inputs[name]) / 1e3
            warm = spent
            for done in range(most):
                if (done and spent > limit) or (done >= least and spent - warm > seconds):
                    break
                order = list(nets) if done % 2 == 0 else list(reversed(nets))
                both: dict[str, list[float]] = {name: [] for name in nets}
                for name in (*order, *reversed(order)):
                    both[name].append(forward_ms(nets[name], inputs[name]))
                for name, milliseconds in both.items():
                    times[name].append(min(milliseconds))
                    spent += sum(milliseconds) / 1e3
    finally:
        torch.set_num_threads(before)
    return times, spent


def forward_ms(net: nn.Module, images: Tensor) -> float:
    """Milliseconds of one forward, the accelerator's queue included. The one place with a clock."""
    start = time.perf_counter()
    net(images)
    if images.device.type != "cpu":
        torch.accelerator.synchronize(images.device)
    return (time.perf_counter() - start) * 1e3


def evaluate(
    net: nn.Module,
    task: Any,
    loader: Iterable,
    device: torch.device | str,
    *,
    num_classes: int | None = None,
) -> dict[str, float | list[float | None]]:
    """The task's metrics of `net` over all batches of `loader`, in eval mode; modes are restored.

    A vector, such as a figure of each class, comes as a list, None where it is not a number.

    task: `loss_inputs(batch) -> (inputs, targets, index)`, `outputs(net_out) -> dict`, and
    `metrics(num_classes)`, a metric collection with to, update and compute. num_classes: by
    default what `compressor.models` noted on the network. The network moves to `device` and stays.
    """
    classes = num_classes if num_classes is not None else getattr(net, "num_classes", None)
    if classes is None:
        raise UsageError(
            f"{type(net).__name__} does not say how many classes it has; pass num_classes"
        )
    net.to(device)
    meter = task.metrics(classes).to(device)
    batches = 0
    with evaluating(net), torch.inference_mode():
        for batch in loader:
            inputs, targets, _ = task.loss_inputs(batch)
            out = task.outputs(net(_move(inputs, device)))
            meter.update(out, _move(targets, device))
            batches += 1
    if not batches:
        raise RunError("nothing to evaluate on: the data part has 0 batches; check dataset.*")
    return {name: _plain(value) for name, value in meter.compute().items()}


def _plain(value: Tensor) -> float | list[float | None]:
    if value.ndim == 0:
        return float(value)
    # JSON has no NaN
    return [None if each != each else each for each in value.tolist()]


def _meta_copy(net: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters and buffers hold no data; `net` is only read."""
    memo: dict[int, Tensor] = {}
    for parameter in net.parameters():
        empty = torch.empty_like(parameter, device="meta", requires_grad=False)
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in net.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for module in net.modules():
        for value in vars(module).values():
            # what weight norm makes before each forward: a tensor with a history has no copy
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = torch.empty_like(value, device="meta", requires_grad=False)
    # deepcopy takes what the memo holds for the copy of that object: no weight is ever copied.
    return copy.deepcopy(net, memo).eval()


def _count(net: nn.Module, input_size: tuple[int, int, int]) -> int:
    fast = torch.backends.mha.get_fastpath_enabled()
    # The fused attention of eval mode is one operator that the counter does not know.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(_images(net, input_size, 1))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


def _images(net: nn.Module, input_size: tuple[int, int, int], batch_size: int) -> Tensor:
    """Zeros (B, C, H, W) on the network's device, in its precision."""
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(batch_size, *input_size, device=like.device, dtype=like.dtype)


@contextmanager
def evaluating(*nets: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for net in nets for module in net.modules()]
    try:
        for net in nets:
            net.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _move(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _move(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_move(item, device) for item in value)
    return value
