"""No pruning: the dense network goes on as it is, so that it can stand in any sweep.

Run: compress-run prune=none
"""

from compressor.prune import Method


class NoPruning(Method):
    """Cuts nothing: the compress stage is skipped."""
