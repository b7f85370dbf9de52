"""model.onnx: one file that any ONNX runtime opens, checked against the network it came from."""

import contextlib
import importlib
import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressor.data import ImageData
from compressor.errors import RunError
from compressor.export import Exporter, Finished
from compressor.seeding import generator
from compressor.surgery import duplicate
from compressor.tasks import Task

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOLERANCE = 1e-4  # relative to the largest output; float32 kernels differ by about 1e-6
TRACED_BATCH = 2  # torch.export takes a size of 1 for a constant
UNSEEN_BATCH = 3


class Onnx(Exporter):
    """normalize: whether the file takes bytes (uint8, 0 to 255) and normalises them itself."""

    name = "onnx"
    files = ("model.onnx",)

    def __init__(self, normalize: bool = False) -> None:
        self.normalize = normalize

    def write(self, finished: Finished, run_dir: Path) -> Mapping[str, float]:
        preprocess, inside = finished.data.preprocess, self.normalize
        about = {
            "preprocess": preprocess.to_json(),
            "classes": list(finished.data.classes),
            "input": {
                "layout": "NCHW",
                "dtype": "uint8" if inside else "float32",
                "value_range": [0, 255] if inside else "as after mean and std",
                "normalized_in_graph": inside,
            },
        }
        error = export_onnx(
            finished.network(),
            finished.made.spec.input_size,
            run_dir / "model.onnx",
            first=preprocess.normalisation() if inside else None,
            about={key: json.dumps(value, ensure_ascii=False) for key, value in about.items()},
        )
        return {"onnx": error}

    def check(self, finished: Finished, run_dir: Path) -> Mapping[str, float]:
        data, task, size = finished.data, finished.task, finished.eval_batch_size
        batches = _bytes_of(data, size) if self.normalize else data.loader("test", size)
        with torch.inference_mode():
            like = finished.network()(*task.example_inputs(finished.made.spec.input_size, 1))
        found = judge(run_dir / "model.onnx", batches, task, data.num_classes, like)
        return {f"onnx_{task.headline[0]}": found}


def export_onnx(
    net: nn.Module,
    input_size: tuple[int, int, int],
    path: Path,
    *,
    first: nn.Module | None = None,
    about: Mapping[str, str] | None = None,
) -> float:
    """Write `net` in eval mode to `path`, with a free batch size, and check it.

    input_size: (C, H, W). first: makes the network's input of uint8 images, as a part of the file,
    which then takes bytes. about: what the file's metadata are to say. Returns the largest relative
    error between onnxruntime and `net` over random batches of 2 and of 3 images; the file appears
    only once that error is small. `net` keeps its mode, gradients and device: a copy is exported.
    """
    path = Path(path)
    _require("onnx", "onnxscript", "onnxruntime")
    plain = duplicate(net).cpu().float().eval().requires_grad_(False)
    if first is not None:
        plain = nn.Sequential(duplicate(first).cpu().eval(), plain)
    images = _images if first is None else _bytes
    batches = [images(size, input_size) for size in (TRACED_BATCH, UNSEEN_BATCH)]
    partial = path.with_name(f".{path.name}.partial")
    try:
        _convert(plain, batches[0], partial, about or {})
        error = _largest_error(plain, _session(partial), batches)
        # a NaN error is no agreement either
        if not error <= TOLERANCE:
            raise RunError(
                f"{path}: onnxruntime's outputs differ from the network's by {error:.1e} of the "
                f"largest output, more than {TOLERANCE:.0e}; nothing was written: "
                "export.onnx=false goes on without this file"
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return error


def judge(
    path: Path, loader: Iterable[Any], task: Task, num_classes: int, like: Any = None
) -> float:
    """The task's headline of the file at `path` in onnxruntime, over every batch of `loader`.

    loader: batches of the task, whose inputs are of the type that the file takes. like: an answer
    of the network itself, whose form the file's outputs are put into; None for one tensor.
    """
    path = Path(path)
    _require("onnxruntime")
    session = _session(path)
    name = task.headline[0]
    meter, images = task.metrics(num_classes)[name], 0
    for batch in loader:
        inputs, targets, _ = task.loss_inputs(batch)
        outputs = iter(_run(session, inputs))
        meter.update(task.outputs(_in_form(like, outputs)), targets)
        images += len(inputs)
    if images == 0:
        words = name.replace("_", " ")
        raise RunError(f"{path}: its {words} needs at least one image, the loader gave none")
    return float(meter.compute())


def _in_form(like: Any, outputs: Iterator[Tensor]) -> Any:
    """The exporter's list of tensors in the form of a network's answer; `_tensors` goes back."""
    if like is None or isinstance(like, Tensor):
        return next(outputs)
    if isinstance(like, Mapping):
        return {name: _in_form(part, outputs) for name, part in like.items()}
    return tuple(_in_form(part, outputs) for part in like)


def _bytes_of(data: ImageData, batch_size: int) -> Iterator[tuple[Tensor, Any, Tensor]]:
    """Batches of the test part whose images are uint8 (B, C, H, W), not normalised."""
    for index in torch.arange(data.size("test")).split(batch_size):
        # grey images are stored once
        images = data.pixels("test", index).expand(-1, data.channels, -1, -1)
        yield images, data.targets("test", index), index


def _require(*names: str) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise RunError(
                f"model.onnx needs the package '{name}', which cannot be imported ({error}): "
                f"`pip install {name}`, or go on without the file by export.onnx=false"
            ) from None


def _images(batch: int, input_size: tuple[int, int, int]) -> Tensor:
    """Random images of our own generator. Returns (batch, C, H, W)."""
    return torch.randn(batch, *input_size, generator=generator(0, "onnx", batch))


def _bytes(batch: int, input_size: tuple[int, int, int]) -> Tensor:
    """Random pixels of our own generator. Returns (batch, C, H, W) uint8."""
    drawn = generator(0, "onnx bytes", batch)
    return torch.randint(0, 256, (batch, *input_size), dtype=torch.uint8, generator=drawn)


def _convert(net: nn.Module, images: Tensor, path: Path, about: Mapping[str, str]) -> None:
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                net,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
                # two seconds for a ResNet-50, and a graph without its 300 shape computations
                optimize=True,
            )
            _forget_sources(program.model.graph)
            program.model.metadata_props.update(about)
            program.save(path, external_data=False)
    except OSError:
        raise
    except Exception as error:  # the exporter's own errors share no base class
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise RunError(
            f"'{type(net).__name__}' cannot be exported to ONNX "
            f"({type(cause).__name__}: {reason}); export.onnx=false goes on without model.onnx"
        ) from error


def _forget_sources(graph: Any) -> None:
    """Drop the traces that name source files of the exporting machine: the file is to be shared."""
    graph.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing from the exporter reaches the terminal; its failures arrive as exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _session(path: Path) -> "InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal errors only
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no base class
        raise RunError(
            f"{path}: onnxruntime cannot open it ({str(error).splitlines()[0]}); export it again"
        ) from error


def _run(session: "InferenceSession", images: Tensor) -> list[Tensor]:
    name = session.get_inputs()[0].name
    return [torch.from_numpy(out) for out in session.run(None, {name: images.cpu().numpy()})]


def _largest_error(net: nn.Module, session: "InferenceSession", batches: list[Tensor]) -> float:
    """Largest difference of any output over any batch, relative to that output's largest value."""
    worst = 0.0
    for images in batches:
        with torch.inference_mode():
            expected = _tensors(net(images))
        for want, got in zip(expected, _run(session, images), strict=True):
            scale = want.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
            error = float((want - got).abs().max() / scale)
            if not error <= worst:
                worst = error
    return worst


def _tensors(outputs: Any) -> list[Tensor]:
    """The tensors of a network's output in the order in which the exporter lists them."""
    if isinstance(outputs, Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [tensor for part in parts for tensor in _tensors(part)]
