from compressor.prune.none import NoPruning


def test_the_artefact_goes_through_untouched():
    artefact = object()
    assert NoPruning().run(artefact, None) is artefact
