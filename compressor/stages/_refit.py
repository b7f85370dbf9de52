"""Refit: every weight that is left of a layer, by ridge regression onto the dense network.

Front to back: a layer's inputs come from the network as it is by then, cut and refitted in front of
it, and its outputs should be the dense network's, at the same positions of the same images, as the
dense network's batch norms read them: the ones behind refitted layers become those again. One
pass of each network serves all layers: what the dense one gave out at the positions is kept, and
the hook in front of a layer of the other reads, solves, and lets the pass go on through the new
weights (specs of the idea: He, Zhang, Sun, ICCV 2017, arXiv:1707.06168, section 3.1).

In rounds the target is the network that was trained last: the dense one as long as nothing is
fine-tuned between the cuts, as in the paper, so that errors do not pile up; the fine-tuned one
after that. Fine-tuning moves what a feature map means, layers and norms together, and going back to
the dense maps undoes it: vgg16_bn cut to 15 % of its MACs in two rounds with an epoch between loses
0.9 points that way and 1.4 with the dense maps (0.6 and 1.4 after one more epoch), resnet20 3.7
both ways (2.6 and 2.9; Fashion-MNIST, one seed).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.errors import RunError
from compressor.prune import Target
from compressor.prune._product import own_weight, plain
from compressor.prune._ridge import fits, observe, system
from compressor.prune._rows import from_kernel, kernel, outputs, places
from compressor.seeding import generator
from compressor.stages._options import RepairOptions
from compressor.stages._statistics import MEMORY_LIMIT, Enough, gather, judging, stopping
from compressor.surgery import Group, Plan, output_dim
from compressor.taps import Tap, tapped

Kept = Mapping[tuple[str, int], Sequence[int]]
NOTHING_CUT: Kept = MappingProxyType({})


def layers(net: nn.Module, groups: Sequence[Group], calls: Mapping[str, int]) -> list[str]:
    """Layers to refit, in order of execution: from the first that reads one of these groups.

    Behind it every layer sees inputs that are no longer the dense network's, whether channels of
    its own are cut or not. calls: how often each module runs in one forward, in order. Left out are
    layers that never run in eval mode, that compute with something else than a weight of their own,
    or share it, and those that are too wide.
    """
    owners = Counter(id(p) for _, p in net.named_parameters(remove_duplicate=False))
    slots = [slot for group in groups for slot in group.slots]
    readers = {path for group in groups for slot in group.consumers for path in slot.callers}
    elsewhere = {slot.module for slot in slots if slot.callers != (slot.module,)}
    found: list[str] = []
    begun = False
    for name in calls:
        begun = begun or name in readers
        module = net.get_submodule(name)
        if not begun or not (plain(module) and own_weight(module)):
            continue
        if owners[id(module.weight)] == 1 and name not in elsewhere and fits(module):
            found.append(name)
    return found


class Refit:
    """The dense network's outputs, and the regressions onto them.

    net: the network that is cut; alive: (parameter, dim) -> (size,) bool, which of the given
    network's entries it still has (missing: all). images: the batches of every pass of either.
    earlier: (parameter, dim) -> indices that were left of `dense` when the network was given
    (missing: all).
    """

    def __init__(
        self,
        net: nn.Module,
        dense: nn.Module,
        names: Sequence[str],
        calls: Mapping[str, int],
        images: Sequence[Tensor],
        alive: Mapping[tuple[str, int], Tensor],
        options: RepairOptions,
        seed: int,
        earlier: Kept = NOTHING_CUT,
    ) -> None:
        self.net, self.names, self.calls, self.images = net, names, calls, images
        self.alive, self.ridge = alive, options.ridge
        self.residual: dict[str, float] = {}
        self.norms: dict[str, str] = {}
        self.scales: dict[str, dict[str, Tensor]] = {}
        self.earlier = earlier
        self.targets: dict[str, list[Target]] = {name: [] for name in names}
        self._watch(dense, options.positions, seed)

    def _watch(self, dense: nn.Module, positions: int, seed: int) -> None:
        """One pass of the dense network."""
        drawn: dict[str, Any] = {}
        given: dict[str, Tensor] = {}
        generators = {name: generator(seed, "positions", name) for name in self.names}

        def before(name: str) -> Any:
            def read(module: nn.Module, x: Tensor) -> None:
                drawn[name] = places(module, x, positions, generators[name])

            return read

        def after(name: str) -> Any:
            def read(module: nn.Module, out: Tensor) -> None:
                rows = drawn.pop(name)
                self.targets[name].append(
                    Target(rows, self._given(name, outputs(module, out, rows)))
                )
                given.clear()
                given[name] = out

            return read

        def norm(norm: str) -> Any:
            def read(module: nn.Module, x: Tensor) -> None:
                self.norms.update({name: norm for name, out in given.items() if out is x})

            return read

        entrances = {Tap(name, "input"): before(name) for name in self.names}
        norms = {
            Tap(name, "input"): norm(name)
            for name, module in dense.named_modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        }
        exits = {Tap(name, "output"): after(name) for name in self.names}
        for batch in self.images:
            with tapped(dense, {**entrances, **norms, **exits}):
                dense(batch)
        for name, norm in self.norms.items():
            module = dense.get_submodule(norm)
            for key in ("weight", "bias", "running_mean", "running_var"):
                value = getattr(module, key)
                if value is not None:
                    self.scales.setdefault(name, {})[key] = self._given(
                        name, value.detach().clone()
                    )

    def _given(self, name: str, values: Tensor) -> Tensor:
        """Of the layer's outputs in the dense network (last dimension) those that were given."""
        kept = self.earlier.get(self._made(name))
        return values if kept is None else self._of_each(name, values)[..., list(kept)].flatten(-2)

    def _left(self, name: str, values: Tensor) -> Tensor:
        """Of those the ones that the layer still has."""
        alive = self.alive.get(self._made(name))
        if alive is None:
            return values
        return self._of_each(name, values)[..., alive.to(values.device)].flatten(-2)

    def _made(self, name: str) -> tuple[str, int]:
        """The dimension of the layer's weight that makes its outputs."""
        return f"{name}.weight", output_dim(self.net.get_submodule(name))

    def _of_each(self, name: str, values: Tensor) -> Tensor:
        """Outputs (last dimension) as the weight lists them: a transposed convolution's only once
        for all its groups.
        """
        module = self.net.get_submodule(name)
        return values.unflatten(-1, (module.groups if output_dim(module) else 1, -1))

    def target(self, name: str, call: int) -> Target | None:
        """Of the call-th call of this layer in a pass, for the outputs that it still has."""
        if name not in self.targets:
            return None
        target = self.targets[name][call]
        return Target(target.rows, self._left(name, target.outputs))

    def all(self, joined: bool) -> None:
        """Refit every layer front to back. joined: `images` is one batch of all images."""
        run: list[str] = []
        for name in self.names:
            if joined and self.calls[name] == 1:
                run.append(name)
                continue
            self._in_one_pass(run)
            run = []
            self.in_own_pass(name)
        self._in_one_pass(run)

    def _in_one_pass(self, names: Sequence[str]) -> None:
        if not names:
            return
        readers = stopping({Tap(name, "input"): self.entrance(name) for name in names}, self.calls)
        with tapped(self.net, readers), suppress(Enough):
            self.net(self.images[0])

    def entrance(self, name: str) -> Any:
        """A reader in front of a layer that refits it from the input of all images."""

        def read(module: nn.Module, x: Tensor) -> None:
            self.here(name, module, x)

        return read

    def in_own_pass(self, name: str) -> None:
        """Refit one layer from a pass over all batches, up to the layer."""
        self.solve(name, self.observed(name))

    def observed(self, name: str) -> dict[str, Tensor]:
        """The layer's normal equations, from such a pass."""
        sums: dict[str, Tensor] = {}
        count = 0

        def read(module: nn.Module, x: Tensor) -> None:
            nonlocal count
            for key, value in self._sums(name, module, x, count).items():
                sums[key] = sums[key] + value if key in sums else value
            count += 1

        readers = stopping({Tap(name, "input"): read}, self.calls)
        for batch in self.images:
            with tapped(self.net, readers), suppress(Enough):
                self.net(batch)
        return sums

    def here(self, name: str, module: nn.Module, x: Tensor) -> None:
        """Refit one layer from its input for all images, in the middle of a forward."""
        self.solve(name, self._sums(name, module, x, 0))

    def _sums(self, name: str, module: nn.Module, x: Tensor, call: int) -> dict[str, Tensor]:
        target = self.target(name, call)
        return observe(module, x, target.rows, target.outputs)

    @torch.no_grad()
    def solve(self, name: str, sums: Mapping[str, Tensor], columns: Tensor | None = None) -> None:
        """Put the regression's weights into the layer; columns: those of the sums that it has."""
        module = self.net.get_submodule(name)
        if columns is not None:
            columns = torch.cat([columns, columns.new_ones(1)]).nonzero()[:, 0]
            gram = sums["gram"]
            sums = {
                "gram": gram[:, columns.to(gram.device)][:, :, columns.to(gram.device)],
                "cross": sums["cross"][:, :, columns.to(gram.device)],
                "square": sums["square"],
            }
        transposed = output_dim(module) == 1
        start = kernel(module.weight, len(sums["gram"]), transposed).to(sums["gram"])
        norm = self._norm_as_dense(name)
        norm = norm if module.bias is None else None
        one = system(sums, start, self.ridge, intercept=module.bias is not None or norm is not None)
        if not all(value.isfinite().all() for value in (one.matrix, one.cross, one.square)):
            raise RunError(
                f"the refit of '{name}' has no finite sums to go by; look for NaN in the "
                "activations and weights of the network"
            )
        weight = one.solve()
        self.residual[name] = one.residual(weight)
        module.weight.copy_(from_kernel(weight, module.weight.shape, transposed))
        if module.bias is not None:
            module.bias.copy_(one.intercept(weight).flatten())
        elif norm is not None:
            # a bias that only the batch norm behind reads is a shift of the mean that it takes off
            mean = norm.running_mean
            mean.sub_(one.intercept(weight).flatten().to(mean))

    def _norm_as_dense(self, name: str) -> nn.Module | None:
        """The batch norm that reads the layer's outputs, as the dense network has it.

        Fine-tuning and recalibration have moved it since, and a refit that came before.
        """
        if name not in self.norms:
            return None
        norm = self.net.get_submodule(self.norms[name])
        for key, value in self.scales[name].items():
            getattr(norm, key).copy_(self._left(name, value))
        return norm


def refit(
    net: nn.Module,
    dense: nn.Module,
    groups: Sequence[Group],
    plan: Plan,
    batches: Any,
    options: RepairOptions,
    seed: int,
    memory_limit: int = MEMORY_LIMIT,
    target: nn.Module | None = None,
    earlier: Kept = NOTHING_CUT,
) -> dict[str, float]:
    """Refit every layer from the first cut on in `net`, in place; `plan` has cut it out of `dense`.

    target, earlier: the network to aim at, and what had been left of it in `dense`; None: `dense`
    itself.
    Returns the residual energy of each layer, || Y - A W ||^2 / || Y ||^2.
    """
    weights = dict(dense.named_parameters())
    alive = {}
    for (name, dim), kept in plan.by_slot.items():
        if name in weights:
            mask = torch.zeros(weights[name].shape[dim], dtype=torch.bool)
            mask[list(kept)] = True
            alive[name, dim] = mask
    with judging(dense), judging(net):
        images, calls, joined = gather(dense, batches, memory_limit)
        names = layers(dense, groups, calls)
        aim = dense if target is None else target
        with judging(aim):
            work = Refit(net, aim, names, calls, images, alive, options, seed, earlier)
        work.all(joined)
    return work.residual
