"""Units of work and their names: a segment's id is the sha256 of what it computes, and of nothing else.

Pure: no clock, no machine, no path. Resources, threads, micro-batches and the segment that a stable stretch happens to
start from are execution, not identity.
"""

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, Literal

from mor_core.config import CausalRule, LayerSelection, ModelConfig, TrainConfig
from mor_core.errors import MorSweepError

SegmentKind = Literal["stable", "decay", "evaluate"]

_CONTENT_ID = re.compile(r"[0-9a-f]{64}")


class OtherVersion(MorSweepError):
    """A file of the results folder that another version of this program wrote."""


@dataclass(frozen=True, kw_only=True)
class Initialisation:
    """Pretrained weights that a trunk starts from."""

    fingerprint: str
    """sha256 of the weights and their shape."""
    selection: LayerSelection
    """Which layers fill the shared block."""


@dataclass(frozen=True, kw_only=True)
class TrunkRecipe:
    """The mathematics of a trunk: warm-up and constant-learning-rate training that budgets share."""

    model: ModelConfig
    """The architecture."""
    train: TrainConfig
    """Optimiser, schedule, batch and precision."""
    data_fingerprint: str
    """sha256 of the data snapshot (documents, split, tokens)."""
    tokenizer_fingerprint: str
    """sha256 of the tokenizer."""
    seed: int
    """Seeds the initial weights and the order of the data."""
    numerics_version: int
    """mor_core.config.NUMERICS_VERSION at planning time."""
    init: Initialisation | None = None
    """Where the weights come from; None draws them from the seed, which draws what pretrained weights lack too."""

    @cached_property
    def content_id(self) -> str:
        """See `trunk_id`. Each segment of the trunk asks; to look it up by the recipe would take longer."""
        return content_id(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """How weights become losses: validation sequences spread evenly over the validation tokens."""

    num_sequences: int
    """Validation sequences of the model's context length."""

    def __post_init__(self) -> None:
        if self.num_sequences < 1:
            raise ValueError(f"evaluation num_sequences {self.num_sequences}: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class TaskEvaluation:
    """How weights become a task's score: log-likelihoods of the choices of its items (`mor_core.interop.tasks`)."""

    task: str
    """The task's name."""
    fingerprint: str
    """sha256 of its metric and of every prompt as the model gets it."""
    limit: int | None
    """How many of its items, evenly spread; None for all."""
    rule: CausalRule
    """How expert-choice tokens go on; threshold for models that choose otherwise or not at all."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A content-addressed unit of work. `stable` trains a trunk up to stop_step, `decay` cools down from decay_start
    to stop_step, `evaluate` turns the weights of a decay, or of a whole cosine, into losses or a task's score."""

    id: str
    """64 hexadecimal digits; see `stable_segment`, `decay_segment` and `evaluate_segment`."""
    kind: SegmentKind
    """What it does."""
    trunk: TrunkRecipe
    """The trunk it belongs to."""
    stop_step: int
    """Optimiser steps taken in all when it ends, counted from the start of the trunk."""
    decay_start: int | None = None
    """The step a cooldown branches from (decay and its evaluate)."""
    evaluation: EvaluationSpec | TaskEvaluation | None = None
    """What is measured (evaluate)."""
    needs: tuple[str, ...] = ()
    """Ids of the segments that must be published first. Execution, not identity."""


def stable_segment(trunk: TrunkRecipe, stop_step: int, needs: tuple[str, ...] = ()) -> Segment:
    """Warm-up and what follows it, from the nearest published checkpoint of the trunk to stop_step.

    What follows is a constant learning rate, or the cosine of the trunk's TrainConfig.
    """
    identity = {"kind": "stable", "trunk": trunk_id(trunk), "stop_step": stop_step}
    return Segment(id=content_id(identity), kind="stable", trunk=trunk, stop_step=stop_step, needs=needs)


def decay_segment(trunk: TrunkRecipe, decay_start: int, stop_step: int, needs: tuple[str, ...]) -> Segment:
    """Linear cooldown to a learning rate of 0 over the steps from decay_start to stop_step."""
    identity = {"kind": "decay", "trunk": trunk_id(trunk), "decay_start": decay_start, "stop_step": stop_step}
    return Segment(
        id=content_id(identity), kind="decay", trunk=trunk, stop_step=stop_step, decay_start=decay_start, needs=needs
    )


def evaluate_segment(weights: Segment, evaluation: EvaluationSpec | TaskEvaluation) -> Segment:
    """What the weights that a segment ends with can do: a decay's, or a stable one's whose schedule ends there."""
    identity = {"kind": "evaluate", "weights": weights.id, "evaluation": evaluation}
    return Segment(
        id=content_id(identity),
        kind="evaluate",
        trunk=weights.trunk,
        stop_step=weights.stop_step,
        decay_start=weights.decay_start,
        evaluation=evaluation,
        needs=(weights.id,),
    )


def trunk_id(trunk: TrunkRecipe) -> str:
    """The name of a trunk: cells that share it share data order and weights up to their branch."""
    return trunk.content_id


def content_id(value: object) -> str:
    """sha256 of the canonical JSON of a value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def is_content_id(value: object) -> bool:
    """Whether it has the form of an id: 64 hexadecimal digits, and so no way to another folder."""
    return isinstance(value, str) and _CONTENT_ID.fullmatch(value) is not None


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no spaces, floats by their shortest exact form, no NaN or infinity."""
    return _ENCODER.encode(to_jsonable(value))


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


_PLAIN = frozenset({str, bool, int, float, type(None)})


def to_jsonable(value: object) -> Any:
    """Frozen dataclasses, tuples and plain values as JSON types; raises TypeError for anything else."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):  # Most items are plain: a plan of 100,000 cells has a million of them.
        return {str(key): item if type(item) in _PLAIN else to_jsonable(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = vars(value)
        return {name: to_jsonable(fields[name]) for name in _field_names(type(value))}
    if isinstance(value, tuple | list):
        return [to_jsonable(item) for item in value]
    if isinstance(value, Fraction):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} has no canonical JSON")


@lru_cache(maxsize=64)
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def from_jsonable(kind: Any, data: Any) -> Any:
    """The inverse of `to_jsonable` for a frozen dataclass type (or a field type within one).

    Of several dataclasses it reads the one whose `choice`, or else whose fields, are the data's. Raises OtherVersion
    where data lacks a field or holds an unknown one, ValueError where it is no object at all or no allowed value.
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
    said = data if isinstance(data, dict) else {}
    choice = said.get("choice")
    for option in options:
        if choice == getattr(option, "choice", None) and (choice is not None or set(said) == set(_field_names(option))):
            return option
    raise other_version(" or ".join(option.__name__ for option in options), f"choice {choice!r}")


def _dataclass_from(kind: Any, data: Any) -> Any:
    hints = _field_types(kind)
    expected = hints.keys()
    if not isinstance(data, dict):
        raise ValueError(f"{kind.__name__}: expected an object with {sorted(expected)}, found {type(data).__name__}")
    if set(data) != expected:
        differing = ", ".join(sorted(expected ^ set(data)))
        raise other_version(kind.__name__, differing)
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
        "use another --results folder, or move this one away"
    )
