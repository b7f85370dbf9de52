"""Widths for a budget of latency: a search over shares of the MACs with a few measurements.

Latency follows no formula (a width that is no multiple of 8 can cost more than a larger one), so
candidates are timed, each in turns with the dense network. Between measured points the latency is
interpolated along the MACs; the widths of a share of the MACs are `_budget`'s. The measurements are
an entry of the cache of their own, so that every run on this machine decides alike, and the share
of the MACs that they end in is told: prune.budget.macs of it gives the same widths anywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compressor import latency, manifest, surgery
from compressor.artefact import Spec
from compressor.cache import Cache, key_of
from compressor.errors import RunError, UsageError
from compressor.instantiation import builders, sources
from compressor.measure import count_macs
from compressor.stages import Machine
from compressor.stages._allocate import Family
from compressor.stages._budget import TIMED, at_share, tolerance, unreachable
from compressor.stages._options import WidthOptions
from compressor.surgery import EMPTY_PLAN, Group, Plan, Structure

VERSION = 2
ROUNDS = 8  # candidates that are timed at most
AIM = 0.03  # of the latency that is asked for: near enough to stop
_SAMPLES = 64  # members of a family that stand for it in a key

Timer = Callable[[Mapping[str, int]], dict[str, Any]]


@dataclass(frozen=True)
class Bench:
    """Where networks of any widths are timed: on the CPU, as the latency of a report is."""

    net: nn.Module
    spec: Spec
    plan: Plan
    cache: Cache
    machine: Machine
    note: Callable[[str], None]
    original: nn.Module | None = None
    """The dense network, where `net` has been cut before."""
    base: Plan = EMPTY_PLAN
    """What had been done to the dense network before the walk."""

    def widths(
        self,
        structure: Structure,
        groups: Sequence[Group],
        options: WidthOptions,
        family: Family,
    ) -> dict[str, Any]:
        """What `solve` finds, remembered for this machine."""
        if not self.machine.latency_seconds:
            raise UsageError(
                f"prune.budget.latency={options.budget[1]} is met by measuring, and "
                "machine.latency_seconds=0 forbids it; give it some seconds"
            )
        key = key_of(
            stage="widths",
            version=VERSION,
            spec=self.spec.to_json(),
            code=sources({"_target_": self.spec.factory}),
            libraries=builders(self.spec.factory),
            plan=self.plan.to_json(),
            **({"base": self.base.to_json()} if self.base.operations else {}),
            family=[family(i / _SAMPLES) for i in range(_SAMPLES + 1)],
            share=options.budget[1],
            **latency.facts(self.machine),
        )

        def take(folder: Path) -> None:
            dense = (
                None if self.original is None else count_macs(self.original, self.spec.input_size)
            )
            timed = self._timer(structure)
            found = solve(structure, groups, options, family, timed, dense)
            manifest.write_json(folder / "widths.json", found)

        self.cache.obtain(key, "widths", take)
        return manifest.read_json(self.cache.folder(key) / "widths.json")

    def _timer(self, structure: Structure) -> Timer:
        start = surgery.duplicate(self.net).cpu()
        dense = start if self.original is None else surgery.duplicate(self.original).cpu()

        def timed(counts: Mapping[str, int]) -> dict[str, Any]:
            keep = {name: torch.arange(count) for name, count in counts.items()}
            plan = surgery.plan_cut(structure, keep)
            small = surgery.replay(surgery.duplicate(start), plan)
            found = latency.in_turns(dense, small, self.spec.input_size, self.machine, self.note)
            self.note(
                f"latency: {found['share']:.3f} of the dense one ({found['small']:.3g} ms of "
                f"{found['dense']:.3g} ms) with {structure.macs(counts):,} MACs"
            )
            return found

        return timed


def solve(
    structure: Structure,
    groups: Sequence[Group],
    options: WidthOptions,
    family: Family,
    timed: Timer,
    dense: int | None = None,
) -> dict[str, Any]:
    """The widths whose measured latency is options.budget's share of the dense one.

    timed: widths -> as `latency.in_turns`: the paired ratio of the "small" network to the "dense"
    one is the "share".
    dense: the dense network's MACs, where this one has been cut before.
    Returns {"counts": group -> channels kept, "share", "interval", "macs": of the dense network's,
    "dense", "small": milliseconds, "points": all that was measured}. An unsteady ratio is refused
    by `timed`.
    """
    share = options.budget[1]
    points: list[dict[str, Any]] = []
    full = structure.macs({})
    dense = dense or full

    def measure(counts: dict[str, int]) -> dict[str, Any]:
        found = timed(counts)
        point = {"macs": structure.macs(counts) / dense, **found, "counts": counts}
        points.append(point)
        return point

    low = measure(family(1.0))["share"]
    most = family(0.0)
    if structure.macs(most) == dense:
        high, known = 1.0, [(1.0, 1.0)]
    else:  # earlier rounds have cut, or layers with ratios of their own are cut whatever the budget
        high, known = measure(most)["share"], []
    if not low - tolerance(options) <= share <= high + tolerance(options):
        raise UsageError(unreachable(options, low, high, " on this machine"))
    for turn in range(ROUNDS):
        seen = [*known, *((point["macs"], point["share"]) for point in points)]
        # interpolation alone creeps along a bent curve from one side
        macs = between(seen, share, halve=turn % 3 == 2)
        counts = at_share(structure, groups, options, family, "macs", macs * dense / full)
        if any(point["counts"] == counts for point in points):
            break
        if abs(measure(counts)["share"] - share) <= AIM * share:
            break
    best = min(points, key=lambda point: abs(point["share"] - share))
    if abs(best["share"] - share) > TIMED * share:
        raise RunError(
            f"prune.budget.latency={share} is missed: of {len(points)} widths that were timed the "
            f"nearest has {best['share']:.3f} of the dense latency; lower prune.round_to, or give "
            "machine.latency_seconds more on a machine that is busy"
        )
    told = [{name: point[name] for name in point if name != "counts"} for point in points]
    return {**best, "points": told}


def between(points: Sequence[tuple[float, float]], share: float, halve: bool = False) -> float:
    """The MACs at which the latency is `share`, by interpolation; points: (MACs, latency).

    Noise must not turn it back: a point is taken for no faster than one with fewer MACs.
    halve: the middle between the two points on either side instead.
    """
    macs, latencies = np.array(sorted(points)).T
    # strictly rising, which is what the interpolation wants of its axis
    rising = np.maximum.accumulate(latencies) + 1e-9 * np.arange(len(latencies))
    place = int(np.searchsorted(rising, share))
    if halve and 0 < place < len(macs):
        return float(macs[place - 1 : place + 1].mean())
    return float(np.interp(share, rising, macs))
