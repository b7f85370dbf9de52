"""The two ways in which a command ends early, and the exit code of each."""


class UsageError(ValueError):
    """What the user typed or supplied cannot work: one line that says what to type instead."""

    exit_code = 2


class RunError(RuntimeError):
    """Something failed while running: one line that says what and what to do."""

    exit_code = 1


class Diverged(RunError):
    """A training broke in a way that the same training always will."""
