"""Methods and networks that only tests use: each stands where a user's own class would."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from compressor import surgery
from compressor.data import ImageData
from compressor.data._memory import MemoryImages
from compressor.data._source import Augment, crop_and_flip
from compressor.distill import Term
from compressor.explain import Probe
from compressor.export import Exporter
from compressor.prune import Compressor, Preview, Ranking, Selector
from compressor.prune.apoz import APoZ
from compressor.regularize import Regularizer
from compressor.stages import Outcome
from compressor.stages._recipe import Recipe
from compressor.tasks import Task
from compressor.tasks.holding import Holding
from compressor.tasks.optimization import OptimizerOptions


def timed(share: float) -> dict:
    """What `latency.in_turns` answers where a network takes this share of the dense one's time."""
    return {"dense": 1.0, "small": share, "share": share, "interval": [share, share]}


class Costly(Selector):
    """A selector with costs: the channel's index squared, so that high indices stay."""

    def __init__(self, power: float = 2.0) -> None:
        self.power = power

    def rank(self, group, statistics, weights, generator):
        order = torch.arange(group.size).flip(0)
        return Ranking(order, order.double() ** self.power)


class Flipped:
    """A kind of label noise with a file of its own."""

    reads_images = False
    injects = True
    known = True

    def __init__(self, file: str | None = None, **shared: object) -> None:
        self.file = file

    def corrupt(self, part):
        return part.labels.clone()


class Careless(Costly):
    """A selector that leaves the network it looks at in another state."""

    def __init__(self, harm: str = "mode") -> None:
        super().__init__()
        self.harm = harm

    def observers(self, group, net):
        module = net.get_submodule(group.producers[0].module)
        module.train() if self.harm == "mode" else module.requires_grad_(False)
        return ()


class Unmeasured(APoZ):
    """A selector that looks at data and whose order has no costs."""

    def rank(self, group, statistics, weights, generator):
        return Ranking(super().rank(group, statistics, weights, generator).order)


class ByRatio(Costly):
    """A selector that takes the ratio itself."""

    def __init__(self, ratio: float = 0.5) -> None:
        super().__init__()
        self.ratio = ratio


class NamesAlone:
    """It has the names of a selector and says nowhere that it is one."""

    def observers(self, group, net):
        return ()

    def rank(self, group, statistics, weights, generator):
        return Ranking(torch.arange(group.size))


class HalfOfTheFirst(Compressor):
    """A compressor that owns its stage: half of the first group's channels go."""

    def run(self, given, context):
        net = given.network(context.trust)
        examples = context.task.example_inputs(given.spec.input_size, 2)
        structure = surgery.analyse(net, examples)
        group = structure.select("interior")[0]
        plan = surgery.plan_cut(structure, {group.name: torch.arange(group.size // 2)})
        return Outcome(net=surgery.replay(net, plan), plan=given.plan.then(plan))


class ToldHalf(HalfOfTheFirst):
    """The same, which tells the plan."""

    def preview(self, dense):
        group = dense.structure.select("interior")[0]
        left = {group.name: group.size // 2}
        return Preview(
            rows=((group.name, group.size, group.size // 2),),
            macs=dense.structure.macs(left),
            params=dense.structure.params(left),
        )


class Masks(Compressor):
    """A compressor that cuts no channel: it sets weights to zero, and says that it trains on."""

    def __init__(self, share: float = 0.5, epochs: int = 3) -> None:
        self.share, self.epochs = share, epochs

    def run(self, given, context):
        net = given.network(context.trust)
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.Conv2d):
                    size = module.weight.abs().flatten()
                    least = size.kthvalue(max(1, int(self.share * len(size)))).values
                    module.weight[module.weight.abs() <= least] = 0
        return Outcome(net=net, plan=given.plan)

    def preview(self, dense):
        return Preview(
            macs=dense.figures["macs"], params=dense.figures["params"], epochs=self.epochs
        )


class LossAlone(Term):
    """A term that overrides nothing but its loss."""

    def loss(self, student, teacher, batch):
        return (student["logits"] - teacher["logits"]).square().mean()


class Thinned(Regularizer):
    """A regularizer of every hook: the features of one layer are thinned, and paid for.

    seen: the progress that it was told before each step.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.seen: list[float] = []
        self.share = 0.0

    def attach(self, net):
        return (net.get_submodule(self.layer).register_forward_hook(self._thin),)

    def _thin(self, module, inputs, output):
        return output * (1 - self.share) if module.training else output

    def before_step(self, net, progress):
        self.seen.append(progress)
        self.share = 0.5 * progress

    def layers(self):
        return (self.layer,)

    def losses(self, net, outputs, criterion):
        (features,) = outputs["features"][self.layer]
        return {"size": features.abs().mean(), "again": criterion(outputs["logits"])}

    def penalties(self, net):
        return {"weights": 1e-3 * sum(p.square().sum() for p in net.parameters())}


class Masked(Holding):
    """Keeps the smaller half of a layer's weights at 0, as they were when the training began."""

    def __init__(self, layer: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("mask", torch.ones(shape))
        self.register_buffer("drawn", torch.tensor(False))

    def begin(self, net):
        weight = net.get_submodule(self.layer).weight
        if not self.drawn:
            self.mask.copy_(weight.detach().abs() > weight.detach().abs().median())
            self.drawn.fill_(True)
        self.after_step(net)

    def after_step(self, net):
        with torch.no_grad():
            net.get_submodule(self.layer).weight.mul_(self.mask)


class BetterOfTwo(Compressor):
    """A compressor that trains inside: without the first or the last half of the first group's
    channels, of which the better one goes on.
    """

    def __init__(self, epochs: int = 2) -> None:
        self.epochs = epochs

    def run(self, given, context):
        net = given.network(context.trust)
        examples = context.task.example_inputs(given.spec.input_size, 2)
        structure = surgery.analyse(net, examples)
        group = structure.select("interior")[0]
        optimizer = OptimizerOptions(
            epochs=self.epochs, batch_size=64, optimizer="sgd", lr=0.05, momentum=0.9,
            nesterov=False, weight_decay=0.0, decay_norm_and_bias=False, schedule="cosine",
            warmup_epochs=0.0, milestones=(), gamma=0.1, clip_norm=None,
        )  # fmt: skip
        recipe = Recipe(optimizer=optimizer)
        plans, trained = {}, []
        for number, half in enumerate(torch.arange(group.size).chunk(2), 1):
            plan = surgery.plan_cut(structure, {group.name: half})
            candidate = surgery.replay(surgery.duplicate(net), plan)
            trained.append(context.fit(f"candidate {number}", candidate, recipe))
            plans[trained[-1].name] = plan
        best = context.best(trained)
        figures = {one.name: one.metrics["picked_val_accuracy"] for one in trained}
        plan = given.plan.then(plans[best.name])
        return Outcome(net=best.network(), plan=plan, notes={"candidates": figures})

    def preview(self, dense):
        group = dense.structure.select("interior")[0]
        left = {group.name: group.size // 2}
        return Preview(
            rows=((group.name, group.size, group.size // 2),),
            macs=dense.structure.macs(left),
            params=dense.structure.params(left),
            epochs=2 * self.epochs,
        )


class Net(nn.Module):
    """A user's network."""

    def __init__(self, num_classes: int, channels: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))


class OwnKernel(Net):
    """A kernel of its own that is a buffer, and a module of two kernels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("W", torch.randn(8, 8, 3, 3) / 8)
        self.pair = nn.ParameterDict({name: torch.randn(8, 8, 1, 1) / 3 for name in "ab"})

    def forward(self, x):
        y = torch.conv2d(self.body(x), self.W, padding=1).relu()
        y = torch.conv2d(y, self.pair["a"]) + torch.conv2d(y, self.pair["b"])
        return self.head(y.mean(dim=(2, 3)))


class Odd(Net):
    """A batch norm without a bias, and a parameter without a number."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.body[1].bias = None
        self.nothing = nn.Parameter(torch.empty(0))


class ByCount(Net):
    """Divides by a function of its number of channels, in a branch that begins switched off."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.branch = nn.Conv2d(8, 8, 1)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        y = self.body[:3](x)
        y = self.body[3:](y + self.gain * self.branch(y / math.sqrt(y.shape[1])))
        return self.head(y.mean(dim=(2, 3)))


class Plain(nn.Sequential):
    """A network without a norm."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, num_classes),
        )


class Untraceable(Net):
    """Its path depends on the values that it sees."""

    def forward(self, x):
        y = self.body(x)
        if y.sum() > 0:
            y = y * 2
        return self.head(y.mean(dim=(2, 3)))


class TwoAnswers(Net):
    """Answers its features beside the logits."""

    def forward(self, x):
        features = self.body(x).mean(dim=(2, 3))
        return self.head(features), features


class AnswersByName(Net):
    def forward(self, x):
        return {"logits": super().forward(x)}


class ThreeMore(Net):
    """Has three classes more than the data."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes + 3)


class ThreeMoreByValues(ThreeMore):
    """Its path depends on the values that it sees, so that it has no forward without any."""

    def forward(self, x):
        return super().forward(x * 2 if x.sum() > 0 else x)


class TwoAnswersInTraining(TwoAnswers):
    def forward(self, x):
        both = super().forward(x)
        return both if self.training else both[0]


class Auxiliary(Net):
    """Has a second classifier in training, as GoogLeNet."""

    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits / 2) if self.training else logits


class MeanIoU(Metric):
    """Intersection over union of each class, the mean over those that occur, in [0, 1]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("both", "either"):
            self.add_state(name, torch.zeros(num_classes), dist_reduce_fx="sum")

    def update(self, outputs, targets):
        k = torch.arange(len(self.both), device=targets.device).view(-1, 1, 1, 1)
        told, true = outputs["pixels"].argmax(dim=1) == k, targets == k
        self.both += (told & true).sum(dim=(1, 2, 3))
        self.either += (told | true).sum(dim=(1, 2, 3))

    def compute(self):
        return (self.both / self.either).nanmean()


class PixelLoss(Metric):
    def __init__(self) -> None:
        super().__init__()
        for name in ("sum", "total"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, outputs, targets):
        self.sum += F.cross_entropy(outputs["pixels"], targets, reduction="sum")
        self.total += targets.numel()

    def compute(self):
        return self.sum / self.total


class Segmentation(Task):
    """A class for every pixel: answers (B, K, H, W), targets (B, H, W) int64."""

    name = "segmentation"
    figures = {"mean_iou": "max", "loss": "min"}

    def outputs(self, net_out):
        return {"pixels": net_out}

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs["pixels"], targets)

    def metrics(self, num_classes):
        return MetricCollection({"mean_iou": MeanIoU(num_classes), "loss": PixelLoss()})


class MaskImages(MemoryImages):
    """Images with a class for every pixel: (n, C, H, H) uint8, masks (n, H, H) int64."""

    def __init__(self, images, masks, augment=None):
        super().__init__(images, torch.zeros(len(images), dtype=torch.long), augment)
        self.masks = masks

    def digest(self):
        return f"{super().digest()} {self.masks.double().std()} {self.masks.sum()}"

    def sized(self, image_size, channels, augment):
        return MaskImages(self.pixels, self.masks, augment)

    def targets(self, rows, draw):
        masks = self.masks[rows]
        return masks if draw is None else crop_and_flip(masks[:, None], self.augment, draw)[:, 0]


class Quarters(ImageData):
    """Made-up images of 8 x 8 pixels, of which a dark and a bright quarter are to be found.

    options: those of dataset=fake, with image_size=8 and num_classes=3.
    """

    name = "quarters"

    def __init__(self, *, samples=64, seed=0, **options):
        super().__init__(mean=(0.5,), std=(0.25,), **options)
        self.samples = samples

    def _read(self):
        return 3, {"train": self._part_of(self.samples, 0), "test": self._part_of(32, 1)}

    def _part_of(self, n, seed):
        rng = torch.Generator().manual_seed(seed)
        masks = torch.zeros(n, 8, 8, dtype=torch.long)
        for mask in masks:
            for kind in (1, 2):
                top, left = (4 * torch.randint(0, 2, (2,), generator=rng)).tolist()
                mask[top : top + 4, left : left + 4] = kind
        noise = torch.randint(0, 40, (n, 3, 8, 8), generator=rng)
        pixels = torch.tensor([100, 0, 200])[masks][:, None] + noise
        return MaskImages(pixels.to(torch.uint8), masks, Augment())


class PixelNet(nn.Sequential):
    """A class for every pixel, (B, num_classes, H, W)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, num_classes, 1),
        )  # fmt: skip


class Card(Exporter):
    """A format that is a line of text."""

    name = "card"
    files = ("card.txt",)

    def write(self, finished, run_dir):
        parameters = sum(p.numel() for p in finished.network().parameters())
        (run_dir / "card.txt").write_text(f"{parameters} parameters\n")
        return {"card": float(parameters)}


class Shades(Probe):
    """Draws how bright the answers of two networks are on the first test images."""

    points = ("dense", "final")

    def __init__(self, images: int = 4) -> None:
        self.images = images

    def look(self, subjects, folder):
        from PIL import Image

        inputs = next(iter(subjects.data.loader("test", self.images)))[0]
        found = {}
        for point in self.points:
            with torch.inference_mode():
                answer = subjects.network(point)(inputs).float()
            found[point] = float(answer.mean())
            shade = answer.softmax(dim=1).mul(255).to(torch.uint8)
            Image.fromarray(shade.flatten(1).numpy()).save(folder / f"{point}.png")
        return found
