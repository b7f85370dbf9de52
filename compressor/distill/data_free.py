"""Data-free learning (DAFL): a generator makes the images on which the student follows the teacher.

Chen et al.: Data-Free Learning of Student Networks. ICCV 2019, arXiv:1904.01186, eq. (2) to (6).
Run: compress-run distill=data_free prune=weight_sum "stages=[train,compress,finetune]"
Without it, for comparison: distill.terms.data_free.images=untrained, or noise
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.distill import Batch, Layers, Maker, Shapes
from compressor.distill._layers import pooled
from compressor.distill.kd import soft_divergence
from compressor.errors import UsageError
from compressor.options import Count, NotNegative, Positive, Range, checked


def one_hot(logits: Tensor) -> Tensor:
    """Cross-entropy of the teacher with its own answer: low where it is sure. logits: (B, K)."""
    return F.cross_entropy(logits.float(), logits.argmax(dim=1))


def activation(features: Tensor) -> Tensor:
    """Minus the mean size of the features: real images excite them. features: (B, D).

    The mean over batch and width, as in the authors' code; the paper's sum is larger by the width.
    """
    return -features.float().abs().mean()


def information_entropy(logits: Tensor, base: float = 10.0) -> Tensor:
    """Minus the entropy of the batch's mean answer: low where the classes are balanced.

    logits: (B, K). base: of the logarithm; the authors' weights belong to 10.
    """
    mean = logits.float().softmax(dim=1).mean(dim=0)
    return (mean * mean.clamp_min(1e-12).log()).sum() / math.log(base)


class EnlargingConv2d(nn.Conv2d):
    """The 3x3 convolution of an image whose pixels were doubled, (B, C, H, W) to (B, O, 2H, 2W).

    Doubling and convolving is one transposed convolution, whose 4x4 kernel is the 3x3 one spread
    over 2x2 pixels: 16 products for each pixel that comes in, where the two steps take 36.
    """

    def forward(self, x: Tensor) -> Tensor:
        # by the first and the last of two equal pixels, in both directions
        spread = sum(F.pad(self.weight, (i, 1 - i, j, 1 - j)) for i in (0, 1) for j in (0, 1))
        kernel = spread.flip(2, 3).transpose(0, 1)
        if x.is_contiguous(memory_format=torch.channels_last):
            kernel = kernel.contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class Generator(nn.Module):
    """Noise (B, latent) to images (B, C, H, W) of mean 0 and variance 1, the teacher's input space.

    The authors' network; pixels are doubled by nearest neighbour before its first two convolutions,
    in one step with them. norm_eps: eps of its inner batch norms, 0.8 in their code, surely meant
    as a momentum; it trains all the same.
    """

    def __init__(self, latent: int, input_size: tuple[int, int, int], norm_eps: float) -> None:
        super().__init__()
        channels, height, width = input_size
        self.latent = latent
        self.start = nn.Linear(latent, 128 * (height // 4) * (width // 4))
        self.body = nn.Sequential(
            nn.Unflatten(1, (128, height // 4, width // 4)),
            nn.BatchNorm2d(128),
            EnlargingConv2d(128, 128, 3, padding=1),
            nn.BatchNorm2d(128, norm_eps),
            nn.LeakyReLU(0.2),
            EnlargingConv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64, norm_eps),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.body(self.start(z))


class Noise(nn.Module):
    """Pixels from the normal distribution, one of the two baselines; learns nothing."""

    def __init__(self, input_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.input_size = tuple(input_size)
        self.latent = math.prod(input_size)

    def forward(self, z: Tensor) -> Tensor:
        return z.view(-1, *self.input_size)


class DataFree(Maker):
    """Owns the loop of its stage (tasks/alternating.py); reads no image unless `beside` is set."""

    owns_training = True

    @checked("distill.terms.data_free")
    def __init__(
        self,
        weight: NotNegative = 1.0,
        images: Literal["learned", "untrained", "noise"] = "learned",
        one_hot: float = 1.0,
        activation: float = 0.1,
        entropy: float = 5.0,
        entropy_base: Annotated[float, Range(1, above=True)] = 10.0,
        latent: Count = 100,
        count: Annotated[int, Range(2)] = 512,
        steps: Count = 120,
        generator_lr: Positive = 0.2,
        schedule: Literal["joint", "two_stage"] = "joint",
        norm_eps: Positive = 0.8,
        beside: bool = False,
    ) -> None:
        self.weight = weight
        self.images = images
        self.weights = {"one_hot": one_hot, "activation": activation, "entropy": entropy}
        self.entropy_base = entropy_base
        self.latent, self.norm_eps, self.generator_lr = latent, norm_eps, generator_lr
        self.count, self.steps = count, steps
        self.schedule = schedule
        self.reads_images = beside

    def layers(self) -> Layers:
        return (), ("penultimate",)

    def adapter(self, student: Shapes, teacher: Shapes, input_size: tuple[int, ...]) -> nn.Module:
        """The maker of images of this size."""
        if self.images == "noise":
            return Noise(input_size)
        if input_size[1] % 4 or input_size[2] % 4:
            raise UsageError(
                f"data_free makes images by two doublings: {input_size[1]}x{input_size[2]} is no "
                "multiple of 4; give dataset.image_size one, or distill.terms.data_free."
                "images=noise"
            )
        return Generator(self.latent, input_size, self.norm_eps)

    def draw(
        self, maker: nn.Module, count: int, device: torch.device, rng: torch.Generator | None
    ) -> Tensor:
        """(count, C, H, W). rng: on the CPU; None: the global one, which each epoch seeds."""
        return maker(torch.randn(count, maker.latent, generator=rng).to(device))

    def judge(self, teacher: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """The maker's losses by name, before weighting, and their weighted sum."""
        parts = {
            "one_hot": one_hot(teacher["logits"]),
            "activation": activation(pooled(teacher["features"]["penultimate"][0])),
            "entropy": information_entropy(teacher["logits"], self.entropy_base),
        }
        loss = sum(self.weights[name] * part for name, part in parts.items())
        confidence = teacher["logits"].float().softmax(dim=1).amax(dim=1).mean()
        return {**parts, "confidence": confidence}, loss

    def loss(self, student: Mapping[str, Any], teacher: Mapping[str, Any], batch: Batch) -> Tensor:
        """KL(p_t || p_s) at temperature 1; the teacher's logits are detached, as the images."""
        return soft_divergence(student["logits"], teacher["logits"], 1.0)

    def turn(self, progress: float) -> tuple[bool, bool]:
        """Whether maker and student learn: both all the time, or the one in each half (paper)."""
        makes = self.images == "learned"
        if self.schedule == "joint" or not makes:
            return makes, True
        return progress < 0.5, progress >= 0.5

    def maker_optimizer(self, maker: nn.Module) -> torch.optim.Optimizer | None:
        if self.images != "learned":
            return None
        return torch.optim.Adam(maker.parameters(), lr=self.generator_lr)
