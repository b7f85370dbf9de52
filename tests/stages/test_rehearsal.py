"""The parity gate before any training."""

from compressor.artefact import Spec
from compressor.stages._blank import blank
from compressor.stages._rehearsal import rehearse
from compressor.tasks.classification import Classification


def test_a_norm_without_a_bias_and_a_parameter_without_a_number_are_no_hindrance():
    spec = Spec("doubles.Odd", {}, (3, 8, 8), 10, "classification")
    dense = blank(spec, ("doubles.Odd",), Classification())
    widths = {"body.0": 4, "body.3": 4}
    groups = [group for group in dense.structure.groups if group.name in widths]
    assert len(groups) == len(widths)
    rehearse(dense, groups, widths)
