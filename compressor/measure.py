"""Measure a network: multiply-accumulates, parameters, latency, and how well it does its task.

One convention everywhere: MACs are those of convolutions and linear layers (matrix products), at
batch 1, without biases, batch norms and activations: half of what torch's own counter says.
"""

import copy
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
            with _evaluating(net):
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


def latency(
    nets: Mapping[str, nn.Module],
    input_size: tuple[int, int, int],
    batch_size: int = 1,
    *,
    threads: int | None = None,
    repeats: int = 50,
    seconds: float = 10.0,
) -> dict[str, dict[str, float | int]]:
    """Milliseconds of one forward of each network, measured in turns so that a busy spell hits all.

    input_size: (C, H, W). threads: CPU threads during the measurement (default: as set now).
    Ends after `repeats` rounds, or after `seconds` once three rounds are done. Returns, for each
    name, {median, low, high, batch_size, threads}; low and high are the 10th and 90th percentile.
    """
    if batch_size < 1 or repeats < 1 or (threads is not None and threads < 1):
        raise UsageError(
            f"latency with batch_size={batch_size}, repeats={repeats}, threads={threads}: "
            "all must be 1 or more"
        )
    before = torch.get_num_threads()
    times: dict[str, list[float]] = {name: [] for name in nets}
    inputs = {name: _images(net, input_size, batch_size) for name, net in nets.items()}
    try:
        torch.set_num_threads(threads or before)
        with _evaluating(*nets.values()), torch.inference_mode():
            for name, net in nets.items():
                for _ in range(3):  # the first calls choose kernels and touch fresh memory
                    _timed(net, inputs[name])
            start = time.perf_counter()
            for turn in range(repeats):
                if turn >= 3 and time.perf_counter() - start > seconds:
                    break
                # Every other round backwards: no network always runs in another's warm cache.
                names = list(nets) if turn % 2 == 0 else list(reversed(nets))
                for name in names:
                    times[name].append(_timed(nets[name], inputs[name]))
    finally:
        torch.set_num_threads(before)
    return {
        name: {
            **_spread(measured),
            "batch_size": batch_size,
            "threads": threads or before,
        }
        for name, measured in times.items()
    }


def evaluate(
    net: nn.Module,
    task: Any,
    loader: Iterable,
    device: torch.device | str,
    *,
    num_classes: int | None = None,
) -> dict[str, float]:
    """The task's metrics of `net` over all batches of `loader`, in eval mode; modes are restored.

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
    with _evaluating(net), torch.inference_mode():
        for batch in loader:
            inputs, targets, _ = task.loss_inputs(batch)
            out = task.outputs(net(_move(inputs, device)))
            meter.update(out, _move(targets, device))
            batches += 1
    if not batches:
        raise RunError("nothing to evaluate on: the data part has 0 batches; check dataset.*")
    return {name: float(value) for name, value in meter.compute().items()}


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
def _evaluating(*nets: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for net in nets for module in net.modules()]
    try:
        for net in nets:
            net.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _timed(net: nn.Module, images: Tensor) -> float:
    """Milliseconds of one forward, the accelerator's queue included."""
    start = time.perf_counter()
    net(images)
    if images.device.type != "cpu":
        torch.accelerator.synchronize(images.device)
    return (time.perf_counter() - start) * 1e3


def _spread(milliseconds: list[float]) -> dict[str, float]:
    values = torch.tensor(milliseconds, dtype=torch.float64)
    low, median, high = torch.quantile(values, values.new_tensor([0.1, 0.5, 0.9])).tolist()
    return {"median": median, "low": low, "high": high}


def _move(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _move(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_move(item, device) for item in value)
    return value
