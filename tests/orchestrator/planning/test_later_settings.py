"""A setting that comes later changes no id at its default, and files without it are read."""

import dataclasses
import functools
import json
import operator
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import create_model

from mor_core.config.fields import later_field
from mor_core.config.model import ExpertChoice, ModelConfig, Recursion, TokenChoice
from mor_core.config.training import TrainConfig
from mor_core.data.snapshot import DataSnapshot, load_snapshot
from orchestrator.planning.canonical import OtherVersion, content_id, from_jsonable, to_jsonable
from orchestrator.planning.identity import (
    Evaluation,
    EvaluationSpec,
    Initialisation,
    Segment,
    TaskEvaluation,
    TextEvaluation,
    TrunkRecipe,
    decay_segment,
    evaluate_segment,
    stable_segment,
)
from orchestrator.planning.plan import Plan, plan
from orchestrator.planning.spec.arms import ROUTING_KINDS, RoutingSection
from orchestrator.planning.spec.fields import LaterKey, Section
from orchestrator.planning.spec.sweep_file import Override, preset_names
from orchestrator.planning.spec.sweep_spec import SweepSpec, load_spec
from orchestrator.store.sweep_document import PlannedSegment
from tests.helpers.paths import FIRST_STUDY

HASHED = (ModelConfig, Recursion, ExpertChoice, TrainConfig, TrunkRecipe, EvaluationSpec)
STUDIES = ("isoflop", "ablation")
SHIPPED = {(study, name): load_spec(name, study=study) for study in STUDIES for name in preset_names(study)}


def extended(hint: Any) -> Any:
    """A type, or a type made of several, with a field `later` in every dataclass and every section within it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return Annotated[extended(arguments[0]), *arguments[1:]]
    if origin in (types.UnionType, typing.Union):
        return functools.reduce(operator.or_, map(extended, arguments))
    if origin in (tuple, dict):
        return origin[tuple(map(extended, arguments))]
    if dataclasses.is_dataclass(hint):
        return _extended_dataclass(hint)
    return _extended_section(hint) if isinstance(hint, type) and issubclass(hint, Section) else hint


def _extended_dataclass(kind: Any) -> Any:
    hints = typing.get_type_hints(kind)
    fields: list[Any] = [(field.name, extended(hints[field.name]), _same(field)) for field in dataclasses.fields(kind)]
    fields.append(("later", int, later_field(0, since="9.9.9")))
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True)


def _same(field: Any) -> Any:
    """A field that is declared again with its default, and marked as it was."""
    return dataclasses.field(default=field.default, default_factory=field.default_factory, metadata=field.metadata)


def _extended_section(kind: type[Section]) -> type[Section]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {
        name: (extended(hints[name]), _extended_default(field)) for name, field in kind.model_fields.items()
    }
    none = (
        None if issubclass(kind, RoutingSection) else 0
    )  # Keys of routing that are not given are passed on to nobody.
    fields["later"] = (Annotated[int | None, LaterKey(since="9.9.9")], none)
    return create_model(kind.__name__, __base__=kind, **fields)


def _extended_default(field: Any) -> Any:
    if field.is_required():
        return ...
    default = field.get_default(call_default_factory=True)
    return extended(type(default))(**default.model_dump()) if isinstance(default, Section) else default


def parts(value: Any) -> Iterator[Any]:
    """The dataclasses within a value, itself included."""
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from parts(getattr(value, field.name))


def changed(value: Any, kind: type) -> Any:
    """The value with `later = 1` in its parts of a kind."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {field.name: changed(getattr(value, field.name), kind) for field in dataclasses.fields(value)}
    return type(value)(**fields | ({"later": 1} if isinstance(value, kind) else {}))


def made_again(segment: Segment) -> Segment:
    """The segment with the id that what it computes gives it."""
    if segment.evaluation is not None:
        weights = dataclasses.replace(segment, id=segment.needs[0])
        return evaluate_segment(weights, segment.evaluation)
    if segment.decay_start is not None:
        return decay_segment(segment.trunk, segment.decay_start, segment.stop_step, segment.needs)
    return stable_segment(segment.trunk, segment.stop_step, segment.needs)


def published() -> list[dict[str, Any]]:
    """spec.json of every segment of the first study."""
    return [json.loads(path.read_text()) for path in sorted(FIRST_STUDY.glob("results/segments/*/spec.json"))]


def test_ids_of_segments_stay_when_every_type_within_them_has_a_later_field():
    later_segment = extended(Segment)
    segments = [from_jsonable(later_segment, document) for document in published()]
    assert len(segments) == 39
    for segment, document in zip(segments, published(), strict=True):
        assert all(part.later == 0 for part in parts(segment)), "what a file lacks is filled in"
        assert to_jsonable(segment) == document
        assert made_again(segment).id == document["id"]
    held = {kind for segment in segments for part in parts(segment) for kind in type(part).__mro__}
    assert held >= {Segment, *HASHED}


@pytest.mark.parametrize("kind", HASHED, ids=lambda kind: kind.__name__)
def test_another_value_of_a_later_field_is_another_id(kind: type):
    segment = next(
        segment
        for segment in (from_jsonable(extended(Segment), document) for document in published())
        if segment.evaluation and segment.trunk.model.routing
    )
    other = changed(segment, kind)
    assert made_again(other).id != segment.id or other.trunk.content_id != segment.trunk.content_id
    assert from_jsonable(type(other), json.loads(json.dumps(to_jsonable(other)))) == other


@pytest.mark.parametrize(
    "value",
    [
        TokenChoice(),
        Initialisation(fingerprint="a", selection="stepwise"),
        TaskEvaluation(task="piqa", fingerprint="b", limit=None, rule="half"),
        TextEvaluation(text_sha256="b", rule="half"),
        PlannedSegment(id="c", kind="stable", trunk_id="d", stop_step=1, needs=()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_types_that_the_study_lacks_keep_their_ids_too(value: Any):
    later_value = from_jsonable(extended(type(value)), to_jsonable(value))
    assert content_id(later_value) == content_id(value)
    assert content_id(dataclasses.replace(later_value, later=1)) != content_id(value)


def test_of_several_types_with_later_fields_the_right_one_is_read():
    task = to_jsonable(TaskEvaluation(task="piqa", fingerprint="b", limit=None, rule="half"))
    text = to_jsonable(TextEvaluation(text_sha256="b", rule="half"))
    kinds = extended(Evaluation | None)
    assert isinstance(from_jsonable(kinds, text | {"later": 3}), TextEvaluation)
    assert isinstance(from_jsonable(kinds, task | {"later": 3}), TaskEvaluation)
    assert isinstance(from_jsonable(kinds, {"num_sequences": 3}), EvaluationSpec)


@pytest.mark.parametrize(
    ("differing", "edit"),
    [("beta1", lambda data: data.pop("beta1")), ("unheard_of", lambda data: data.update(unheard_of=1))],
    ids=["lacking", "unknown"],
)
def test_a_field_that_was_always_there_is_missed_and_an_unknown_one_refused(differing: str, edit: Any):
    data = to_jsonable(TrainConfig(batch_size=1, peak_learning_rate=0.1, warmup_steps=0))
    edit(data)
    with pytest.raises(OtherVersion, match=rf"TrainConfig differs in {differing}\)"):
        from_jsonable(extended(TrainConfig), data)


@pytest.fixture
def later_spec(monkeypatch: pytest.MonkeyPatch) -> type[SweepSpec]:
    """The sweep file with a later key in every table, and models and routings that have the same."""
    monkeypatch.setattr("mor_core.config.sizes.ModelConfig", extended(ModelConfig))
    for name, kind in ROUTING_KINDS.items():
        monkeypatch.setitem(ROUTING_KINDS, name, extended(kind))
    kind = extended(SweepSpec)
    monkeypatch.setattr("orchestrator.planning.spec.sweep_spec.SweepSpec", kind)
    return kind


def planned_first(data: DataSnapshot, **keys: Any) -> Plan:
    """The study as it was planned first, with some keys of its sweep file changed."""
    keys["only"] = ["mor-4"]
    flags = [Override(flag=key, path=tuple(key.split("__")), value=value) for key, value in keys.items()]
    return plan(load_spec(str(FIRST_STUDY / "sweep.toml"), flags), data)


@pytest.fixture(scope="module")
def data() -> DataSnapshot:
    (folder,) = FIRST_STUDY.glob("cache/tokens/*")
    return load_snapshot(folder)


def recorded() -> dict[str, Any]:
    """The first plan of the study."""
    return json.loads((FIRST_STUDY / "results/sweeps/first/sweep.json").read_text())["revisions"][0]


@pytest.mark.usefixtures("later_spec")
def test_ids_of_a_plan_stay_when_every_section_has_a_later_key(data: DataSnapshot):
    planned = planned_first(data)
    assert planned.settings_id == recorded()["settings_id"]
    assert [to_jsonable(cell) for cell in planned.cells] == recorded()["cells"]
    assert [segment.id for segment in planned.segments] == [segment["id"] for segment in recorded()["segments"]]


@pytest.mark.usefixtures("later_spec")
@pytest.mark.parametrize("section", ["schedule", "model", "routing", "train", "evaluation"])
def test_another_value_of_a_later_key_is_another_settings_id(section: str, data: DataSnapshot):
    assert planned_first(data, **{f"{section}__later": 1}).settings_id != recorded()["settings_id"]


@pytest.mark.parametrize(("study", "preset"), [(study, name) for study in STUDIES for name in preset_names(study)])
def test_what_is_recorded_of_a_sweep_file_stays_and_is_read_as_it_was(study: str, preset: str, later_spec):
    """Tables within tables too: laws by arm, variants and their routing."""
    document = json.loads(json.dumps(SHIPPED[study, preset].plain()))
    spec = later_spec.model_validate_json(json.dumps(document))
    assert {part.later for part in sections(spec)} <= {0, None}
    assert spec.plain() == document
    assert SweepSpec.model_validate_json(json.dumps(document)) == SHIPPED[study, preset]


def sections(value: Any) -> Iterator[Section]:
    if isinstance(value, Section):
        yield value
        for name in type(value).model_fields:
            yield from sections(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from sections(item)
