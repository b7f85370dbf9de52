"""Types and ranges of options: said once, in a signature, and held wherever a value comes from.

    @checked("robust")
    def __init__(self, q: Annotated[float, Range(0, 1, above=True)] = 0.7) -> None:

`checked` holds what the annotations say for whoever calls from Python. The command line reads the
same annotations from the syntax tree (`_signatures`), before torch is imported; so they are made of
this module's names, of `typing`'s and of numbers. What only several values together can have wrong
is the constructors' own business.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from compressor import sizes
from compressor.errors import UsageError, foreign

P, Made = ParamSpec("P"), TypeVar("Made")
INF = math.inf
LARGEST_FACTOR = 64  # of a width or depth: a network's parameters go as the square of its width


@dataclass(frozen=True)
class Range:
    """Numbers between low and high; `above`, `below`: these themselves are outside, `never`: a
    number between them that is. A list is checked entry by entry. remedy: what to type instead,
    beside the bounds.
    """

    low: float = -INF
    high: float = INF
    above: bool = False
    below: bool = False
    remedy: str = ""
    never: float | None = None

    def check(self, key: str, value: Any) -> None:
        if isinstance(value, list | tuple):
            for entry in value:
                self.check(key, entry)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return  # of another type than the key's: that is told elsewhere
        joint = ", " if self.remedy.startswith("or ") else ": "
        remedy = f"{joint}{self.remedy}" if self.remedy else ""
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{key}={value} is out of range: give a finite number")
        if value < self.low or (self.above and value == self.low):
            least = "above" if self.above else "at least"
            raise UsageError(f"{key}={value} must be {least} {self.low:g}{remedy}")
        if value > self.high or (self.below and value == self.high):
            most = "below" if self.below else "at most"
            high = int(self.high) if self.high == int(self.high) else self.high
            raise UsageError(f"{key}={value} must be {most} {high}{remedy}")
        if value == self.never:
            raise UsageError(f"{key}={value} must not be {self.never:g}{remedy}")


@dataclass(frozen=True)
class Series(Range):
    """A list of such numbers, at least one, that rises; with `falls` it falls."""

    falls: bool = False

    def check(self, key: str, value: Any) -> None:
        super().check(key, value)
        if not isinstance(value, list | tuple):
            return
        if not value:
            raise UsageError(f"{key}=[] is empty: give at least one number")
        if all(isinstance(entry, int | float) for entry in value):
            wanted = sorted(set(value), reverse=self.falls)
            if list(value) != wanted:
                way = "fall" if self.falls else "rise"
                example = ",".join(map(str, wanted))
                raise UsageError(f"{key}={list(value)} must {way}, as in {key}='[{example}]'")


@dataclass(frozen=True)
class Each(Range):
    """A mapping from names of the user's to such numbers."""

    def check(self, key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, entry in value.items():
                super().check(f"{key}.{name}", entry)
        elif isinstance(value, int | float | list | tuple):
            raise UsageError(f"{key}={value} names nothing: type {key}='{{layer1: 0.3}}'")


@dataclass(frozen=True)
class AtMostOne:
    """A mapping of which one value at most is not null."""

    def check(self, key: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            return
        given = [f"{key}.{name}={entry}" for name, entry in value.items() if entry is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} both say how much goes: give one of them")


@dataclass(frozen=True)
class Paths:
    """A list of paths of modules."""

    def check(self, key: str, value: Any) -> None:
        for name in value if isinstance(value, list | tuple) else ():
            if not isinstance(name, str):
                raise UsageError(f"{key} names '{name}': give paths of modules, as [layer1]")


@dataclass(frozen=True)
class Size:
    """Bytes, or text such as 20GB."""

    def check(self, key: str, value: Any) -> None:
        if value is None:
            return
        try:
            sizes.read(value)
        except UsageError as error:
            raise UsageError(f"{key}={value}: {error}") from None


@dataclass(frozen=True)
class Pipeline:
    """The list `stages`; with what it may begin depends on `start` (`starting.check_stages`).

    choices: what it may hold.
    """

    choices: tuple[str, ...]

    def check(self, key: str, value: Any) -> None:
        if not isinstance(value, list | tuple):
            return
        stages = list(value)
        if any(name not in self.choices for name in stages):
            raise UsageError(
                f"{key}={stages} must hold only {', '.join(self.choices)}; pretrain=rotnet comes "
                "before the training by itself"
            )
        if stages.count("compress") > 1 or stages.count("train") > 1:
            raise UsageError(f"{key}={stages} holds train or compress twice: give each once")


@dataclass(frozen=True)
class Fields:
    """A mapping with the names, and the declarations, of a dataclass's fields."""

    of: type


@dataclass(frozen=True)
class OneOf:
    """What `Literal` says."""

    choices: tuple[Any, ...]

    def check(self, key: str, value: Any) -> None:
        # another type than the choices' is told elsewhere
        if type(value) is type(self.choices[0]) and value not in self.choices:
            raise UsageError(
                f"{key}={foreign(value)} is not known: choose one of "
                f"{', '.join(map(str, self.choices))}"
            )


Rule = Range | AtMostOne | Paths | Pipeline | Size | OneOf

# What numpy's and torch's generators take.
Seed = Annotated[int, Range(0, 2**63 - 1, remedy="give a whole number such as 0")]
Fraction = Annotated[float, Range(0, 1)]  # both ends included
Share = Annotated[float, Range(0, 1, above=True)]  # some, or all
Inside = Annotated[float, Range(0, 1, above=True, below=True)]
BelowOne = Annotated[float, Range(0, 1, below=True)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
# Cost goes as the square of a width; no published network is 64 times as wide as its first form.
Factor = Annotated[float, Range(0, LARGEST_FACTOR, above=True, remedy="1.0 leaves it unscaled")]

# Kind of an option's values -> how a message names it, and what a caller in Python may give.
_KINDS: Mapping[type, tuple[str, tuple[type, ...]]] = MappingProxyType(
    {
        bool: ("true or false", (bool,)),
        int: ("a whole number", (numbers.Integral,)),
        float: ("a number", (numbers.Real,)),
        str: ("text", (str, os.PathLike)),
        list: ("a list", (Sequence,)),
        dict: ("a mapping", (Mapping,)),
    }
)


@dataclass(frozen=True)
class Declared:
    """What an option may hold: `int | Literal["auto"]` has kinds {int} and the words ("auto",).

    kinds: of bool, int, float, str, list, dict. fields: of a dictionary that is itself declared.
    """

    kinds: frozenset[type]
    null: bool = False
    words: tuple[Any, ...] = ()
    rules: tuple[Rule, ...] = ()
    fields: Mapping[str, Declared | None] | None = None
    item: Declared | None = None
    """Of a list its entries, of another mapping its values."""

    @classmethod
    def of(cls, hint: Any) -> Declared:
        """What an annotation says; TypeError for one that is not made of known types."""
        types, words, rules = _parts(hint)
        kinds = frozenset(_kind(each) for each in types if each is not NoneType)
        if words and not kinds:
            kinds, words, rules = frozenset({type(words[0])}), (), (*rules, OneOf(words))
        fields = [each for each in types if _has_fields(each)]
        fields += [rule.of for rule in rules if isinstance(rule, Fields)]
        rules = tuple(rule for rule in rules if not isinstance(rule, Fields))
        below = declarations(fields[0]) if fields else None
        return cls(kinds, NoneType in types, words, rules, below, _item(types))

    def fits(self, value: Any) -> bool:
        """Whether the value is of such a type; its range is `hold`'s."""
        if value is None:
            return self.null
        if isinstance(value, bool):
            return bool in self.kinds
        if isinstance(value, str):
            return str in self.kinds or value in self.words
        if self.fields is not None and is_dataclass(value):
            return True
        return any(isinstance(value, _KINDS[kind][1]) for kind in self.kinds)

    @property
    def kind(self) -> str:
        """For a message: "a whole number"."""
        return " or ".join(name for kind, (name, _) in _KINDS.items() if kind in self.kinds)

    def others(self, key: str) -> str:
        """For a message: ", or KEY=auto"."""
        words = [*map(str, self.words), *(["null"] if self.null else [])]
        return "".join(f", or {key}={word}" for word in words)

    def hold(self, key: str, value: Any) -> None:
        """Raise UsageError for a value of the right type that is out of range."""
        if self.fields and isinstance(value, Mapping):
            for name, each in self.fields.items():
                if each is not None and name in value:
                    each.check(f"{key}.{name}", value[name])
        for rule in self.rules:
            rule.check(key, value)

    def check(self, key: str, value: Any) -> None:
        """Raise UsageError for a value of another type, or out of range."""
        self.hold(key, value)
        if not self.fits(value):
            # the value may come from a file that anybody may have written
            raise UsageError(f"{key}={foreign(shown(value))}: {self.kind} is expected")
        if self.item is not None and isinstance(value, Mapping):
            for name, entry in value.items():
                self.item.check(f"{key}.{name}", entry)
        elif self.item is not None and isinstance(value, Sequence) and not isinstance(value, str):
            for entry in value:
                self.item.check(key, entry)


def shown(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace("'", "")


def held(hint: Any, key: str, value: Any) -> Any:
    """The value, or UsageError where an option of this type, annotated as `hint`, has none such."""
    Declared.of(hint).check(key, value)
    return value


def hold(thing: Any, prefix: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError for the first of the values that is not as it is declared.

    thing: the function or the dataclass that declares them; what it does not declare passes.
    prefix: what stands before an option's name in its key, such as "robust"; "" for nothing.
    """
    for name, each in declarations(thing).items():
        if each is not None and name in values:
            each.check(f"{prefix}.{name}" if prefix else name, values[name])


def checked(prefix: str) -> Callable[[Callable[P, Made]], Callable[P, Made]]:
    """A constructor, or a builder, whose arguments are held to its annotations.

    prefix: as in `hold`.
    """

    def decorate(constructor: Callable[P, Made]) -> Callable[P, Made]:
        names = list(inspect.signature(constructor).parameters)

        @functools.wraps(constructor)
        def made(*given: P.args, **named: P.kwargs) -> Made:
            values = {**dict(zip(names, given, strict=False)), **named}
            hold(constructor, prefix, values)
            return constructor(*given, **named)

        return made

    return decorate


@functools.cache
def declarations(thing: Any) -> Mapping[str, Declared | None]:
    """What a function's parameters, or a dataclass's fields, may hold, by name.

    None: the annotation is not made of types that can be typed on a command line.
    """
    known = getattr(thing, "declared", None)
    if isinstance(known, Mapping):  # a class read from a syntax tree
        return known
    bases = reversed(thing.__mro__) if isinstance(thing, type) else (thing,)
    found: dict[str, Declared | None] = {}
    for each in bases:
        names = vars(sys.modules[each.__module__])
        for name, hint in inspect.get_annotations(each).items():
            found[name] = _declared(hint, names)
    found.pop("return", None)
    return MappingProxyType(found)


def _declared(hint: Any, names: Mapping[str, Any]) -> Declared | None:
    try:
        return Declared.of(eval(hint, dict(names)) if isinstance(hint, str) else hint)
    except (NameError, TypeError):  # imported for a type checker alone; a type of its own
        return None


def _has_fields(hint: Any) -> bool:
    return is_dataclass(hint) or hasattr(hint, "declared")


def _parts(hint: Any) -> tuple[list[Any], tuple[Any, ...], tuple[Rule | Fields, ...]]:
    """The types of a union, what its Literals say, and the rules of its Annotateds."""
    origin = get_origin(hint)
    if origin is Annotated:
        types, words, rules = _parts(hint.__origin__)
        own = (each for each in hint.__metadata__ if isinstance(each, Rule | Fields))
        return types, words, (*rules, *own)
    if origin is Literal:
        return [], get_args(hint), ()
    if origin in (Union, UnionType):
        found = [_parts(each) for each in get_args(hint)]
        return (
            [each for types, _, _ in found for each in types],
            tuple(each for _, words, _ in found for each in words),
            tuple(each for _, _, rules in found for each in rules),
        )
    return [NoneType if hint is None else hint], (), ()


def _item(types: Sequence[Any]) -> Declared | None:
    inner = next((found for found in map(get_args, types) if found), ())
    kinds = [each for each in inner if each is not Ellipsis]  # of tuple[float, ...]
    try:
        return Declared.of(kinds[-1]) if kinds else None
    except TypeError:  # of any type
        return None


def _kind(hint: Any) -> type:
    if _has_fields(hint):
        return dict
    plain = get_origin(hint) or hint
    if plain in (bool, int, float, str):
        return plain
    if isinstance(plain, type) and issubclass(plain, Mapping):
        return dict
    if isinstance(plain, type) and plain is not object and issubclass(plain, Sequence | set):
        return list
    raise TypeError(f"{hint} cannot be typed on a command line")
