"""Synthetic run folders: files as a run leaves them, with numbers that a reader can follow."""

import json
import math

import pytest

DENSE = {"accuracy": 0.98, "loss": 0.08, "macs": 1_000_000, "params": 20_000, "size_bytes": 81_920}


def ratio(median, low=None, high=None, steady=True):
    """A latency's ratio to the dense network; by default 2 % to either side."""
    ends = {"low": 0.98 * median if low is None else low}
    ends["high"] = 1.02 * median if high is None else high
    return {"median": median, **ends, "steady": steady}


def point(accuracy, macs=500_000, params=10_000, latency=6.0):
    return {
        "accuracy": accuracy,
        "loss": round(1 - accuracy, 6),
        "macs": macs,
        "params": params,
        "size_bytes": 4 * params + 1920,
        "latency_ms": {
            "median": latency,
            "low": latency - 0.5,
            "high": latency + 1.25,
            "batch_size": 1,
            "threads": 2,
            "steady": True,
        },
        "latency_ratio": ratio(latency / 12.0),
    }


def stage(name, seconds, reused=False, key=None):
    key = key or name.encode().hex().ljust(64, "0")
    return {"name": name, "key": key, "seconds": seconds, "reused": reused, "skipped": False}


@pytest.fixture
def a_report():
    """Make a report.json's content: a run that halves a network and loses `loss` of accuracy."""

    def make(accuracy=0.97, ratio=0.5, method="thinet", seed=0, dense=0.98, epochs=5, config=None):
        share = 1 - ratio
        cut = {"macs": round(1_000_000 * share), "params": round(20_000 * share)}
        return {
            "schema_version": 1,
            "command": f"compress-run prune={method} prune.ratio={ratio} seed={seed}",
            "seed": seed,
            "config": {
                "prune": {"_target_": f"compressor.prune.{method}.Method"},
                **(config or {}),
            },
            "stages": [
                stage("train", 61.5, key=f"train-{seed}-{dense}"),
                stage("compress", 2.25),
                stage("recalibrate", 0.5, reused=True),
                stage("finetune", 130.0, key=f"finetune-{seed}-{dense}-{accuracy}"),
            ],
            "points": {
                "dense": {**point(dense, 1_000_000, 20_000, 12.0)},
                "compressed": point(0.41, **cut),
                "recalibrated": point(0.8, **cut),
                "final": point(accuracy, **cut),
            },
            "kept": {"layer1.0.conv1": [0, 2, 5], "layer1.1.conv1": [1, 3]},
            "widths": {
                f"layer{i + 1}.{j}.conv1": [16 * 2**i, math.ceil(16 * 2**i * share)]
                for i in range(3)
                for j in range(3)
            },
            "ratio": {"asked": ratio, "achieved": ratio},
            "seconds": 200.0,
            "environment": {
                "python": "3.11.2",
                "packages": {"torch": "2.15.0", "timm": None},
                "git": {"commit": "0123abcd", "dirty": True},
                "processor": "A Processor",
                "gpus": [],
            },
            "parity": {"surgery": 1.5e-7, "onnx": 1e-6, "onnx_accuracy": accuracy},
            "labels": {"flip_rate": 0.0},
            "history": {"train": "history/dense.csv", "finetune": "history/final.csv"},
        }

    return make


@pytest.fixture
def a_run(a_report):
    """Write a run folder. `epochs` of 0 leaves the histories' headers alone."""

    def write(folder, epochs=5, **options):
        report = a_report(**options)
        (folder / "history").mkdir(parents=True)
        heads = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds\n"
        for name, start in (("dense", 2.0), ("final", 0.6)):
            lines = [
                f"{e},{start * 0.6**e:.4f},{1 - 0.4 * start * 0.6**e:.4f},"
                f"{start * 0.65**e + 0.05:.4f},{0.98 - 0.4 * start * 0.6**e:.4f},0.001,12.5\n"
                for e in range(epochs)
            ]
            (folder / "history" / f"{name}.csv").write_text(heads + "".join(lines))
        (folder / "report.json").write_text(json.dumps(report))
        (folder / "status.json").write_text('{"state": "done"}')
        return report

    return write


@pytest.fixture
def a_sweep(tmp_path, a_run):
    """Write a multirun's folder from (overrides, options of the run or None if it failed) pairs."""

    def write(*members, folder=tmp_path / "sweep"):
        for number, (overrides, options) in enumerate(members):
            home = folder / str(number)
            (home / ".hydra").mkdir(parents=True)
            lines = "".join(f"- {override}\n" for override in overrides)
            (home / ".hydra" / "overrides.yaml").write_text(lines or "[]\n")
            if options is None:
                status = {"state": "failed", "error": "prune.ratio=2 is no\nfraction | of channels"}
                (home / "status.json").write_text(json.dumps(status))
            else:
                a_run(home, **options)
        return folder

    return write
