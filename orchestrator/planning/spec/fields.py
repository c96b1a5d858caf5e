"""The kinds of values that a sweep file holds, as checked types.

With the modules above it this is the one door of sweep files to pydantic.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
)
from pydantic.fields import FieldInfo

from mor_core.config.sizes import SIZES
from mor_core.files import is_folder_name
from mor_core.units import parse_budget
from orchestrator.planning.spec.sweep_file import did_you_mean


class Section(BaseModel):
    """A table of the sweep file: unknown keys are errors, values are not converted from other types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def plain(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Its keys but those of `exclude` as JSON values, without later keys at their defaults: what ids are made of
        and what is recorded."""
        return _without_later_defaults(self, self.model_dump(mode="json", exclude=set(exclude)))


@dataclass(frozen=True, kw_only=True)
class LaterKey:
    """Marks a key that sweep files did not have at first: `Annotated[int, LaterKey(since="0.3.0")] = 0`.

    At its default, which must mean what the code did before, it is no part of any id; see
    `mor_core.config.fields.later_field`, which says the same of a dataclass.
    """

    since: str
    """The version that brought it."""


def _without_later_defaults(value: object, plain: Any) -> Any:
    """`plain`, which is `value` as JSON values, without the later keys of its tables that are at their defaults."""
    if isinstance(value, Section):
        later = _later_defaults(type(value))
        items = {key: (getattr(value, key), item) for key, item in plain.items()}
        return {
            key: _without_later_defaults(inner, item)
            for key, (inner, item) in items.items()
            if key not in later or inner != later[key]
        }
    if isinstance(value, Mapping):
        return {key: _without_later_defaults(inner, plain[key]) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_without_later_defaults(inner, item) for inner, item in zip(value, plain, strict=True)]
    return plain


def _later_defaults(section: type[Section]) -> dict[str, Any]:
    """Key -> default of its later keys."""
    later = {key: field for key, field in section.model_fields.items() if _is_later(field)}
    return {key: field.get_default(call_default_factory=True) for key, field in later.items()}


def _is_later(field: FieldInfo) -> bool:
    return any(isinstance(marker, LaterKey) for marker in field.metadata)


def _known_size(name: str) -> str:
    if name not in SIZES:
        raise ValueError(f"size {name!r} is unknown: {did_you_mean(name, SIZES)}")
    return name


OWN_LADDERS = "own ladders"
"""In the context of a validation: whether the file has models of the user's own, whose sizes only a plan knows."""


def _size_of_a_ladder(name: str, info: ValidationInfo) -> str:
    return name if (info.context or {}).get(OWN_LADDERS) else _known_size(name)


def folder_name(name: str) -> str:
    """The name of a sweep. Raises ValueError where no folder can be called so."""
    if not is_folder_name(name):
        raise ValueError(
            f"{name!r} cannot name a folder: expected up to 100 letters, digits, dots, dashes and underscores, "
            "with a letter or digit first"
        )
    return name


def _token_count(value: object) -> int:
    try:
        return parse_budget(value)
    except ValueError:
        raise ValueError(f'{value!r}: expected a positive whole number of tokens in quotes, such as "10e9"') from None


def _fraction(value: object) -> Fraction:
    """A whole number, a written decimal or text such as "2/3", as the number it stands for."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Fraction):
        raise ValueError(f'found {value!r}, expected a number or a fraction in quotes, such as "2/3"')
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f'{value!r} is no number: expected one, or a fraction in quotes, such as "2/3"') from None


def _depth(value: object) -> int | Fraction:
    """Layers as a whole number, or a share of the size's depth as text."""
    expected = 'expected a number of layers, or a share of the size\'s depth in quotes, such as "1/2"'
    if isinstance(value, str | Fraction):
        share = _fraction(value)
        if 0 < share < 1:
            return share
    elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError(f"{value!r}: {expected}")


def _paper_nll(value: object) -> float | str:
    if value == "diverged":
        return "diverged"
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return value
    raise ValueError(f'{value!r}: expected the loss that the paper prints, or "diverged"')


def _not_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("the list is empty: give at least one")
    return values


Budget = Annotated[int, BeforeValidator(parse_budget, json_schema_input_type=int | str)]
TokenCount = Annotated[int, BeforeValidator(_token_count, json_schema_input_type=int | str)]
ExactFraction = Annotated[
    Fraction,
    PlainValidator(_fraction, json_schema_input_type=int | float | str),
    PlainSerializer(str, when_used="json"),
]
Depth = Annotated[
    int | Fraction,
    PlainValidator(_depth, json_schema_input_type=int | str),
    PlainSerializer(lambda depth: depth if isinstance(depth, int) else str(depth), when_used="json"),
]
PaperNLL = Annotated[float | str, PlainValidator(_paper_nll, json_schema_input_type=float | Literal["diverged"])]
"""A loss that the paper prints, or "diverged" where it has none to print."""
FolderName = Annotated[str, AfterValidator(folder_name)]
LadderSize = Annotated[str, AfterValidator(_size_of_a_ladder), Field(json_schema_extra={"enum": [*SIZES]})]
SizeName = Annotated[str, AfterValidator(_known_size), Field(json_schema_extra={"enum": [*SIZES]})]
ProperFraction = Annotated[FiniteFloat, Field(gt=0, lt=1)]
Share = Annotated[FiniteFloat, Field(ge=0, lt=1)]
PositiveFloat = Annotated[FiniteFloat, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
Merged = AfterValidator(lambda values: tuple(dict.fromkeys(values)))
Ascending = AfterValidator(lambda values: tuple(sorted(set(values))))
NotEmpty = AfterValidator(_not_empty)
