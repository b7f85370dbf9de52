import pytest

from compressor.durations import duration


@pytest.mark.parametrize(
    ("seconds", "measured", "estimated"),
    [
        (0.2, "0.2 s", "1 s"),
        (12.34, "12.3 s", "12 s"),
        (99.96, "1 min 40 s", "2 min"),
        (125, "2 min 5 s", "2 min"),
        (3599.9, "1 h 0 min", "1 h 0 min"),
        (5400, "1 h 30 min", "1 h 30 min"),
        (12_000, "3 h 20 min", "3 h 20 min"),
    ],
)
def test_plans_progress_and_reports_tell_the_time_alike(seconds, measured, estimated):
    assert duration(seconds) == measured
    assert duration(seconds, rough=True) == estimated
