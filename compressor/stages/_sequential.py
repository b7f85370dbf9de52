"""Cuts front to back, each group judged on the network as it already is."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compressor import surgery
from compressor.errors import RunError
from compressor.prune import Gate, Observer, Selector, part
from compressor.stages._derivatives import Loss, differentiate
from compressor.stages._options import RepairOptions
from compressor.stages._refit import NOTHING_CUT, Kept, Refit, layers
from compressor.stages._rescale import columns_left, factors_of, scale, stays
from compressor.stages._select import Selection, rank, tensors
from compressor.stages._statistics import (
    MEMORY_LIMIT,
    Enough,
    Totals,
    gates_of,
    gather,
    judging,
    observers_of,
    readers_of,
    stopping,
)
from compressor.surgery import Activation, Group, Slot
from compressor.taps import Tap, tapped


def sequential(
    net: nn.Module,
    groups: Sequence[Group],
    selector: Selector,
    counts: Mapping[str, int],
    options: RepairOptions,
    batches: Iterable[Any],
    seed: int,
    *,
    dense: nn.Module | None = None,
    earlier: Kept = NOTHING_CUT,
    loss: Loss | None = None,
    labelled: Iterable[Any] | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Selection:
    """Cut and repair group after group, front to back, IN PLACE, each on what is already cut.

    counts: group -> channels that it keeps; dense: the refit's target; earlier: what was left of it
    when `net` was given, as in `Refit`; loss: for selectors with gates, whose groups each take a
    pass through the whole network, over `labelled` where these are other images.
    One forward of all images serves every group with one consumer, as long as it fits into
    `memory_limit` bytes: the hook in front of the consumer measures, ranks, cuts and passes the
    narrower tensor on. Other groups take a pass of their own, up to their last consumer.
    """
    judged = batches if labelled is None else labelled
    cutter = _Cutter(net, selector, counts, options.reconstruct, seed, judged, loss)
    refits = options.reconstruct == "refit"
    if not refits and not any(cutter.observers(group) for group in groups):
        for group in groups:
            cutter.cut(group, {})
        return cutter.done
    with judging(net):
        images, calls, joined = gather(net, batches, memory_limit)
        if refits:
            names = layers(net, groups, calls)
            with judging(dense):
                work = Refit(net, dense, names, calls, images, cutter.alive, options, seed, earlier)
            cutter.refitting(work)
        run: list[Group] = []
        for group in groups:
            if joined and _one_pass(net, group, calls) and not cutter.gated(group):
                run.append(group)
                continue
            cutter.in_one_pass(run, images)
            run = []
            cutter.in_own_pass(group, images, calls)
        cutter.in_one_pass(run, images)
        if refits and cutter.out_of_order:
            work.all(joined)
    if refits:
        cutter.done.residual.update(work.residual)
    return cutter.done


class _Cutter:
    """The state of a sequential run: what is cut, and what each position was in the beginning."""

    def __init__(
        self,
        net: nn.Module,
        selector: Selector,
        counts: Mapping[str, int],
        reconstruct: str,
        seed: int,
        batches: Iterable[Any],
        loss: Loss | None,
    ) -> None:
        self.net, self.selector, self.seed = net, selector, seed
        self.batches, self.loss = batches, loss
        self.counts, self.reconstruct = counts, reconstruct
        self.totals = Totals(seed)
        self.alive: dict[tuple[str, int], Tensor] = {}
        self.passing: dict[int, Tensor] = {}
        """Site of an activation -> which of its channels are left."""
        self.done = Selection({}, {})
        self.work: Refit | None = None
        self.out_of_order = False

    def refitting(self, work: Refit) -> None:
        self.work = work
        self.totals = Totals(self.seed, work.target)

    def observers(self, group: Group) -> tuple[Observer | Gate, ...]:
        return observers_of(self.net, group, self.selector, self.reconstruct)

    def gated(self, group: Group) -> bool:
        return any(isinstance(one, Gate) for one in self.observers(group))

    def now(self, group: Group) -> Group:
        """The group with the positions that earlier cuts of other groups have left."""

        def current(slot: Slot) -> Slot:
            alive = self.alive.get((slot.parameter, slot.dim))
            return slot if alive is None else replace(slot, classes=slot.classes[alive])

        def active(activation: Activation) -> Activation:
            alive = self.passing.get(activation.site)
            if alive is None:
                return activation
            return replace(activation, classes=activation.classes[alive])

        return replace(
            group,
            producers=tuple(map(current, group.producers)),
            followers=tuple(map(current, group.followers)),
            consumers=tuple(map(current, group.consumers)),
            activations=tuple(map(active, group.activations)),
        )

    def in_one_pass(self, groups: Sequence[Group], images: Sequence[Tensor]) -> None:
        """One forward of all images; every group is cut in front of its only consumer."""
        if not groups:
            return
        left = {group.name for group in groups}
        watch: dict[str, tuple[Observer, ...]] = {}
        deciders = {}
        for group in groups:
            entrance = Tap(group.consumers[0].callers[0], "input")
            observers = self.observers(group)
            watch[group.name] = tuple(o for o in observers if o.tap != entrance)
            here = tuple(o for o in observers if o.tap == entrance)
            deciders[entrance] = self._decider(group, here, left)
        repairs = (
            {}
            if self.work is None
            else self._repairs(deciders, left, len(groups) == len(self.counts))
        )
        readers = {**readers_of(watch, self.totals), **repairs, **deciders}
        try:
            with tapped(self.net, readers):
                self.net(torch.cat(list(images)))
        except Enough:
            pass
        if left:
            raise RunError(
                f"a forward pass never reached the consumer of '{min(left)}'; "
                f"leave it out with prune.skip=[{min(left)}]"
            )

    def _repairs(self, deciders: Mapping[Tap, Any], left: set[str], whole: bool) -> dict[Tap, Any]:
        """Refits in front of the layers that no group of this pass is decided at."""
        found = {}
        for name in self.work.names:
            tap = Tap(name, "input")
            if tap in deciders or name in self.work.residual or self.work.calls[name] != 1:
                continue

            def read(module: nn.Module, x: Tensor, name: str = name) -> None:
                self.work.here(name, module, x)
                left.discard(f"layer {name}")
                if not left:
                    raise Enough

            found[tap] = read
        if whole:
            left |= {f"layer {tap.module}" for tap in found}
        return found

    def _decider(self, group: Group, here: tuple[Observer, ...], left: set[str]) -> Any:
        def decide(module: nn.Module, x: Tensor) -> Tensor:
            for observer in here:
                self.totals.add(group.name, observer, module, x)
            (slot,) = group.consumers
            statistics = self.totals.take(group.name)
            kept = self.cut(group, statistics)
            narrow = _narrowed(module, x, slot, kept)
            if self.work and slot.module in self.work.targets:
                self._refit(slot, kept, part(statistics, f"refit:{slot.parameter}/"), narrow)
            left.discard(group.name)
            if not left:
                raise Enough
            return narrow

        return decide

    def in_own_pass(self, group: Group, images: Sequence[Tensor], calls: Mapping[str, int]) -> None:
        """Statistics from the start of the network up to the last tap, then the cut."""
        now = self.now(group)
        watch = {group.name: self.observers(now)}
        readers = stopping(readers_of(watch, self.totals), calls)
        for batch in images if readers else ():
            with tapped(self.net, readers), suppress(Enough):
                self.net(batch)
        differentiate(self.net, gates_of(watch, [now]), self.batches, self.loss, self.totals.put)
        self.cut(group, self.totals.take(group.name))
        if self.work:
            # what lies behind this group's consumers is judged on the repaired network; a last pass
            # then sees what is cut in front of them later
            self.out_of_order = True
            mine = {path for slot in group.consumers for path in slot.callers}
            for name in (name for name in self.work.names if name in mine):
                self.work.in_own_pass(name)

    def _refit(self, slot: Slot, kept: Tensor, sums: Mapping[str, Tensor], x: Tensor) -> None:
        """From the sums that the selector asked for, where there are any, else from the input."""
        module = self.net.get_submodule(slot.module)
        if sums and len(sums["gram"]) == getattr(module, "groups", 1):
            self.work.solve(slot.module, sums, columns_left(slot, kept, sums["gram"]))
        else:
            self.work.here(slot.module, module, x)

    def cut(self, group: Group, statistics: Mapping[str, Tensor]) -> Tensor:
        """Rank, cut and rescale one group. Returns the kept class ids."""
        now, weights = self.now(group), tensors(self.net)
        ranking = rank(now, self.selector, statistics, weights, self.seed)
        kept = ranking.keep(self.counts[group.name])
        self.done.rankings[group.name] = ranking
        if len(kept) == group.size:
            return kept
        surgery.cut_group(self.net, group, kept)
        self.done.keep[group.name] = kept
        for slot in group.slots:
            place = (slot.parameter, slot.dim)
            left = stays(slot, kept)
            self.alive[place] = left & self.alive.get(place, torch.ones_like(left))
        for one in group.activations:
            left = (one.classes < 0) | torch.isin(one.classes, kept)
            self.passing[one.site] = left & self.passing.get(one.site, torch.ones_like(left))
        if self.reconstruct == "rescale":
            for slot in now.consumers:
                factors, left = factors_of(now, slot, kept, statistics)
                rest = self.done.residual.get(group.name, 0.0)
                self.done.residual[group.name] = max(left, rest)
                classes = slot.classes[stays(slot, kept)]
                factor = torch.where(classes < 0, 1.0, factors[classes.clamp(min=0)])
                scale(self.net, slot.parameter, slot.dim, factor)
        return kept


def _narrowed(module: nn.Module, x: Tensor, slot: Slot, kept: Tensor) -> Tensor:
    """The consumer's input without the removed channels; grouped convs lose them in each group."""
    left = stays(slot, kept)
    if isinstance(module, nn.Linear):
        return x.index_select(-1, left.nonzero()[:, 0].to(x.device))
    left = left.repeat(x.shape[1] // len(left))
    narrow = x.index_select(1, left.nonzero()[:, 0].to(x.device))
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return narrow.contiguous(memory_format=torch.channels_last) if channels_last else narrow


def _one_pass(net: nn.Module, group: Group, calls: Mapping[str, int]) -> bool:
    """Whether everything that makes this group's channels has run when its consumer is reached."""
    return (
        group.interior
        and len(group.consumers) == 1
        and isinstance(net.get_submodule(group.consumers[0].callers[0]), nn.Linear | _ConvNd)
        and all(len(slot.callers) == 1 == calls.get(slot.callers[0], 0) for slot in group.slots)
        and all(bool((slot.classes >= 0).all()) for slot in group.slots)
    )
