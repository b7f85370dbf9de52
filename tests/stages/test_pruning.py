"""The `prune` group as the experiment holds it: read once, and asked from then on."""

import doubles
import pytest
import torch
from torch import nn

from compressor.artefact import Spec
from compressor.errors import UsageError
from compressor.prune import Compressor, Method, Preview, Ranking, Selector
from compressor.stages import compress
from compressor.stages._blank import blank
from compressor.stages._options import WidthOptions
from compressor.stages._pruning import WITHOUT_IMAGES, Pruning
from compressor.stages._schedule import Schedule
from compressor.tasks.classification import Classification

WEIGHT_SUM = {"_target_": "compressor.prune.weight_sum.WeightSum"}
DENSE = {"macs": None, "params": None, "latency": None}


@pytest.fixture(scope="module")
def dense():
    spec = Spec("compressor.models.resnet20", {"width": 0.5}, (3, 8, 8), 10, "classification")
    return blank(spec, (), Classification())


def test_the_key_holds_what_the_stage_reads_as_the_config_spells_it():
    tree = {
        **WEIGHT_SUM, "ratio": 0.3, "skip": ["layer1"], "ratios": None, "budget": DENSE,
        "sensitivity": {"table": True, "ratios": [0.5], "images": 9}, "rounds": 3,
    }  # fmt: skip
    assert Pruning.read(tree).in_key() == {
        **WEIGHT_SUM, "ratio": 0.3, "ratios": None, "budget": DENSE, "allocation": "uniform",
        "scope": "interior", "round_to": None, "min_channels": None, "skip": ["layer1"],
        "reconstruct": "none", "ridge": 0.01, "positions": 20, "statistics": "dense",
        "images": 1024,
    }  # fmt: skip
    shared = Pruning.read({**tree, "allocation": "sensitivity"}).in_key()
    assert shared["sensitivity"] == {"ratios": [0.5], "images": 9}
    assert Pruning.read({**tree, "allocation": "global"}).in_key()["normalize"] == "mean"
    budget = Pruning.read({**WEIGHT_SUM, "budget": {**DENSE, "macs": 0.4}})
    assert budget.in_key()["budget"] == {**DENSE, "macs": 0.4}


def test_a_method_that_cuts_nothing_reads_no_other_option():
    tree = {"_target_": "compressor.prune.none.NoPruning", "ratio": 7, "rounds": 0, "scope": "x"}
    pruning = Pruning.read({**tree, "sensitivity": {"table": True}, "reconstruct": "refit"})
    assert not pruning.cuts and pruning.one_shot and pruning.between == {}
    assert not pruning.wants_table and not pruning.wants_reference
    assert pruning.widths == WidthOptions() and pruning.schedule == Schedule()
    assert pruning.rounds(None) == [(pruning, {})]


def test_a_class_that_inherits_from_no_base_is_refused_in_one_line():
    with pytest.raises(UsageError) as caught:
        Pruning.read({"_target_": "doubles.NamesAlone", "ratio": 0.5})
    assert str(caught.value) == (
        "prune._target_=doubles.NamesAlone is no pruning method: let the class inherit from "
        "compressor.prune.Selector (it ranks channels) or compressor.prune.Compressor (it does the "
        "whole stage)"
    )


def test_a_base_without_its_one_method_is_refused():
    with pytest.raises(TypeError, match="rank"):
        Selector()
    with pytest.raises(TypeError, match="run"):
        Compressor()


def test_what_a_method_does_not_say_is_nothing(dense):
    class Least(Selector):
        def rank(self, group, statistics, weights, generator):
            return Ranking(torch.arange(group.size))

    assert Least().observers(None, None) == () and Least().trained_with is None
    assert Least().cuts and not Least().owns_stage and not Method().cuts
    assert doubles.HalfOfTheFirst().owns_stage
    assert doubles.HalfOfTheFirst().preview(dense) == Preview((), None, None, 0)


def test_a_selector_is_made_once_for_all_rounds_unless_it_takes_the_target_itself():
    same = [p for p, _ in Pruning.read({**WEIGHT_SUM, "rounds": 2, "ratio": 0.75}).rounds(None)]
    assert same[0].method is same[1].method
    assert [p.widths.ratio for p in same] == [0.5, 0.75] and all(p.one_shot for p in same)
    tree = {"_target_": "doubles.ByRatio", "rounds": 2, "ratio": 0.75}
    own = [p for p, _ in Pruning.read(tree).rounds(None)]
    assert [p.method.ratio for p in own] == [0.5, 0.75]
    assert [p.arguments["ratio"] for p in own] == [p.in_key()["ratio"] for p in own] == [0.5, 0.75]


@pytest.mark.parametrize(
    ("tree", "labels", "images"),
    [
        (WEIGHT_SUM, False, []),
        ({"_target_": "compressor.prune.apoz.APoZ"}, False, [WITHOUT_IMAGES]),
        ({"_target_": "compressor.prune.taylor.Taylor"}, True, [WITHOUT_IMAGES]),
        ({"_target_": "doubles.HalfOfTheFirst"}, True, [WITHOUT_IMAGES]),
        (
            {**WEIGHT_SUM, "reconstruct": "rescale", "statistics": "sequential"},
            False,
            ["prune.reconstruct=none", "prune.statistics=dense"],
        ),
        (
            {**WEIGHT_SUM, "allocation": "sensitivity", "sensitivity": {"table": True}},
            False,
            ["prune.allocation=uniform", "prune.sensitivity.table=false"],
        ),
    ],
)
def test_it_says_what_the_stage_is_going_to_read(dense, tree, labels, images):
    pruning = Pruning.read(tree)
    assert pruning.reads_labels(dense) == labels
    assert pruning.reads_images(dense) == images


def test_a_table_and_a_reference_are_wanted_where_something_reads_them():
    table = {"sensitivity": {"table": True}}
    assert Pruning.read({**WEIGHT_SUM, **table}).wants_table
    assert Pruning.read({**WEIGHT_SUM, "allocation": "sensitivity"}).wants_table
    assert not Pruning.read(WEIGHT_SUM).wants_table
    assert not Pruning.read({"_target_": "doubles.Masks", **table}).wants_table
    assert Pruning.read({**WEIGHT_SUM, "reconstruct": "refit"}).wants_reference
    assert not Pruning.read({**WEIGHT_SUM, "reconstruct": "rescale"}).wants_reference


def test_a_method_that_owns_its_stage_foretells_it_itself(dense):
    whole = dense.figures
    half = compress.preview(dense, Pruning.read({"_target_": "doubles.ToldHalf", "ratio": 0.9}))
    assert half["layers"] == [("layer1.0.conv1", 8, 4)] and half["epochs"] == 0
    assert half["widths"] == {"layer1.0.conv1": (8, 4)}
    assert half["macs"][0] == whole["macs"] > half["macs"][1] > 0.5 * whole["macs"]
    masks = compress.preview(dense, Pruning.read({"_target_": "doubles.Masks"}))
    assert masks["layers"] == [] and masks["widths"] == {} and masks["epochs"] == 3
    assert masks["macs"] == [whole["macs"], whole["macs"]]
    silent = compress.preview(dense, Pruning.read({"_target_": "doubles.HalfOfTheFirst"}))
    assert (silent["layers"], silent["macs"], silent["params"]) == ([], None, None)


def test_masks_of_a_compressor_leave_the_shapes(dense):
    class Given:
        plan = object()

        def network(self, trust):
            return nn.Sequential(nn.Conv2d(3, 4, 3))

    class Context:
        trust = ()

    made = doubles.Masks(share=0.25).run(Given(), Context())
    assert made.plan is Given.plan
    assert int((made.net[0].weight == 0).sum()) == int(0.25 * 108)
