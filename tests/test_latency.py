"""Sessions of networks that take turns, by a clock of the test's own."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compressor import latency, measure, sweep_latency
from compressor.artefact import Artefact, Spec, write
from compressor.cache import Cache
from compressor.errors import RunError
from compressor.latency import Clock, Conditions, Subject
from compressor.surgery import EMPTY_PLAN, Cut, Mask, Operation, Plan

CONDITIONS = Conditions(batch_size=1, threads=1, seconds=0.001)


class Takes(nn.Module):
    """A network that says how many milliseconds it takes on an idle machine."""

    def __init__(self, milliseconds):
        super().__init__()
        self.milliseconds = milliseconds


class Machine:
    """factor: a forward's slow-down; by default one of the whole machine, that comes and goes."""

    def __init__(self):
        self.calls, self.sessions = [], []
        self.factor = lambda: 1.0 + 2.0 * (len(self.calls) // 200 % 2)

    def forward_ms(self, net, images):
        self.calls.append(net.milliseconds)
        return net.milliseconds * self.factor()


@pytest.fixture
def machine(monkeypatch):
    made, rounds = Machine(), measure.rounds

    def noted(nets, *rest, **options):
        made.sessions.append([net.milliseconds for net in nets.values()])
        return rounds(nets, *rest, **options)

    monkeypatch.setattr(measure, "forward_ms", made.forward_ms)
    monkeypatch.setattr(measure, "rounds", noted)
    return made


def subject(milliseconds, numbers=100, name=None):
    name = name or f"takes {milliseconds}"
    return Subject(name, (1, 2, 2), 4 * numbers, lambda: Takes(milliseconds))


def uneven():
    """Every forward is hit for itself, by up to a thousand times."""
    generator = random.Random(0)
    return lambda: generator.lognormvariate(0, 2)


DENSE = subject(10.0)


def measured(cache, *subjects, conditions=CONDITIONS, fresh=False, note=lambda line: None):
    clock = Clock(conditions, cache, note, fresh)
    clock.measure([(DENSE, each) for each in (DENSE, *subjects)])
    return [clock.figures(DENSE, each) for each in (DENSE, *subjects)], clock


def test_noise_that_hits_all_alike_gives_a_steady_ratio(tmp_path, machine):
    machine.factor = lambda: 1.0 + 2.0 * (len(machine.calls) // 24 % 2)
    (dense, half), _ = measured(Cache(tmp_path), subject(5.0))
    assert dense["latency_ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0, "steady": True}
    assert half["latency_ratio"]["median"] == pytest.approx(0.5)
    assert half["latency_ratio"]["steady"] and not half["latency_ms"]["steady"]
    assert set(half["latency_ms"]) == {"median", "low", "high", "batch_size", "threads", "steady"}
    assert half["latency_ms"]["median"] == pytest.approx(dense["latency_ms"]["median"] / 2)


def test_what_is_steady_is_remembered_and_equal_work_timed_once(tmp_path, machine):
    half, other = subject(5.0), subject(5.0)
    before, clock = measured(Cache(tmp_path), half, other)
    assert machine.sessions == [[10.0, 5.0]] and before[1] == before[2]
    assert clock.timed == {DENSE.name, half.name}
    after, clock = measured(Cache(tmp_path), half)
    assert len(machine.sessions) == 1 and after == before[:2] and not clock.timed
    # one network more is timed beside the dense one, whose milliseconds stay what they were
    machine.factor = lambda: 3.0
    more, _ = measured(Cache(tmp_path), half, subject(2.0))
    assert machine.sessions[1:] == [[10.0, 2.0]] and more[:2] == before[:2]
    assert more[2]["latency_ms"]["median"] == pytest.approx(2.0)


def test_an_uneven_machine_ends_unsteady_after_three_tries_and_is_not_remembered(tmp_path, machine):
    machine.factor = uneven()
    (_, half), _ = measured(Cache(tmp_path), subject(5.0))
    assert machine.sessions == [[10.0, 5.0]] * 3
    ratio = half["latency_ratio"]
    assert not ratio["steady"] and not half["latency_ms"]["steady"]
    assert ratio["high"] - ratio["low"] > 0.15
    assert not list(tmp_path.glob("*/latency.json"))
    machine.factor = lambda: 1.0
    (_, half), _ = measured(Cache(tmp_path), subject(5.0))
    assert half["latency_ratio"]["steady"] and len(list(tmp_path.glob("*/latency.json"))) == 2


def test_only_what_is_unsteady_is_tried_again(tmp_path, machine):
    noise = uneven()
    machine.factor = lambda: noise() if machine.calls[-1] == 4.0 else 1.0
    (_, five, four), _ = measured(Cache(tmp_path), subject(5.0), subject(4.0))
    assert machine.sessions == [[10.0, 5.0, 4.0], [10.0, 4.0], [10.0, 4.0]]
    assert five["latency_ratio"]["steady"] and not four["latency_ratio"]["steady"]


def test_twenty_networks_are_two_sessions_joined_by_the_dense_one(tmp_path, machine):
    # the machine is three times as slow in the second session
    machine.factor = lambda: 1.0 if len(machine.sessions) == 1 else 3.0
    said = []
    subjects = [subject(10.0 - place / 4) for place in range(1, 20)]
    found, _ = measured(Cache(tmp_path), *subjects, note=said.append)
    assert [len(session) for session in machine.sessions] == [16, 5]
    assert all(session[0] == 10.0 for session in machine.sessions)
    for place, figures in enumerate(found):
        assert figures["latency_ratio"]["median"] == pytest.approx(1 - place / 40)
        assert figures["latency_ms"]["median"] == pytest.approx(10 - place / 4)
    assert said[0].startswith("latency: 20 networks take turns in 2 sessions, about ")
    assert "up to 10 minutes" in said[0] and len(said) == 1


def test_a_session_holds_at_most_two_gigabytes_of_weights(tmp_path, machine):
    large = [subject(float(place), 2 * 10**8) for place in range(1, 4)]
    measured(Cache(tmp_path), *large)
    assert [len(session) for session in machine.sessions] == [3, 2]


def test_ten_minutes_are_the_end(tmp_path, machine):
    machine.factor = lambda: 1000.0  # ten seconds a forward of the dense network
    said = []
    subjects = [subject(10.0 - place / 4) for place in range(1, 20)]
    found, clock = measured(Cache(tmp_path), *subjects, note=said.append)
    assert found[-1] == latency.NOTHING and "were left out, as 10 minutes are over" in said[-1]
    # the round that was begun is ended
    assert clock.spent < 2 * latency.LIMIT
    assert not found[1]["latency_ratio"]["steady"]


def test_what_the_time_does_not_suffice_for_stays_what_it_was(tmp_path, machine):
    subjects = [subject(10.0 - place / 4) for place in range(1, 20)]
    before, _ = measured(Cache(tmp_path), *subjects)
    machine.factor = lambda: 1000.0
    again, _ = measured(Cache(tmp_path), *subjects, fresh=True)
    assert not again[1]["latency_ratio"]["steady"]
    assert again[-1]["latency_ratio"] == before[-1]["latency_ratio"]


def test_two_dense_networks_are_timed_beside_each_other(tmp_path, machine):
    machine.factor = lambda: float(len(machine.sessions))  # slower with every session
    other = subject(40.0)
    clock = Clock(CONDITIONS, Cache(tmp_path), lambda line: None)
    pairs = [(DENSE, DENSE), (DENSE, subject(5.0)), (other, other), (other, subject(20.0))]
    clock.measure(pairs)
    assert machine.sessions == [[10.0, 40.0], [10.0, 5.0], [40.0, 20.0]]
    found = [clock.figures(*pair) for pair in pairs]
    assert [f["latency_ms"]["median"] for f in found] == pytest.approx([10.0, 5.0, 40.0, 20.0])
    assert [f["latency_ratio"]["median"] for f in found] == pytest.approx([1.0, 0.5, 1.0, 0.5])


def test_a_fresh_measurement_replaces_what_is_remembered(tmp_path, machine):
    measured(Cache(tmp_path), subject(5.0, name="same"))
    again, _ = measured(Cache(tmp_path), subject(6.0, name="same"), fresh=True)
    assert again[1]["latency_ratio"]["median"] == pytest.approx(0.6)
    after, clock = measured(Cache(tmp_path), subject(6.0, name="same"))
    assert after == again and not clock.timed


@pytest.mark.parametrize(
    "other",
    [{"batch_size": 2}, {"threads": 2}, {"seconds": 1.0}],
    ids=lambda each: next(iter(each)),
)
def test_other_conditions_are_another_measurement(tmp_path, machine, other):
    measured(Cache(tmp_path), subject(5.0))
    _, clock = measured(
        Cache(tmp_path), subject(5.0), conditions=Conditions(**{**vars(CONDITIONS), **other})
    )
    assert clock.timed


def test_another_release_of_the_runtime_is_another_measurement(tmp_path, machine, monkeypatch):
    measured(Cache(tmp_path), subject(5.0))
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert measured(Cache(tmp_path), subject(5.0))[1].timed


@pytest.fixture
def an_artefact(tmp_path):
    spec = Spec("compressor.models.resnet20", {"width": 0.25}, (3, 8, 8), 10)
    (tmp_path / "made").mkdir()
    write(tmp_path / "made", spec=spec, plan=EMPTY_PLAN, net=spec.build(), lineage={})
    return Artefact(tmp_path / "made", "key", spec)


class Gate(Operation):
    """Of a kind that a later release may know: sizes do not tell the work that it makes."""

    op = "gate"

    def to_json(self):
        return {"op": self.op, "density": 0.5}

    @classmethod
    def from_json(cls, entry, where, tensors):
        return cls()

    def apply(self, net):
        pass

    def compose(self, later):
        return (self,), later


def test_networks_are_the_same_by_their_sizes_and_what_no_size_tells(an_artefact):
    def name(*operations):
        plan = Plan(operations)
        return Subject.of(Artefact(an_artefact.folder, "key", an_artefact.spec, plan), ()).name

    plain = name()
    # of a cut the sizes tell all: the same sizes by other channels are the same work
    assert name(Cut("a", (("conv1.weight", 0),), (0, 2))) == plain
    assert name(Mask("conv1.weight", torch.zeros(4, 3, 3, 3, dtype=torch.bool))) == plain
    assert name(Gate()) != plain
    assert Subject.dense(an_artefact, ()).name == plain
    assert isinstance(Subject.dense(an_artefact, ()).build(), nn.Module)


def test_a_class_that_is_not_trusted_is_not_imported(an_artefact, monkeypatch):
    def imported(tree):
        raise AssertionError("imported")

    monkeypatch.setattr(latency, "sources", imported)
    spec = Spec("antigravity.Net", {}, (3, 8, 8), 10)
    assert Subject.of(Artefact(an_artefact.folder, "key", spec), ()).name


def test_a_budget_is_not_decided_by_an_unsteady_ratio(machine):
    options = SimpleNamespace(latency_batch_size=1, latency_seconds=0.0)

    def in_turns():
        return latency.in_turns(Takes(10.0), Takes(6.0), (1, 2, 2), options, lambda line: None)

    found = in_turns()
    assert found["share"] == pytest.approx(0.6) and found["interval"] == pytest.approx([0.6, 0.6])
    assert (found["dense"], found["small"]) == pytest.approx((10.0, 6.0))
    machine.sessions.clear()
    machine.factor = uneven()
    with pytest.raises(RunError, match=r"95 % interval of .* after 3 tries.*prune\.budget\.macs"):
        in_turns()
    assert len(machine.sessions) == 3


def test_a_point_without_a_stage_has_the_latency_of_the_one_that_it_repeats():
    half, quarter = ({"macs": n, "params": n, "accuracy": 0.5} for n in (50, 25))
    points = {
        "dense": {"macs": 100, "params": 100, "accuracy": 0.5}, "compressed": half,
        "recalibrated": {**half, "latency_ms": None}, "round2/compressed": quarter,
        "final": {**quarter, "accuracy": 0.6},
    }  # fmt: skip
    subjects = {name: subject(1, name=name) for name in points if name != "recalibrated"}
    member = SimpleNamespace(report={"points": points}, subjects=subjects)
    found = {name: sweep_latency._subject(member, name).name for name in points}
    assert found == {**{name: name for name in points}, "recalibrated": "compressed"}
