"""The sensitivity of a run's layers: a table in its folder, where it is asked for or was used.

It belongs to the network that the cut begins with, and like a latency to no stage's artefact: with
stages=[train] the table comes alone, and a cut that is made later finds it in the cache.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.artefact import Artefact
from compressor.stages import Given
from compressor.stages._case import Case
from compressor.stages._sensitivity import table

if TYPE_CHECKING:
    from compressor.experiment import Experiment

FILE = "sensitivity.csv"


def of_run(
    experiment: "Experiment", records: list[dict[str, Any]], artefacts: list[Artefact]
) -> dict[str, Any] | None:
    """`_sensitivity.table` of the network that is cut, or would be; None where nobody wants it."""
    if not experiment.pruning.wants_table:
        return None
    names = [record["name"] for record in records]
    dense = artefacts[names.index("compress") - 1 if "compress" in names else -1]
    # the stage's own context: it draws the same images
    context = experiment.context(("compress", 1), Path(), {})
    given = Given(experiment.spec, dense, experiment.base)
    return table(Case.of(given, experiment.pruning, context))


def write(found: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Write the rows as a table of their own. Returns what the report says about it."""
    with (run_dir / FILE).open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, list(found["rows"][0]))
        rows.writeheader()
        rows.writerows(found["rows"])
    return {"file": FILE, **{name: value for name, value in found.items() if name != "rows"}}
