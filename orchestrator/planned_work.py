"""Everything that any sweep of a results folder was ever asked for, settings left behind included."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.identity import from_jsonable
from orchestrator.revisions import PlannedSegment
from orchestrator.store import Store, StoreError
from orchestrator.sweep_document import SCHEMA, sweep_names


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
        path = store.sweep_folder(name) / "sweep.json"
        try:
            for data in _segments(json.loads(path.read_text())):
                segment = from_jsonable(PlannedSegment, data)
                found.setdefault(segment.id, {})[segment] = None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}): move it away and run the sweep's command again; trained segments "
                "are kept"
            ) from error
    users: dict[str, set[str]] = {}
    for name, planned in found.items():
        for need in {need for each in planned for need in each.needs}:
            users.setdefault(need, set()).add(name)
    return PlannedWork(
        segments={name: tuple(planned) for name, planned in found.items()},
        users={name: frozenset(using) for name, using in users.items()},
    )


def _segments(document: Any) -> list[Any]:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']!r}, expected {SCHEMA!r}")
    return [data for revision in document["revisions"] for data in revision["segments"]]


def data_folder(store: Store, name: str) -> Path:
    """The data snapshot that a sweep's latest plan was made for. Raises StoreError."""
    path = store.sweep_folder(name) / "sweep.json"
    try:
        return Path(json.loads(path.read_text())["revisions"][-1]["data_folder"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(
            f"{path} cannot be read ({error!r}): move it away and run the sweep's command again"
        ) from error
