"""What became of the labels of a run: labels.npz, pictures of changed ones, figures for the report.

labels.npz   index (place in the data set's own training list), clean, given, corrected (if
             the remedy corrects labels; corrected_soft are its distributions, up to MOST numbers),
             kept (bool, where it leaves images out), labelled (bool, where not all labels may be
             read), transition (realised, of those that may be read)
changed.npz  a few images whose labels were changed, with both labels
damaged.npz  a few images as they are and as the training saw them, where noise lay on them
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compressor.artefact import Artefact
from compressor.robust import DROPPED
from compressor.stages.train import CORRECTED

if TYPE_CHECKING:
    from compressor.experiment import Experiment

SHOWN = 24  # images in the sheet
MOST = 5_000_000  # probabilities in labels.npz: 20 MB before compression


def figures(
    experiment: "Experiment", records: Sequence[Mapping[str, Any]], artefacts: Sequence[Artefact]
) -> dict[str, Any]:
    """The report's `labels`: shares of the train part's labels that may be read.

    Empty for a task that has none.
    """
    if not experiment.task.labelled:
        return {}
    labels = experiment.labels
    found: dict[str, Any] = {"key": labels.key, "flip_rate": labels.flip_rate}
    if not labels.known:
        found["known"] = False
    if labels.damage is not None:
        found["pixel_noise"] = experiment.config["noise"]["sigma"]
    if labels.labelled is not None:
        found["labelled"] = len(labels.labelled) / len(labels.clean)
    now = corrected(records, artefacts)
    if now is not None:
        rows = slice(None) if labels.labelled is None else labels.labelled
        now, given, clean = now[rows], labels.given[rows], labels.clean[rows]
        kept = now != DROPPED
        found["changed"] = _share((now != given) & kept)
        if not bool(kept.all()):
            found["dropped"] = _share(~kept)
        if labels.known and labels.noisy:
            wrong = given != clean
            found["right"] = _share((now == clean)[kept])
            found["wrong_corrected"] = _share((now == clean)[wrong])
            if "dropped" in found:
                found["wrong_dropped"] = _share(~kept[wrong])
    teaching = experiment.teaching
    acted = {record["name"] for record in records if not record["skipped"]}
    if teaching.at in acted and not teaching.is_none and not teaching.reads_labels:
        # under a teacher alone: that labels are wrong did not matter to this stage
        found["unread"] = {teaching.at: teaching.names}
    if "finetune" in acted:
        share = experiment.recipes.finetune.clean_fraction
        found |= {"finetune": experiment.finetune_labels(), "clean_fraction": share}
        if "finetune" in found.get("unread", ()):
            found |= {"finetune": "none", "clean_fraction": 0.0}
    return found


def classes(experiment: "Experiment") -> dict[str, list[Any]]:
    """The report's `classes_read`: the names of the classes, and how often each occurs.

    train: among the labels that may be read, as they were given; test: in the test part. Empty for
    a task that has no label an image.
    """
    if not experiment.task.labelled:
        return {}
    data, labels = experiment.data, experiment.labels
    rows = slice(None) if labels.labelled is None else labels.labelled
    number = data.num_classes
    return {
        "names": list(data.classes),
        "train": torch.bincount(labels.given[rows], minlength=number).tolist(),
        "test": torch.bincount(data.labels("test"), minlength=number).tolist(),
    }


def corrected(records: Sequence[Mapping[str, Any]], artefacts: Sequence[Artefact]) -> Tensor | None:
    """(n,) int64, what the training's remedy took the labels to be in the end, or DROPPED."""
    stored = _stored(records, artefacts)
    if stored is None:
        return None
    return torch.from_numpy(stored.argmax(axis=1) if stored.ndim == 2 else stored.copy())


def _stored(
    records: Sequence[Mapping[str, Any]], artefacts: Sequence[Artefact]
) -> np.ndarray | None:
    for record, made in zip(records, artefacts, strict=True):
        path = made.folder / CORRECTED
        if record["name"] == "train" and path.is_file():
            return np.load(path, mmap_mode="r")
    return None


def keep(
    experiment: "Experiment",
    records: Sequence[Mapping[str, Any]],
    artefacts: Sequence[Artefact],
    run_dir: Path,
) -> None:
    """Write the files where there is something to say: noise, a remedy that changed labels, images
    without one.
    """
    labels, now = experiment.labels, corrected(records, artefacts)
    if labels.damage is not None and not experiment.data_free:
        _keep_damaged(experiment, run_dir)
    if not labels.noisy and now is None and labels.labelled is None:
        return
    arrays = {"index": experiment.data.rows("train"), "given": labels.given}
    if labels.known:
        arrays["clean"] = labels.clean
        arrays["transition"] = labels.transition
    if now is not None:
        kept = now != DROPPED
        now = torch.where(kept, now, labels.given)
        arrays["corrected"] = now
        soft = _stored(records, artefacts)
        if soft.ndim == 2 and soft.size <= MOST:
            arrays["corrected_soft"] = torch.from_numpy(soft.copy())
        if not bool(kept.all()):
            arrays["kept"] = kept
    if labels.labelled is not None:
        arrays["labelled"] = torch.zeros(len(labels.given), dtype=torch.bool)
        arrays["labelled"][labels.labelled] = True
    np.savez_compressed(run_dir / "labels.npz", **{k: v.numpy() for k, v in arrays.items()})
    was_corrected = now is not None and not torch.equal(now, labels.given)
    before, after = (labels.given, now) if was_corrected else (labels.clean, labels.given)
    places = before != after
    if labels.labelled is not None:
        places &= arrays["labelled"]
    places = torch.nonzero(places).flatten()
    if len(places) and not experiment.data_free:
        # spread over the whole part, the same ones in every run
        chosen = places[torch.linspace(0, len(places) - 1, min(SHOWN, len(places))).long()]
        images = experiment.data.pixels("train", chosen)
        names = experiment.data.classes
        truth = labels.clean[chosen] if labels.known else torch.full_like(chosen, -1)
        np.savez_compressed(
            run_dir / "changed.npz",
            images=images.permute(0, 2, 3, 1).numpy(),
            before=before[chosen].numpy(),
            after=after[chosen].numpy(),
            clean=truth.numpy(),
            corrected=np.array(was_corrected),
            names=np.array(names),
        )


def _keep_damaged(experiment: "Experiment", run_dir: Path) -> None:
    data = experiment.data
    n = data.size("train")
    chosen = torch.linspace(0, n - 1, min(SHOWN // 3, n)).long()
    before, _, index = next(iter(data.loader("train", len(chosen), indices=chosen)))
    scale, offset = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.std, data.mean))
    sheets = {"before": before, "after": experiment.labels.damage(before, index, 0)}
    for name, images in sheets.items():
        pixels = ((images * scale + offset).clamp(0, 1) * 255).round().to(torch.uint8)
        sheets[name] = pixels.permute(0, 2, 3, 1).numpy()
    np.savez_compressed(run_dir / "damaged.npz", **sheets)


def _share(mask: Tensor) -> float:
    return mask.double().mean().item() if len(mask) else 0.0
