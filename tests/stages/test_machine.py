import pytest

from compressor.errors import UsageError
from compressor.stages import Machine

DEFAULTS = {
    "accelerator": "cpu", "devices": 1, "strategy": "auto", "threads": None, "workers": 0,
    "progress": False, "log_every": 10, "eval_batch_size": 256, "channels_last": True,
    "latency_batch_size": 1, "latency_seconds": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"accelerator": "foo"}, "choose one of auto, cpu, gpu, cuda, mps"),
        ({"accelerator": "mps"}, "there is none in this machine"),
        ({"accelerator": "gpu"}, "there is none in this machine, which has auto, cpu"),
        ({"devices": 0}, "must not be 0: give a number of devices"),
        ({"devices": -1}, "which has"),  # all of them: of GPUs alone
        ({"devices": -2}, "must be at least -1"),
        ({"devices": 4096}, "which has"),
        ({"strategy": "foo"}, "choose one of auto, ddp"),
        # it would run the whole command again, and wait for itself
        ({"strategy": "fsdp"}, "choose one of auto, ddp"),
    ],
)
def test_what_lightning_would_refuse_late_is_refused_at_once(wrong, expected, monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (key,) = wrong
    with pytest.raises(UsageError, match=f"machine.{key}={wrong[key]}") as caught:
        Machine(**{**DEFAULTS, **wrong})
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "right",
    [{}, {"accelerator": "auto"}, {"devices": "auto"}, {"strategy": "ddp"}],
)
def test_what_lightning_takes_is_taken(right):
    Machine(**{**DEFAULTS, **right})


@pytest.mark.parametrize(
    ("asked", "several"),
    [({}, False), ({"devices": "auto"}, False), ({"devices": 2}, True)],
)
def test_several_devices_train_in_processes_of_their_own(asked, several, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert Machine(**{**DEFAULTS, **asked}).several is several
