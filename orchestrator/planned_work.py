"""Everything that any sweep of a results folder was ever asked for, settings left behind included."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.planning.canonical import from_jsonable
from orchestrator.published import StoreError
from orchestrator.revisions import PlannedSegment
from orchestrator.store import Store
from orchestrator.sweep_document import damaged, read_document, sweep_names


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
    found: dict[str, dict[PlannedSegment, None]] = {}
    for name in sweep_names(store):
        for segment in _segments(store, name):
            found.setdefault(segment.id, {})[segment] = None
    users: dict[str, set[str]] = {}
    for name, planned in found.items():
        for need in {need for each in planned for need in each.needs}:
            users.setdefault(need, set()).add(name)
    return PlannedWork(
        segments={name: tuple(planned) for name, planned in found.items()},
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
