"""Methods and networks that only tests use: each stands where a user's own class would."""

import math

import torch
from torch import nn

from compressor import surgery
from compressor.prune import Compressor, Preview, Ranking, Selector
from compressor.prune.apoz import APoZ
from compressor.stages import Outcome
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
        recipe = OptimizerOptions(
            epochs=self.epochs, batch_size=64, optimizer="sgd", lr=0.05, momentum=0.9,
            nesterov=False, weight_decay=0.0, decay_norm_and_bias=False, schedule="cosine",
            warmup_epochs=0.0, milestones=(), gamma=0.1, clip_norm=None,
        )  # fmt: skip
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
