"""Costs of trainings that take turns: a step of each, then the next step of each, one at a time.

Seconds of whole trainings differ by tens of percent from one minute to the next where other work
shares the machine; steps that follow one another see the same machine. Each training runs through
the project's own `fit` in a thread of its own and holds still while another one has its turn.
"""

import math
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_TIMEOUT = 600.0  # seconds of a turn, after which another thread must have died


class Turns:
    """Who may run. One thread at a time, in the order of `names`; those that ended are left out."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self.seconds: dict[str, list[float]] = {name: [] for name in self.names}
        self._condition = threading.Condition()
        self._ready = set(self.names)
        self._now = self.names[0]

    def wait(self, name: str) -> None:
        with self._condition:
            if not self._condition.wait_for(lambda: self._now == name, _TIMEOUT):
                raise TimeoutError(f"{name} had no turn")

    def give(self, name: str, ended: bool = False) -> None:
        with self._condition:
            first = self.names.index(name) + 1
            if ended:
                self._ready.discard(name)
            waiting = [other for other in self.names[first:] + self.names[:first]
                       if other in self._ready]  # fmt: skip
            self._now = waiting[0] if waiting else ""
            self._condition.notify_all()

    def steps(self, name: str, batches: Iterable) -> Iterator:
        """The batches, one a turn. A step ends where the next batch is asked for."""
        source, start = iter(batches), None
        while True:
            if start is not None:
                self.seconds[name].append(time.thread_time() - start)
            self.give(name)
            self.wait(name)
            start = time.thread_time()
            try:
                batch = next(source)
            except StopIteration:
                return
            yield batch


class Shared:
    """A data set whose training batches come in turns; all else is the data set's own."""

    def __init__(self, data: Any, turns: Turns, name: str) -> None:
        self._data, self._turns, self._name = data, turns, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._data, attribute)

    def turns(self, batches: Iterable) -> Iterator:
        """Any batches, one a turn."""
        return self._turns.steps(self._name, batches)

    def loader(self, part: str, *values: Any, **options: Any) -> Any:
        batches = self._data.loader(part, *values, **options)
        if part != "train" or not options.get("shuffle"):
            return batches
        return _Loader(self._turns, self._name, batches)


class _Loader:
    def __init__(self, turns: Turns, name: str, batches: Any) -> None:
        self.turns, self.name, self.batches = turns, name, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator:
        return self.turns.steps(self.name, self.batches)


def in_turns(data: Any, works: Mapping[str, Callable[[Any, str], Any]]) -> dict[str, list[float]]:
    """Thread seconds of every step of each work, called with its data set and an empty folder."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    turns, failed = Turns(works), []

    def run(name: str) -> None:
        try:
            turns.wait(name)
            with tempfile.TemporaryDirectory() as folder:
                works[name](Shared(data, turns, name), folder)
        except BaseException as error:  # for the one who waits
            failed.append(error)
        finally:
            turns.give(name, ended=True)

    threads = [threading.Thread(target=run, args=[name], daemon=True) for name in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(before)
    if failed:
        raise failed[0]
    return turns.seconds


def ratio(above: list[float], *below: list[float]) -> str:
    """The median over the rounds of above / sum of below, and its 95 % interval (order statistics).

    A tenth of the rounds at the start is left out: first steps allocate.
    """
    values = [a / sum(b) for a, *b in zip(above, *below, strict=False)]
    values = sorted(values[len(values) // 10 :])
    n = len(values)
    reach = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
    return f"{statistics.median(values):.3f} ({values[low]:.3f} to {values[high]:.3f}, {n} steps)"
