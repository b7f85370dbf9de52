"""One thread and one seed a test: the suite runs in several processes, in no fixed order."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import random  # noqa: E402

import numpy  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Weights that a test leaves to torch are equal whichever test ran before in this process."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
