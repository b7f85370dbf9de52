from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest

from compressor.errors import UsageError
from compressor.options import (
    AtMostOne,
    Count,
    Declared,
    Fields,
    Range,
    checked,
    declarations,
    held,
    hold,
)


@dataclass(frozen=True)
class Crop:
    pixels: Annotated[int, Range(0)] = 0
    kind: Literal["zeros", "mirror"] = "zeros"


class Method:
    """As a stranger would write one."""

    @checked("prune")
    def __init__(
        self,
        share: Annotated[float, Range(0, 1, above=True)] = 0.5,
        *,
        rounds: Count | Literal["auto"] = 1,
        form: Literal["soft", "hard"] | None = None,
        crop: Annotated[Mapping, Fields(Crop)] | None = None,
        anything: object = None,
        **shared: object,
    ) -> None:
        self.given = share, rounds, form, crop, anything, shared


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [
        ((0,), {}, "prune.share=0 must be above 0"),
        ((), {"share": "half"}, "prune.share=half: a number is expected"),
        ((), {"share": True}, "prune.share=true: a number is expected"),
        ((), {"rounds": 0}, "prune.rounds=0 must be at least 1"),
        ((), {"rounds": 1.5}, "prune.rounds=1.5: a whole number is expected"),
        ((), {"rounds": "many"}, "prune.rounds=many: a whole number is expected"),
        ((), {"form": "firm"}, "prune.form=firm is not known: choose one of soft, hard"),
        ((), {"form": 3}, "prune.form=3: text is expected"),
        ((), {"crop": 3}, "prune.crop=3: a mapping is expected"),
        ((), {"crop": {"pixels": -1}}, "prune.crop.pixels=-1 must be at least 0"),
        ((), {"crop": {"kind": "none"}}, "prune.crop.kind=none is not known"),
        ((), {"share": float("nan")}, "prune.share=nan is out of range: give a finite number"),
    ],
)
def test_a_checked_constructor_refuses_what_its_annotations_do_not_say(given, named, message):
    with pytest.raises(UsageError) as caught:
        Method(*given, **named)
    assert str(caught.value).startswith(message)


def test_a_checked_constructor_takes_the_rest_as_it_comes():
    assert Method().given == (0.5, 1, None, None, None, {})
    whole = Method(1, rounds=np.int64(2), form="hard", crop={"pixels": 2}, anything=[], other=3)
    assert whole.given == (1, 2, "hard", {"pixels": 2}, [], {"other": 3})
    assert Method(rounds="auto").given[1] == "auto"
    with pytest.raises(TypeError, match="positional"):
        Method(1, 2)


def test_an_annotation_says_kinds_words_null_and_rules():
    found = declarations(Method.__init__)
    assert found["rounds"] == Declared(frozenset({int}), words=("auto",), rules=(Range(1),))
    assert found["form"].null and not found["share"].null
    assert found["crop"].fields["pixels"].rules == (Range(0),)
    assert found["anything"] is None, "of any type: nothing is said"
    assert Declared.of(str | Sequence[str] | None).kinds == {str, list}


def test_values_are_held_to_a_dataclass_by_name():
    hold(Crop, "dataset.augment", {"pixels": 3, "unknown": object()})
    with pytest.raises(UsageError, match=r"^dataset.augment.pixels=-3 must be at least 0$"):
        hold(Crop, "dataset.augment", {"pixels": -3})
    with pytest.raises(UsageError, match=r"^pixels=null: a whole number is expected$"):
        hold(Crop, "", {"pixels": None})
    with pytest.raises(UsageError, match="a=1 and shares.b=2 both say"):
        held(Annotated[Mapping, AtMostOne()], "shares", {"a": 1, "b": 2})


def test_a_value_from_a_file_that_anybody_may_have_written_is_escaped():
    with pytest.raises(UsageError) as caught:
        Method("\x1b[2J\nhalf")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
