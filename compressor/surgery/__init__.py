"""Cutting channels out of any convolutional network, by channel provenance.

analyse(net, inputs) finds the groups of channels that live or die together; plan_cut turns a choice
into a plan (JSON); replay applies it to a freshly built network without any analysis. A plan is a
list of typed operations, of which a cut is one and a mask another.
"""

from compressor.surgery._analyse import analyse, dry_run, meta_copy
from compressor.surgery._cut import cut_group, duplicate, replay
from compressor.surgery._operations import Cut, Mask, Operation
from compressor.surgery._parity import check_parity, check_state
from compressor.surgery._plan import EMPTY_PLAN, Plan, keep_count, plan_cut
from compressor.surgery._structure import (
    Activation,
    Frozen,
    Group,
    Slot,
    Structure,
    output_dim,
)

__all__ = [
    "EMPTY_PLAN",
    "Activation",
    "Cut",
    "Frozen",
    "Group",
    "Mask",
    "Operation",
    "Plan",
    "Slot",
    "Structure",
    "analyse",
    "check_parity",
    "check_state",
    "cut_group",
    "dry_run",
    "duplicate",
    "keep_count",
    "output_dim",
    "meta_copy",
    "plan_cut",
    "replay",
]
