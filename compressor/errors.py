"""The two ways in which a command ends early, and the exit code of each."""


class UsageError(ValueError):
    """What the user typed or supplied cannot work: one line that says what to type instead."""

    exit_code = 2


class RunError(RuntimeError):
    """Something failed while running: one line that says what and what to do."""

    exit_code = 1


class Diverged(RunError):
    """A training broke in a way that the same training always will."""


def foreign(text: object, limit: int = 200) -> str:
    """Text from a file that anybody may have written, fit for one line of a message.

    At most `limit` characters of it; what would break the line or steer a terminal is escaped.
    """
    line = str(text)[: limit + 1]
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return shown if len(shown) <= limit else f"{shown[:limit]}..."
