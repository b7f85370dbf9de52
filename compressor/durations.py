"""How long something takes, in words: the one clock of plans, progress lines and reports."""


def duration(seconds: float, *, rough: bool = False) -> str:
    """ "12.3 s", "2 min 5 s", "3 h 7 min". rough: of an estimate, "12 s", "2 min", "3 h 7 min"."""
    if seconds < 99.95:
        return f"{max(1, round(seconds))} s" if rough else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if rough:
        minutes, rest = round(seconds / 60), 0
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if rough else f"{minutes} min {rest} s"
