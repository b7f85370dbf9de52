"""What a run came to, in sentences: the same ones under the closing table and in report.md.

Each takes the report and returns a sentence, or "" where there is nothing to say.
"""

from collections.abc import Mapping
from typing import Any

from compressor.durations import duration
from compressor.report import latencies
from compressor.report.headline import headline_of
from compressor.report.setting import model_name

_MISSED = 0.1  # of the latency that was asked for: a final measurement further off is told


def conclusion(report: Mapping[str, Any]) -> str:
    points = list(report["points"].values())
    dense, final = points[0], points[-1]
    parts = []
    for figure, name in (("macs", "MACs"), ("params", "parameters")):
        if final.get(figure) is not None and dense.get(figure):
            parts.append(f"{final[figure] / dense[figure]:.3f} of the dense {name}")
    text = "Final network: " + " and ".join(parts) if parts else "Final network"
    whole = report.get("unscaled")  # of a scaled network "dense" is only half of what was saved
    if whole:
        shares = [final[figure] / whole[figure] for figure in ("macs", "params")]
        text += f" ({shares[0]:.3f} and {shares[1]:.3f} of the unscaled network's)"
    headline = headline_of(report)
    ends, begins = final.get(headline.name), dense.get(headline.name)
    if ends is not None and begins is not None:
        text += f", test {headline.words} {ends:.4f} ({ends - begins:+.4f} against dense)"
    return text + "."


def start(report: Mapping[str, Any]) -> str:
    return begun(report["start"]) if report.get("start") else ""


def begun(found: Mapping[str, Any]) -> str:
    """What a walk began with. found: the report's `start`."""
    of = f"the network of the run {found['path']}"
    if found["kind"] == "weights":
        of = f"the weights of {found['path']}"
    cut = ", which had been cut before: ratios, budgets and shares are of that" * found["cut"]
    name = model_name(str(found["model"]["_target_"]), found["model"])
    return f"Start: {name} with {of}{cut}."


def balance(report: Mapping[str, Any]) -> str:
    """What the accuracy hides where classes are unequal."""
    final = list(report["points"].values())[-1]
    if not unequal(report) or final.get("balanced_accuracy") is None:
        return ""
    names, recall = report["classes_read"]["names"], final.get("class_recall") or ()
    known = [(value, name) for value, name in zip(recall, names, strict=False) if value is not None]
    text = (
        f"The classes are unequal: balanced accuracy {final['balanced_accuracy']:.4f}, macro-F1 "
        f"{final['macro_f1']:.4f}"
    )
    if known:
        value, name = min(known)
        text += f", the lowest recall {value:.4f} (class {name})"
    return text + "."


def unequal(report: Mapping[str, Any]) -> bool:
    """Whether a class has more than twice the images of another, in training or in the test."""
    found = report.get("classes_read") or {}
    parts = [[count for count in found.get(part, ()) if count] for part in ("train", "test")]
    return any(max(counts) > 2 * min(counts) for counts in parts if counts)


def kept(report: Mapping[str, Any]) -> str:
    widths = report.get("widths") or {}
    if not widths:
        return "Kept: every channel (no layer was cut)."
    before, after = (sum(pair[i] for pair in widths.values()) for i in (0, 1))
    cut = sum(pair[0] != pair[1] for pair in widths.values())
    text = f"Kept: {after:,} of {before:,} channels; {cut} of {len(widths)} layers listed were cut"
    ratio = report.get("ratio")
    if isinstance(ratio, Mapping) and ratio.get("achieved") is not None:
        asked = ratio.get("asked")
        text += f"; ratio removed {ratio['achieved']:.4g}"
        text += f", asked {asked:.4g}" if isinstance(asked, (int, float)) else ""
    return text + "."


def budget(report: Mapping[str, Any]) -> str:
    """What a budget of latency asked for and got, and layers that a budget left next to nothing."""
    asked = report.get("budget") or {}  # not in earlier reports
    found = (report.get("allocation") or {}).get("latency") or {}
    parts = []
    if asked.get("latency") and "share" in found:
        words = latencies.asked_cell(asked["latency"], found["share"], found.get("interval"))
        parts.append(f"Budget of latency: {words} when the widths were chosen.")
        parts.append(_missed(asked["latency"], list(report["points"].values())[-1]))
    least = ((report.get("config") or {}).get("prune") or {}).get("min_channels") or 1
    widths = (report.get("widths") or {}).items()
    thin = [name for name, (before, after) in widths if after <= least and after < before]
    if asked and thin:
        few = ", ".join(thin[:3]) + (", ..." if len(thin) > 3 else "")
        parts.append(
            f"The budget took {len(thin)} of {len(widths)} layers to the least width, {least} "
            f"channel{'' if least == 1 else 's'} ({few})."
        )
    return " ".join(part for part in parts if part)


def _missed(asked: float, final: Mapping[str, Any]) -> str:
    """That the final measurement is far from the share that was asked for, where it is."""
    ratio = final.get("latency_ratio")
    if not ratio or not latencies.is_steady(final):
        return ""  # of an unsteady one nothing can be concluded
    off = ratio["median"] / asked - 1
    if abs(off) <= _MISSED:
        return ""
    cell = latencies.ratio_cell(ratio["median"], (ratio["low"], ratio["high"]), True)
    return (
        f"The final measurement misses that: {cell}, {abs(off):.0%} "
        f"{'more' if off > 0 else 'less'} than asked; {latencies.AGAIN}."
    )


def latency(report: Mapping[str, Any]) -> str:
    points = report["points"]
    spread = next((p["latency_ms"] for p in points.values() if p.get("latency_ms")), None)
    if spread is None:
        return ""
    earlier = "; measured by another run before" if report.get("latency_reused") else ""
    text = (
        f"Latency at batch {spread['batch_size']}, {spread['threads']} "
        f"thread{'' if spread['threads'] == 1 else 's'}: the ratio to the dense network, paired in "
        "rounds of turns, with its 95 % interval; milliseconds are that network's median times it"
        f"{earlier}."
    )
    timed = {name: point for name, point in points.items() if point.get("latency_ms")}
    ratio = [name for name, point in timed.items() if not latencies.is_steady(point)]
    if ratio:
        text += (
            f" The ratio of {', '.join(ratio)} is unsteady: nothing can be concluded from it; "
            f"{latencies.AGAIN}."
        )
    if any(not latencies.is_steady(point, "latency_ms") for point in timed.values()):
        text += (
            f" Milliseconds that are unsteady ({latencies.ROUGH}) are those of a busy machine: "
            "another session would find others."
        )
    return text


def labels(report: Mapping[str, Any]) -> str:
    found = report.get("labels") or {}
    parts = []
    if found.get("labelled") is not None:
        parts.append(f"{found['labelled']:.3g} of the train images had one")
    if found.get("flip_rate"):
        of = "these" if parts else "the train part's labels"
        parts.append(f"{found['flip_rate']:.1%} of {of} were flipped")
    if found.get("pixel_noise"):
        parts.append(
            f"they are right, and noise of standard deviation {found['pixel_noise']:g} lay on the "
            "training's normalised images"
        )
    if found.get("known") is False:
        parts.append("they come from a file, and which are right is unknown")
    if found.get("changed") is not None:
        dropped = found.get("dropped")
        text = f"the remedy changed {found['changed']:.1%}"
        text += f" and left {dropped:.1%} out" if dropped else ""
        if found.get("wrong_corrected") is not None:
            text += f", which puts {found['wrong_corrected']:.1%} of the wrong ones right"
            text += f", is rid of {found['wrong_dropped']:.1%} of them" if dropped else ""
            of = "those kept" if dropped else "all"
            text += f" and leaves {found['right']:.1%} of {of} right"
            text += ", fewer than before" if found["right"] < 1 - found["flip_rate"] else ""
        parts.append(text)
    for stage, terms in (found.get("unread") or {}).items():
        words = {"train": "the training", "finetune": "fine-tuning"}[stage]
        parts.append(f"{words} read none of them: distill={terms} learns from its teacher alone")
    forget = _of_remedy(report, "forget")
    if forget is not None:
        parts.append(f"co-teaching left {forget:.3g} of each batch out in the end")
    if found.get("finetune") == "none":
        pass
    elif found.get("finetune") not in (None, "clean"):
        parts.append(f"fine-tuning used the {found['finetune']} ones")
    elif found.get("clean_fraction", 1) < 1:
        parts.append(f"fine-tuning used {found['clean_fraction']:.3g} of the clean ones")
    elif found.get("finetune") and found.get("flip_rate"):
        parts.append("fine-tuning used all the clean ones, so that remedies differ less after it")
    return f"Labels: {'; '.join(parts)}." if parts else ""


def skipped(report: Mapping[str, Any]) -> str:
    names = report.get("skipped_images") or []
    if not names:
        return ""
    few = ", ".join(f"`{name}`" for name in names[:5])
    more = ", all of them in `report.json` under `skipped_images`" if len(names) > 5 else ""
    folders = sum(name.endswith("/") for name in names)
    counts = [(len(names) - folders, "image"), (folders, "folder")]
    number = " and ".join(f"{n:,} {what}{'s' * (n > 1)}" for n, what in counts if n)
    return f"{number} could not be read and took no part: {few}{more}."


def _of_remedy(report: Mapping[str, Any], name: str) -> Any:
    """A figure that the training's remedy noted, None where there is none."""
    for notes in (report.get("training") or {}).values():
        found = notes.get("robust")
        if isinstance(found, Mapping) and name in found:
            return found[name]
    return None


def baselines(report: Mapping[str, Any]) -> str:
    made = report.get("baselines") or {}
    if not made:
        return ""
    headline = headline_of(report)
    found = {name: each[headline.name] for name, each in made.items()}
    shown = ", ".join(
        f"{name} {found[name]:.4f}"
        + (f" ({each['epochs']} epochs)" if "epochs" in each else "")  # not in earlier reports
        for name, each in made.items()
    )
    best = (max if headline.higher else min)(found, key=found.get)
    change = list(report["points"].values())[-1][headline.name] - found[best]
    return (
        f"Baselines, one training each by the recipe of train and without a remedy: "
        f"{shown}; the final network has {change:+.4f} against the best of them, {best}."
    )


def picked(report: Mapping[str, Any]) -> str:
    """The epoch that each training went on with, where that is not its last one."""
    parts = [
        f"{name} {notes['picked_epoch']} of {notes['last_epoch']}"
        for name, notes in (report.get("training") or {}).items()
        if notes.get("last_epoch") not in (None, notes.get("picked_epoch"))
    ]
    return f"Chosen epochs: {', '.join(parts)}." if parts else ""


def taught(report: Mapping[str, Any]) -> str:
    """What distillation has to tell beside the figures of the table."""
    name, words, parts = headline_of(report).name, headline_of(report).words, []
    for notes in (report.get("training") or {}).values():
        for figure, value in (notes.get("teacher_val") or {}).items():
            parts.append(f"the teacher's validation {figure} is {value:.4f}")
        made = notes.get("made_images")
        if made:
            parts.append(
                f"of made images the teacher is {made['teacher_confidence']:.1%} sure, with a "
                f"class entropy of {made['class_entropy']:.3f}, and the student agrees with it on "
                f"{made['agreement']:.1%}"
            )
        if made and any("agreement" in name for name in notes):
            parts.append(
                "no image and no label of the data was read for it: its epochs are told by "
                "agreement with the teacher on made images"
            )
        heads = notes.get("heads")
        if heads and f"val_{name}" in heads:
            each = ", ".join(f"{value:.4f}" for value in heads[f"val_{name}"])
            several = "accuracies" if words == "accuracy" else words
            parts.append(
                f"the heads have validation {several} {each}, together "
                f"{heads[f'ensemble_val_{name}']:.4f}, and the first is kept"
            )
    return f"Distillation: {'; '.join(dict.fromkeys(parts))}." if parts else ""


def times(report: Mapping[str, Any]) -> str:
    parts = []
    for stage in report.get("stages", ()):
        if stage.get("skipped"):
            continue
        parts.append(f"{stage['name']} {duration(stage['seconds'])}")
        if stage["reused"]:
            parts[-1] = f"{stage['name']} reused"
    total = f", {duration(report['seconds'])} in all" if report.get("seconds") is not None else ""
    return f"Time: {', '.join(parts) or 'no stage ran'}{total}."
