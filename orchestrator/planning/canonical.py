"""Dataclasses as one canonical JSON text, and back. Ids are hashes of that text. Pure.

Python's collector of reference cycles is paused while very many values are read: they have no cycles.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence, Set
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

from mor_core.config.fields import FACT, SINCE
from mor_core.errors import MorSweepError


@contextlib.contextmanager
def cycle_collection_paused() -> Iterator[None]:
    """No looking for cycles in the body: among a million new values it takes a third of the time and finds nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_CONTENT_ID = re.compile(r"[0-9a-f]{64}")


class OtherVersion(MorSweepError):
    """A file of the results folder that another version of this program wrote."""


def content_id(value: object) -> str:
    """sha256 of the canonical JSON of a value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def is_content_id(value: object) -> bool:
    """Whether it has the form of an id: 64 hexadecimal digits, and so no way to another folder."""
    return isinstance(value, str) and _CONTENT_ID.fullmatch(value) is not None


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no spaces, floats by their shortest exact form, no NaN or infinity. Facts
    (`mor_core.config.fields.fact_field`) are left out: equal work has one text."""
    return _ENCODER.encode(to_jsonable(value, facts=False))


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


_PLAIN = frozenset({str, bool, int, float, type(None)})


def to_jsonable(value: object, *, facts: bool = True) -> Any:
    """Frozen dataclasses, tuples and plain values as JSON types; raises TypeError for anything else.

    A field that came later (`mor_core.config.fields.later_field`) is left out at its default, and without `facts` those
    that are no part of an id.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):  # Most items are plain: a plan of 100,000 cells has a million of them.
        return {
            str(key): item if type(item) in _PLAIN else to_jsonable(item, facts=facts) for key, item in value.items()
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields, (names, later) = vars(value), _layout(type(value))
        if later:
            names = tuple(name for name in names if name not in later or fields[name] != later[name])
        if not facts and (left_out := _facts(type(value))):
            names = tuple(name for name in names if name not in left_out)
        return {name: to_jsonable(fields[name], facts=facts) for name in names}
    if isinstance(value, tuple | list):
        return [to_jsonable(item, facts=facts) for item in value]
    if isinstance(value, Fraction):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} has no canonical JSON")


@lru_cache(maxsize=64)
def _layout(kind: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of a dataclass's fields, and the defaults of those among them that a file may lack."""
    fields = dataclasses.fields(kind)
    return tuple(field.name for field in fields), {field.name: field.default for field in fields if _is_later(field)}


@lru_cache(maxsize=64)
def _facts(kind: Any) -> frozenset[str]:
    """Names of the fields that are no part of an id."""
    return frozenset(field.name for field in dataclasses.fields(kind) if FACT in field.metadata)


def _is_later(field: dataclasses.Field[Any]) -> bool:
    return SINCE in field.metadata


def _may_be(kind: Any, present: Set[str]) -> bool:
    """Whether an object of a file with these names can be a dataclass: all fields but later ones, and no other name."""
    names, later = _layout(kind)
    return set(names) - later.keys() <= present <= set(names)


def from_jsonable(kind: Any, data: Any) -> Any:
    """The inverse of `to_jsonable` for a frozen dataclass type (or a field type within one).

    Of several dataclasses it reads the one whose `choice`, or else whose fields, are the data's; a later field that
    data lacks has its default. Raises OtherVersion where data lacks another field or holds an unknown one, ValueError
    where it is no object at all or no allowed value.
    """
    if kind in (int, float, str, Fraction):
        return kind(data)
    if dataclasses.is_dataclass(kind):
        return _dataclass_from(kind, data)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if data is None else from_jsonable(_chosen(arguments, data), data)
    if origin is tuple:
        return tuple(from_jsonable(arguments[0], item) for item in data)
    if origin is dict:
        return {key: from_jsonable(arguments[1], item) for key, item in data.items()}
    if origin is Literal and data not in arguments:
        raise ValueError(f"{data!r:.80}: expected one of {', '.join(map(str, arguments))}")
    return data


def _chosen(options: Sequence[Any], data: Any) -> Any:
    """The one option besides None, or of several dataclasses the one whose `choice` or fields are the data's."""
    options = [option for option in options if option is not type(None)]
    if len(options) == 1:
        return options[0]
    content = data if isinstance(data, dict) else {}
    choice = content.get("choice")
    for option in options:
        if choice == getattr(option, "choice", None) and (choice is not None or _may_be(option, content.keys())):
            return option
    plain = [option for option in options if not hasattr(option, "choice")]
    if choice is None and plain:  # Read as what it looks like most, so that the field which differs is named.
        return max(plain, key=lambda option: len(content.keys() & set(_layout(option)[0])))
    raise other_version(" or ".join(option.__name__ for option in options), f"choice {choice!r}")


def _dataclass_from(kind: Any, data: Any) -> Any:
    hints = _field_types(kind)
    expected = hints.keys()
    if not isinstance(data, dict):
        raise ValueError(f"{kind.__name__}: expected an object with {sorted(expected)}, found {type(data).__name__}")
    if data.keys() != expected and not _may_be(kind, data.keys()):
        _, later = _layout(kind)
        differing = (expected - later.keys()) ^ (data.keys() - (expected & later.keys()))
        raise other_version(kind.__name__, ", ".join(sorted(differing)))
    return kind(**{name: from_jsonable(hints[name], item) for name, item in data.items()})


@lru_cache(maxsize=64)
def _field_types(kind: Any) -> dict[str, Any]:
    """Field name -> type. Reading annotations takes longer than all the rest, and a sweep has thousands of cells."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def other_version(what: str, differing: str) -> OtherVersion:
    """What to say of a file that differs from this version's in some field."""
    return OtherVersion(
        f"these results were made by an earlier version of mor-sweep ({what} differs in {differing}): "
        "use another results folder, or move this one away"
    )
