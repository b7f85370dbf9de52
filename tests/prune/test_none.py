from compressor.prune import Method
from compressor.prune.none import NoPruning


def test_it_is_a_method_that_cuts_nothing_and_asks_for_nothing():
    method = NoPruning()
    assert isinstance(method, Method) and method.name == "none"
    assert not method.cuts and not method.owns_stage and method.trained_with is None
