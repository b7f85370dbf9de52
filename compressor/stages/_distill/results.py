"""What a distillation tells when it is done: the heads it had, the images it made."""

from typing import Any

import torch
from torch import Tensor, nn

from compressor.artefact import EXTRAS
from compressor.distill import Maker, Term
from compressor.seeding import derive
from compressor.stages import Context
from compressor.tasks.training import Distillation

_IMAGES = 64  # on the sheet of made images


def heads(net: nn.Module, term: Term, context: Context) -> dict[str, Any]:
    """Validation headline of each head and of all of them together; one is kept."""
    from compressor.distill._fork import all_heads

    task, name = context.task, context.task.headline[0]
    fresh = task.metrics(context.data.num_classes)[name]
    each, together = [fresh.clone() for _ in range(net.heads)], fresh.clone()
    seen = False
    device = context.machine.device
    net.to(device)
    loader = context.data.loader("val", context.machine.eval_batch_size)
    for batch in loader:
        images, targets, _ = task.loss_inputs(batch)
        answers = [z.cpu() for z in all_heads(net, images.to(device))]
        for meter, answer in zip(each, answers, strict=True):
            meter.update(task.outputs(answer), targets)
        together.update(task.outputs(term.ensemble(answers)), targets)
        seen = True
    net.to("cpu")
    if not seen:
        return {"count": net.heads}
    return {
        "count": net.heads,
        f"val_{name}": [float(meter.compute()) for meter in each],
        f"ensemble_val_{name}": float(together.compute()),
        "kept": 0,
    }


def made_images(
    net: nn.Module, name: str, term: Maker, distillation: Distillation, context: Context
) -> dict[str, float]:
    """A sheet of made images, and how teacher and student see fresh ones."""
    maker, teacher = distillation.adapters[name].cpu().eval(), distillation.teacher.cpu()
    task = context.task
    rng = torch.Generator().manual_seed(derive(context.seed, "sheet"))
    with torch.no_grad():
        images = term.draw(maker, max(_IMAGES, term.count), torch.device("cpu"), rng)
        answer = task.teacher_view(task.outputs(teacher(images))).softmax(dim=1)
        own = task.teacher_view(task.outputs(net.cpu().eval()(images)))
    _sheet(images[:_IMAGES], context)
    mean = answer.mean(dim=0)
    return {
        "teacher_confidence": float(answer.amax(dim=1).mean()),
        "class_entropy": float(-(mean * mean.clamp_min(1e-12).log()).sum()),
        "agreement": float((own.argmax(dim=1) == answer.argmax(dim=1)).double().mean()),
    }


def _sheet(images: Tensor, context: Context) -> None:
    """extras/generated.png: 8 images a row, in the pixels that the normalisation stands for."""
    from torchvision.utils import save_image

    mean = torch.tensor(context.data.mean).view(-1, 1, 1)
    std = torch.tensor(context.data.std).view(-1, 1, 1)
    folder = context.folder / EXTRAS
    folder.mkdir(exist_ok=True)
    save_image((images * std + mean).clamp(0, 1), folder / "generated.png", nrow=8)
