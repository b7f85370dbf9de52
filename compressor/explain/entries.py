"""The probes of a run: read once when the experiment begins, each an entry of the cache."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressor import manifest
from compressor.cache import Cache, key_of
from compressor.errors import UsageError
from compressor.explain import Probe, Subjects
from compressor.instantiation import make, sources
from compressor.seeding import derive

POINTS = ("dense", "compressed", "recalibrated", "final")
FIGURES = "figures.json"


@dataclass(frozen=True)
class Chosen:
    """A probe by the name under which it was typed, and a digest of its options and its code."""

    name: str
    probe: Probe
    options_key: str

    def obtain(
        self,
        subjects: Subjects,
        data_key: str,
        cache: Cache,
        note: Callable[[str], None],
    ) -> tuple[Path, dict[str, float]]:
        """The folder of what it finds, and its figures; made where the cache does not have it.

        subjects: of all points. data_key: digest of the images of all parts. note: told what
        happens, a line each.
        """
        read = {point: subjects.artefacts[point] for point in self.probe.points}
        seed = derive(subjects.seed, "explain", self.name)
        key = key_of(
            stage="explain",
            version=self.probe.version,
            options=self.options_key,
            artefacts={point: made.key for point, made in read.items()},
            task=subjects.task.name,
            data=data_key,
            seed=seed,
        )

        def take(folder: Path) -> None:
            note(f"explain: {self.name}")
            found = self.probe.look(replace(subjects, artefacts=read, seed=seed), folder)
            manifest.write_json(folder / FIGURES, dict(found))

        cache.obtain(key, "explain", take)
        folder = cache.folder(key)
        return folder, manifest.read_json(folder / FIGURES)


def read(options: Mapping[str, Any]) -> tuple[Chosen, ...]:
    """options: configs/explain."""
    return tuple(_chosen(name, tree) for name, tree in options["terms"].items())


def _chosen(name: str, tree: Mapping[str, Any]) -> Chosen:
    probe = make(tree)
    if not isinstance(probe, Probe):
        raise UsageError(f"explain={name}: {tree['_target_']} is no compressor.explain.Probe")
    unknown = [point for point in probe.points if point not in POINTS]
    if unknown:
        raise UsageError(
            f"explain={name} asks for the network at {', '.join(unknown)}: the points of a run are "
            f"{', '.join(POINTS)}"
        )
    return Chosen(name, probe, key_of(options=dict(tree), code=sources(tree)))
