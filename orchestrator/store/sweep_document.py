"""sweeps/<name>/sweep.json: which sweeps there are, the plan revisions of each, and the segments that any plan needs.

A sweep keeps every plan it was ever given, those of earlier settings too. The file is read as plain JSON, so that
`mor-sweep status` of thousands of cells does not build them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mor_core.errors import Fix, UserError
from mor_core.files import UnreadableFileError, is_folder_name, is_plain_name, read_json_object, replace_text
from mor_core.units import counted_text
from orchestrator.planning.canonical import from_jsonable, is_content_id
from orchestrator.planning.identity import TextEvaluation, evaluation_id
from orchestrator.planning.spec.sweep_file import RECORDED
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store

SCHEMA = "mor-sweep.sweep/1"
TEXTS_SCHEMA = "mor-sweep.texts/1"
TEXTS = "texts.json"
"""What the texts are called that a sweep's cells were measured on."""

MOVE_AWAY = "move it away and run the sweep's command again; trained segments are kept"

NEEDED_KINDS = {"stable": ("stable",), "decay": ("stable",), "evaluate": ("stable", "decay")}
"""Kind of a segment -> kinds of the one segment that it may need; only a trunk's first stretch needs none."""

REVISION_TYPES = {"cells": list, "segments": list, "settings_id": str, "data_folder": str, RECORDED: dict}
"""What a plan revision holds."""

OPTIONAL = {"data_folder", RECORDED}
"""Keys that revisions of earlier versions lack."""

CELL_TYPES = {"arm": str, "size": str, "budget": int, "seed": int, "steps": int}
"""What a status reads of a cell. A cell of an earlier version may lack some."""


class NoSuchSweep(UserError):
    """A sweep that the results folder does not hold."""


class UnreadableSweep(StoreError, UserError):
    """A sweep.json that is damaged; the message names it and says what to do."""


def find_document(store: Store, name: str | None = None) -> tuple[str, dict[str, Any]]:
    """Name and sweep.json of a sweep, or of the last one used. Raises NoSuchSweep and UnreadableSweep."""
    name = name or last_sweep_name(store)
    # A name is one folder's, never a way out of the results folder.
    document = read_document(store.sweep_folder(name) / "sweep.json") if is_plain_name(name) else None
    if document is None:
        names = ", ".join(sweep_names(store)) or "none yet"
        raise NoSuchSweep(f"no sweep named {name!r} in {store.root}; there are: {names}")
    return name, document


def read_document(path: Path) -> dict[str, Any] | None:
    """A sweep.json; None where there is none. Raises UnreadableSweep for a file that is something else.

    What is returned has at least one revision, and every walk along `needs` ends.
    """
    try:
        document = read_json_object(path)
    except FileNotFoundError:
        return None
    except UnreadableFileError as error:
        raise UnreadableSweep(f"{error}: {MOVE_AWAY}") from error
    if document.get("schema") != SCHEMA:
        raise UnreadableSweep(f"{path} is not a sweep of schema {SCHEMA!r}: {MOVE_AWAY}")
    try:
        _check_revisions(document.get("revisions"))
    except ValueError as error:
        raise UnreadableSweep(f"{path} is damaged ({error}): {MOVE_AWAY}") from error
    return document


def _check_revisions(revisions: object) -> None:
    """Raise ValueError, which says what is wrong, unless these are plans that lead somewhere."""
    if not isinstance(revisions, list) or not revisions:
        raise ValueError(f"revisions is {revisions!r:.80}, expected a list of plans")
    for number, revision in enumerate(revisions, start=1):
        if not isinstance(revision, dict):
            raise ValueError(f"revision {number} is {revision!r:.80}, expected an object")
        for key, kind in REVISION_TYPES.items():
            if not (isinstance(revision.get(key), kind) or (key in OPTIONAL and key not in revision)):
                raise ValueError(f"revision {number} has {key} {revision.get(key)!r:.80}, expected a {kind.__name__}")
        kinds: dict[str, str] = {}
        for segment in revision["segments"]:
            _check_segment(segment, kinds)
            kinds[segment["id"]] = segment["kind"]
        for cell in revision["cells"]:
            _check_cell(cell, kinds)


def _check_segment(segment: object, kinds: dict[str, str]) -> None:
    """`kinds` has those before it. A plan lists each segment after what it needs, so that no need leads in a circle."""
    if not isinstance(segment, dict) or not is_content_id(segment.get("id")):
        raise ValueError(f"{segment!r:.80} is no segment with an id of 64 hexadecimal digits")
    name, kind, stop_step, needs = (segment.get(key) for key in ("id", "kind", "stop_step", "needs"))
    if not isinstance(kind, str) or kind not in NEEDED_KINDS or type(stop_step) is not int:
        raise ValueError(f"segment {name} has kind {kind!r:.80} and stop_step {stop_step!r:.80}")
    if not isinstance(needs, list) or len(needs) > 1 or not (needs or kind == "stable"):
        raise ValueError(f"segment {name} of kind {kind} needs {needs!r:.200}, expected one segment")
    for need in needs:
        if not isinstance(need, str) or kinds.get(need) not in NEEDED_KINDS[kind]:
            expected = " or ".join(NEEDED_KINDS[kind])
            raise ValueError(f"segment {name} needs {need!r:.80}, expected a {expected} segment that comes before it")


def _check_cell(cell: object, kinds: dict[str, str]) -> None:
    if not isinstance(cell, dict) or not is_content_id(cell.get("cell_id")):
        raise ValueError(f"{cell!r:.80} is no cell with an id of 64 hexadecimal digits")
    evaluate = cell.get("evaluate_segment")
    if not isinstance(evaluate, str) or kinds.get(evaluate) != "evaluate":
        raise ValueError(
            f"cell {cell['cell_id']} has evaluate_segment {evaluate!r:.80}, expected an evaluate segment of its plan"
        )
    for key, kind in CELL_TYPES.items():
        if type(cell.get(key, kind())) is not kind:
            raise ValueError(f"cell {cell['cell_id']} has {key} {cell[key]!r:.80}, expected {kind.__name__}")


def current_revisions(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The revisions that have the latest one's settings, oldest first: their cells may share a table."""
    return revisions_of(document, document["revisions"][-1]["settings_id"])


def revisions_of(document: dict[str, Any], settings_id: str) -> list[dict[str, Any]]:
    """The revisions of some settings, oldest first."""
    return [revision for revision in document["revisions"] if revision["settings_id"] == settings_id]


def other_settings(document: dict[str, Any]) -> list[str]:
    """Settings that a sweep had before its latest ones, the first first: their cells are in no table of it."""
    settings_ids = [revision["settings_id"] for revision in document["revisions"]]
    return [settings_id for settings_id in dict.fromkeys(settings_ids) if settings_id != settings_ids[-1]]


def damaged(store: Store, name: str, error: Exception) -> UnreadableSweep:
    """What to say of a sweep.json that is JSON and makes no sense."""
    return UnreadableSweep(f"{store.sweep_folder(name) / 'sweep.json'} is damaged ({error!r}): {MOVE_AWAY}")


def last_sweep_name(store: Store) -> str:
    """The sweep that was run last. Raises NoSuchSweep where there is none, UnreadableSweep where none can be read."""
    path = store.root / "sweeps" / ".last"
    names = sweep_names(store)
    if path.is_file():
        name = path.read_bytes().decode(errors="replace").strip()
        if not is_plain_name(name) or not name.isprintable() or "\N{REPLACEMENT CHARACTER}" in name:
            others = ", ".join(names) or "none yet"
            raise NoSuchSweep(f"{path} is damaged: delete it, and name the sweep in the command; there are: {others}")
        return name
    if unreadable := [name for name in names if not _is_readable(store, name)]:
        count = counted_text(len(unreadable), "sweep")
        raise UnreadableSweep(f"{count} in {store.root} cannot be read: {', '.join(unreadable)}; name a sweep for more")
    if names:
        raise NoSuchSweep(f"{store.root} does not say which sweep was run last: name one of {', '.join(names)}")
    start = Fix(verb="isoflop", setting="preset", value="cpu", words="start one with {}")
    raise NoSuchSweep(f"no sweep has been run in {store.root}", fix=start)


def _is_readable(store: Store, name: str) -> bool:
    try:
        return read_document(store.sweep_folder(name) / "sweep.json") is not None
    except UnreadableSweep:
        return False


def sweep_names(store: Store) -> list[str]:
    """All sweeps of a results folder."""
    return sorted(path.parent.name for path in (store.root / "sweeps").glob("*/sweep.json"))


@dataclass(frozen=True, kw_only=True)
class PlannedSegment:
    """What status and curves need to know of a segment."""

    id: str
    """Its content id."""
    kind: str
    """stable, decay or evaluate."""
    trunk_id: str
    """The trunk it belongs to."""
    stop_step: int
    """Steps in all when it ends."""
    needs: tuple[str, ...]
    """Ids of the segments it needs."""


@dataclass(frozen=True, kw_only=True)
class PlannedWork:
    """The segments of all revisions of all sweeps."""

    segments: dict[str, tuple[PlannedSegment, ...]]
    """By id; a segment may be planned with different needs (a stable stretch may start at several places)."""

    users: dict[str, frozenset[str]]
    """Segment id -> the planned segments that need it, in any plan."""

    def kind(self, segment_id: str) -> str:
        """stable, decay or evaluate."""
        return self.segments[segment_id][0].kind


def planned_work(store: Store) -> PlannedWork:
    """Read every sweep.json. Raises StoreError where one cannot be read: what it needs is then unknown."""
    segments: dict[str, dict[PlannedSegment, None]] = {}
    for name in sweep_names(store):
        for segment in _segments(store, name):
            segments.setdefault(segment.id, {})[segment] = None
    users: dict[str, set[str]] = {}
    for name, planned in segments.items():
        for need in {need for segment in planned for need in segment.needs}:
            users.setdefault(need, set()).add(name)
    return PlannedWork(
        segments={name: tuple(planned) for name, planned in segments.items()},
        users={name: frozenset(using) for name, using in users.items()},
    )


def _segments(store: Store, name: str) -> list[PlannedSegment]:
    """Those of every revision of one sweep."""
    try:
        revisions = _revisions(store, name)
        return [from_jsonable(PlannedSegment, data) for revision in revisions for data in revision["segments"]]
    except (ValueError, TypeError) as error:
        raise damaged(store, name, error) from error


def data_folder(store: Store, name: str) -> Path:
    """The data snapshot that a sweep's latest plan was made for. Raises StoreError."""
    revisions = _revisions(store, name)
    if not revisions:
        raise StoreError(f"{store.sweep_folder(name) / 'sweep.json'} is missing: run the sweep's command again")
    return Path(revisions[-1].get("data_folder", ""))


def _revisions(store: Store, name: str) -> list[dict[str, Any]]:
    document = read_document(store.sweep_folder(name) / "sweep.json")
    return [] if document is None else document["revisions"]


@dataclass(frozen=True, kw_only=True)
class SweepText:
    """A text that cells of a sweep are measured on."""

    sha256: str
    """Of its token ids."""
    tokens: int
    """How many there are to predict."""
    file: str
    """Where it was read, for people."""

    @property
    def evaluation(self) -> TextEvaluation:
        """How cells are measured on it: under the rule of their own loss."""
        return TextEvaluation(text_sha256=self.sha256, rule="threshold")

    def segment_id(self, weights_id: str) -> str:
        """Id of the segment that measures weights on it."""
        return evaluation_id(weights_id, self.evaluation)


def sweep_texts(store: Store, sweep: str) -> dict[str, SweepText]:
    """The texts of a sweep by what it calls them, in the order of their names. Raises StoreError."""
    path = store.sweep_folder(sweep) / TEXTS
    try:
        document = read_json_object(path)
        if document["schema"] != TEXTS_SCHEMA:
            raise ValueError(f"schema {document['schema']!r:.40}")
        named = dict(sorted(document["texts"].items()))
        if wrong := [
            name for name, text in named.items() if not (is_folder_name(name) and is_content_id(text["sha256"]))
        ]:
            raise ValueError(f"{wrong[0]!r:.40} is no text")
        texts = {name: from_jsonable(SweepText, text) for name, text in named.items()}
    except FileNotFoundError:
        return {}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        again = "move it away and name the texts again: nothing is measured twice"
        raise StoreError(f"{path} cannot be read ({error}): {again}") from error
    return texts


def write_sweep_texts(store: Store, sweep: str, texts: Mapping[str, SweepText]) -> None:
    """Name the texts of a sweep; its plans are locked meanwhile, so that no name of another command is lost."""
    named = {key: asdict(text) for key, text in texts.items()}
    replace_text(store.sweep_folder(sweep) / TEXTS, json.dumps({"schema": TEXTS_SCHEMA, "texts": named}, indent=1))
