"""sweep.json: the growing list of plans that a sweep has been asked for. Revisions are appended, never changed.

The sweep's table holds the cells of all revisions that share the latest one's settings (mathematics, data,
evaluation), so a budget added later joins the ones trained before, and losses of different settings are never mixed.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from mor_core.data.snapshot import DataSnapshot, load_snapshot
from mor_core.data.spec import DataError
from mor_core.files import replace_text
from orchestrator.planning.canonical import from_jsonable, to_jsonable
from orchestrator.planning.cells import Cell
from orchestrator.planning.identity import chain_ids, trunk_id
from orchestrator.planning.plan import Plan
from orchestrator.planning.spec.sweep_file import RECORDED, recorded_document
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import (
    SCHEMA,
    PlannedSegment,
    current_revisions,
    damaged,
    find_document,
    read_document,
    revisions_of,
)

LARGEST_COUNT = 2**63 - 1
"""Of a whole number in a column of the run table."""

COUNTS = ("steps", "tokens", "decay_start", "seed", "recursions", "unique_params", "unrolled_params", "total_params")
"""Fields of a cell that are such columns."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that a sweep has been asked for, over all its revisions."""

    name: str
    """Its name."""
    revisions: int
    """How many different plans it has had."""
    cells: tuple[Cell, ...]
    """Each once, in the order in which they were first planned."""
    segments: dict[str, PlannedSegment]
    """By id."""
    settings_id: str = ""
    """Content id of the latest plan's settings: everything but the grid."""
    data_folder: str = ""
    """Where the latest plan's data snapshot was, on the machine that planned it."""
    spec: dict[str, Any] | None = None
    """The resolved sweep file of the latest plan, as JSON values; None where it was recorded before those were."""
    left_out: int = 0
    """Cells of earlier revisions that had other settings: kept in sweep.json, left out of everything else."""

    def chain(self, cell: Cell) -> list[PlannedSegment]:
        """The segments that lead to a cell: its stable stretches, its decay, its evaluation."""
        names = chain_ids(str(cell.evaluate_segment), lambda name: self.segments[name].needs)
        return [self.segments[name] for name in names]


def record_revision(store: Store, plan: Plan, data: DataSnapshot) -> Sweep:
    """Append a plan to its sweep, unless it is the sweep's latest already, and make the sweep the last one used."""
    store.root.mkdir(parents=True, exist_ok=True)  # The only place where a run makes it: later it may have been moved.
    folder = store.make_folder(store.sweep_folder(plan.name))
    revision = {
        "cells": [to_jsonable(cell) for cell in plan.cells],
        "segments": [to_jsonable(_planned(segment)) for segment in plan.segments],
        "data_folder": str(data.folder),
        RECORDED: plan.spec.document(),
    }
    with plans_locked(store, plan.name):
        document = read_document(folder / "sweep.json") or {"schema": SCHEMA, "name": plan.name, "revisions": []}
        latest = document["revisions"][-1] if document["revisions"] else {}
        revision["settings_id"] = _settings_id_among(document["revisions"], plan)
        if _asked(latest) != _asked(revision):
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            document["revisions"].append({"number": len(document["revisions"]) + 1, "created": now, **revision})
            replace_text(folder / "sweep.json", json.dumps(document))
        replace_text(folder.parent / ".last", plan.name)
    return load_sweep(store, plan.name)


def recorded_settings_id(store: Store, name: str, plan: Plan) -> str:
    """The id under which a sweep holds, or would hold, the settings of a plan. Raises StoreError where its sweep.json
    cannot be read."""
    document = read_document(store.sweep_folder(name) / "sweep.json")
    return _settings_id_among(document["revisions"] if document else [], plan)


def _settings_id_among(revisions: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    """The id that the newest revision of a plan's settings has, or the plan's own: a sweep that was begun by a version
    whose ids counted more keeps its id, so that no cell leaves its table."""
    for revision in reversed(revisions):
        if revision["settings_id"] in (plan.settings_id, plan.settings_id_with(_own_sizes(revision))):
            return str(revision["settings_id"])
    return plan.settings_id


def _own_sizes(revision: Mapping[str, Any]) -> dict[str, Any]:
    """By label, what its sweep file names of the ladders of the user's own models."""
    arms = revision.get(RECORDED, {}).get("arms")
    tables = arms.items() if isinstance(arms, dict) else ()
    return {label: table.get("sizes") for label, table in tables if isinstance(table, dict)}


def _asked(revision: dict[str, Any]) -> dict[str, Any]:
    """What makes a revision another one. How it is executed does not: that stays as it was first recorded."""
    spec = {key: value for key, value in revision.get(RECORDED, {}).items() if key != "execution"}
    return {key: value for key, value in revision.items() if key not in ("number", "created")} | {RECORDED: spec}


def share_revision(store: Store, plan: Plan, data: DataSnapshot) -> Sweep:
    """Record a plan as its sweep's latest revision, upstream too. Raises StoreError where that cannot be used."""
    while True:  # Until no other machine has appended a revision of the same number in between.
        store.upstream.pull_revisions(plan.name)
        sweep = record_revision(store, plan, data)
        if store.upstream.append_revision(plan.name):
            return sweep


def plans_locked(store: Store, name: str) -> FileLock:
    """The lock of a sweep's plans and of the tables made from them, to hold in a `with` block."""
    return FileLock(store.sweep_folder(name) / "sweep.lock")


def load_sweep(store: Store, name: str | None = None) -> Sweep:
    """A sweep by name, or the last one used. Raises NoSuchSweep, or StoreError where sweep.json cannot be read."""
    name, document = find_document(store, name)
    try:
        return _merged(name, document)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise damaged(store, name, error) from error


def cells_leaving(store: Store, plan: Plan) -> tuple[Cell, ...]:
    """Finished cells of a plan's sweep that its table would not hold any more once the plan is recorded, because the
    plan has other settings. Raises StoreError where sweep.json cannot be read."""
    document = read_document(store.sweep_folder(plan.name) / "sweep.json")
    if document is None:
        return ()
    current = load_sweep(store, plan.name)
    settings_id = _settings_id_among(document["revisions"], plan)
    kept = {cell.cell_id for cell in plan.cells}
    kept |= {data["cell_id"] for revision in revisions_of(document, settings_id) for data in revision["cells"]}
    return tuple(
        cell for cell in current.cells if cell.cell_id not in kept and store.is_done(str(cell.evaluate_segment))
    )


def _merged(name: str, document: dict[str, Any]) -> Sweep:
    """The cells and segments of every revision that has the latest one's settings."""
    cells: dict[str, Cell] = {}
    segments: dict[str, PlannedSegment] = {}
    for revision in current_revisions(document):
        cells |= {data["cell_id"]: _counted(from_jsonable(Cell, data)) for data in revision["cells"]}
        segments |= {data["id"]: from_jsonable(PlannedSegment, data) for data in revision["segments"]}
    latest = document["revisions"][-1]
    all_cells = {data["cell_id"] for revision in document["revisions"] for data in revision["cells"]}
    return Sweep(
        name=name,
        revisions=len(document["revisions"]),
        cells=tuple(cells.values()),
        segments=segments,
        settings_id=str(latest["settings_id"]),
        data_folder=str(latest.get("data_folder", "")),
        spec=recorded_document(document["revisions"]),
        left_out=len(all_cells) - len(cells),
    )


def _counted(cell: Cell) -> Cell:
    """The cell, whose counts the table's columns can hold. Raises ValueError."""
    counts = {name: getattr(cell, name) for name in COUNTS}
    counts |= {"train.batch_size": cell.train.batch_size, "train.warmup_steps": cell.train.warmup_steps}
    for name, count in counts.items():
        if not 0 <= count <= LARGEST_COUNT:
            raise ValueError(f"cell {cell.cell_id} has {name} {count}, expected 0 to {LARGEST_COUNT}")
    return cell


def _planned(segment: Any) -> PlannedSegment:
    return PlannedSegment(
        id=segment.id,
        kind=segment.kind,
        trunk_id=trunk_id(segment.trunk),
        stop_step=segment.stop_step,
        needs=segment.needs,
    )


SMALL_CORPUS_TOKENS = 10**9


def data_label(sweep: Sweep) -> str:
    """The data snapshot of a sweep: its name and the start of its fingerprint; its folder's name where it is gone."""
    snapshot = _snapshot_of(sweep)
    if snapshot is None:
        name = Path(sweep.data_folder).name
        return f"data {name[:12]}" if name else ""
    return f"{snapshot.name} {snapshot.fingerprint[:12]}"


def is_on_small_corpus(sweep: Sweep) -> bool:
    """Whether a sweep trained on less text than language models take; True where its data is gone."""
    snapshot = _snapshot_of(sweep)
    return snapshot is None or snapshot.train_tokens < SMALL_CORPUS_TOKENS


def _snapshot_of(sweep: Sweep) -> DataSnapshot | None:
    try:
        return load_snapshot(Path(sweep.data_folder))
    except (DataError, OSError):
        return None


def package_version() -> str:
    """Of mor-sweep."""
    return version("mor-sweep")
