"""model/: the artefact folder that `compressor.load` opens, with its figures and its feeding."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from compressor import manifest
from compressor.artefact import EXTRAS, add_feeding
from compressor.export import Exporter, Finished


class Network(Exporter):
    """What a user ships: the network with its figures, without the curves of its making."""

    name = "network"
    files = ("model",)

    def write(self, finished: Finished, run_dir: Path) -> Mapping[str, float]:
        folder, made = run_dir / "model", finished.made
        unwanted = shutil.ignore_patterns("tensorboard", EXTRAS, "*.csv", "*.npy")
        shutil.copytree(made.folder, folder, ignore=unwanted)
        manifest.write_json(folder / "metrics.json", made.metrics)
        add_feeding(folder, finished.data.preprocess, finished.data.classes)
        manifest.seal(folder, {"stage": "model"})
        return {}
