"""Fields of dataclasses that are hashed and filed: those that came later, and those that are no part of an id. And what
their values are checked by."""

import math
from dataclasses import field
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

SINCE = "since"
"""In the metadata of a dataclass field: the version that brought it (see `later_field`)."""


def later_field(default: Any, *, since: str) -> Any:
    """A field of a dataclass that files and ids did not have before version `since`.

    At its default, which must mean what the code did before, it is left out of canonical JSON: every id stays, and
    earlier versions can read the file. Where a file lacks it, readers take the default.
    """
    return field(default=default, metadata={SINCE: since})


FACT = "fact"
"""In the metadata of a dataclass field: it is written in files and no part of any id (see `fact_field`)."""


def fact_field() -> Any:
    """A field of a dataclass that follows from its other fields, yet cannot be computed from them here.

    It is written in files, so that readers need not ask again. It is in no id: a corrected count is not other work.
    """
    return field(metadata={FACT: True})


@lru_cache
def _choices(kind: type) -> dict[str, tuple[str, ...]]:
    """The fields of a class that hold one of a few words, each with its words."""
    return {name: get_args(hint) for name, hint in get_type_hints(kind).items() if get_origin(hint) is Literal}


def check_choices(config: object, table: str = "") -> None:
    """Raises ValueError where a field holds none of its words; `table` leads its name."""
    for name, words in _choices(type(config)).items():
        if getattr(config, name) not in words:
            raise ValueError(f"{table}{name} {getattr(config, name)!r}: expected one of {', '.join(words)}")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError for 0 or less, infinity and NaN."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} {value}: expected a number above 0")


def check_not_negative(name: str, value: float) -> None:
    """Raises ValueError below 0, for infinity and NaN."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} {value}: expected 0 or more")
