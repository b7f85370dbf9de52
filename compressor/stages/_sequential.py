"""Cuts front to back, each group judged on the network as it already is."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor import surgery
from compressor.errors import RunError
from compressor.prune import Observer, Selector
from compressor.stages._rescale import factors_of, scale, stays
from compressor.stages._select import Selection, rank
from compressor.stages._statistics import (
    Enough,
    Totals,
    images_of,
    judging,
    observers_of,
    readers_of,
    stopping,
    trace,
)
from compressor.surgery import Group, Slot
from compressor.taps import Tap, tapped

MEMORY_LIMIT = 4 << 30  # bytes that the activations of one forward of all images may take


def sequential(
    net: nn.Module,
    groups: Sequence[Group],
    selector: Selector,
    counts: Mapping[str, int],
    reconstruct: str,
    batches: Iterable[Any],
    seed: int,
    memory_limit: int = MEMORY_LIMIT,
) -> Selection:
    """Cut (and rescale) group after group, front to back, IN PLACE, each on what is already cut.

    counts: group -> channels that it keeps.
    One forward of all images serves every group with one consumer, as long as it fits into
    `memory_limit` bytes: the hook in front of the consumer measures, ranks, cuts and passes the
    narrower tensor on. Other groups take a pass of their own, up to their last consumer.
    """
    cutter = _Cutter(net, selector, counts, reconstruct, seed)
    if not any(cutter.observers(group) for group in groups):
        for group in groups:
            cutter.cut(group, {})
        return cutter.done
    images = list(images_of(batches, net))
    if not images:
        raise RunError("the statistics saw no image; check prune.images and the train part")
    with judging(net):
        calls, peak = trace(net, images[0][:1])
        joined = peak * sum(map(len, images)) <= memory_limit
        run: list[Group] = []
        for group in groups:
            if joined and _one_pass(group, calls):
                run.append(group)
                continue
            cutter.in_one_pass(run, images)
            run = []
            cutter.in_own_pass(group, images, calls)
        cutter.in_one_pass(run, images)
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
    ) -> None:
        self.net, self.selector, self.seed = net, selector, seed
        self.counts, self.reconstruct = counts, reconstruct
        self.totals = Totals(seed)
        self.alive: dict[tuple[str, int], Tensor] = {}
        self.done = Selection({}, {})

    def observers(self, group: Group) -> tuple[Observer, ...]:
        return observers_of(self.net, group, self.selector, self.reconstruct)

    def now(self, group: Group) -> Group:
        """The group with the positions that earlier cuts of other groups have left."""

        def current(slot: Slot) -> Slot:
            alive = self.alive.get((slot.parameter, slot.dim))
            return slot if alive is None else replace(slot, classes=slot.classes[alive])

        return replace(
            group,
            producers=tuple(map(current, group.producers)),
            followers=tuple(map(current, group.followers)),
            consumers=tuple(map(current, group.consumers)),
        )

    def in_one_pass(self, groups: Sequence[Group], images: Sequence[Tensor]) -> None:
        """One forward of all images; every group is cut in front of its only consumer."""
        if not groups:
            return
        left = {group.name for group in groups}
        watch: dict[str, tuple[Observer, ...]] = {}
        deciders = {}
        for group in groups:
            entrance = Tap(group.consumers[0].module, "input")
            observers = self.observers(group)
            watch[group.name] = tuple(o for o in observers if o.tap != entrance)
            here = tuple(o for o in observers if o.tap == entrance)
            deciders[entrance] = self._decider(group, here, left)
        readers = {**readers_of(watch, self.totals), **deciders}
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

    def _decider(self, group: Group, here: tuple[Observer, ...], left: set[str]) -> Any:
        def decide(module: nn.Module, x: Tensor) -> Tensor:
            for observer in here:
                self.totals.add(group.name, observer, module, x)
            kept = self.cut(group, self.totals.take(group.name))
            left.discard(group.name)
            if not left:
                raise Enough
            return _narrowed(module, x, group.consumers[0], kept)

        return decide

    def in_own_pass(self, group: Group, images: Sequence[Tensor], calls: Mapping[str, int]) -> None:
        """Statistics from the start of the network up to the last tap, then the cut."""
        watch = {group.name: self.observers(self.now(group))}
        readers = stopping(readers_of(watch, self.totals), calls)
        for batch in images:
            with tapped(self.net, readers), suppress(Enough):
                self.net(batch)
        self.cut(group, self.totals.take(group.name))

    def cut(self, group: Group, statistics: Mapping[str, Tensor]) -> Tensor:
        """Rank, cut and rescale one group. Returns the kept class ids."""
        now, weights = self.now(group), self.net.state_dict()
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


def _one_pass(group: Group, calls: Mapping[str, int]) -> bool:
    """Whether everything that makes this group's channels has run when its consumer is reached."""
    return (
        group.interior
        and len(group.consumers) == 1
        and all(calls.get(slot.module, 0) == 1 for slot in group.slots)
        and all(bool((slot.classes >= 0).all()) for slot in group.slots)
    )
