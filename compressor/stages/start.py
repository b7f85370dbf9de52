"""The network that a walk begins with where no training made it, as an artefact like any other."""

from compressor.stages import Context, Given, Outcome
from compressor.starting import Started

VERSION = 1


def start(given: Given, started: Started, context: Context) -> Outcome:
    """Hand on what was read; `given` has no parent."""
    return Outcome(net=started.net, plan=started.plan)
