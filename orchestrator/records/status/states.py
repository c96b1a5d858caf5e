"""What became of a segment, and of the cells that chains of segments lead to: derived from the store's files alone.

Cells are read as cheaply as ten thousand of them need: sweep.json is taken as the plain JSON that it is, and a file is
opened only where the folders' listings say that there is something to read. The whole table is made by `table`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from orchestrator.planning.canonical import cycle_collection_paused, other_version
from orchestrator.planning.identity import chain_ids
from orchestrator.records.terminal import printable_label
from orchestrator.store.published import SegmentResult, StoreError, move_away
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import current_revisions, damaged, find_document, other_settings, revisions_of

CellStatus = Literal["finished", "pending", "failed", "diverged"]
"""Each planned cell is in exactly one. A cell whose run was interrupted is pending: the same command goes on with it;
one whose trunk diverged is diverged itself."""


@dataclass(frozen=True, kw_only=True)
class SegmentState:
    """A segment at one moment."""

    segment_id: str
    """Its content id."""
    kind: str
    """stable, decay or evaluate."""
    stop_step: int
    """The step at which it ends."""
    status: CellStatus
    """That of its published result; else failed where its latest attempt is; else pending."""
    reason: str = ""
    """One sentence where it failed or diverged."""
    result: SegmentResult | None = None
    """Its published result, where it can be read."""


class Stage(Protocol):
    """A planned segment with its state, on the way to a cell."""

    @property
    def kind(self) -> str:
        """stable, decay or evaluate."""
        ...

    @property
    def stop_step(self) -> int:
        """The step at which it ends."""
        ...

    @property
    def status(self) -> str:
        """See SegmentState."""
        ...

    @property
    def reason(self) -> str:
        """See SegmentState."""
        ...


class SegmentStates:
    """The states of a store's segments, each looked up once, and no file opened of one that nobody has begun."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._begun = folder_names(store.root / "segments") | folder_names(store.root / "attempts")
        self._found: dict[str, SegmentState] = {}

    def of(self, segment_id: str, kind: str, stop_step: int) -> SegmentState:
        """One planned segment's."""
        if segment_id not in self._found:
            self._found[segment_id] = (
                segment_state(self._store, segment_id, kind, stop_step)
                if segment_id in self._begun
                else SegmentState(segment_id=segment_id, kind=kind, stop_step=stop_step, status="pending")
            )
        return self._found[segment_id]


def folder_names(folder: Path) -> set[str]:
    """What lies in a folder; nothing where there is none."""
    return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()


def segment_state(store: Store, segment_id: str, kind: str, stop_step: int) -> SegmentState:
    """Where a segment stands; a result that cannot be read is a failure."""
    status, reason, result = "pending", "", None
    try:
        result = store.result(segment_id)
    except StoreError as error:
        status, reason = "failed", str(error)
    else:
        if result is not None and (fault := _fault(result, kind)):
            files = store.published(segment_id)
            status, reason, result = "failed", f"{files.result} {fault}: {move_away(files.folder)}", None
        elif result is not None:
            status, reason = result.status, result.reason
        elif failure := _latest_failure(store, segment_id):
            status, reason = "failed", failure
    return SegmentState(
        segment_id=segment_id, kind=kind, stop_step=stop_step, status=status, reason=reason, result=result
    )


def _fault(result: SegmentResult, kind: str) -> str:
    """What keeps a result from being that of a planned segment; empty for nothing."""
    if result.kind != kind:
        return f"is of kind {result.kind!r}, and a segment of kind {kind!r} is planned"
    if kind == "evaluate" and result.is_finished and result.evaluation is None:
        return "has no loss"
    return ""


def cell_status(chain: Sequence[Stage]) -> tuple[CellStatus, str]:
    """Status and reason of the cell at a chain's end: finished where its evaluation is, however the chain before it was
    planned since; else what stopped it first."""
    if chain[-1].status == "finished":
        return "finished", ""
    for segment in chain:
        if segment.status == "diverged":
            return "diverged", f"{segment.kind} to step {segment.stop_step} diverged: {segment.reason}"
        if segment.status == "failed":
            return "failed", f"{segment.kind} to step {segment.stop_step}: {segment.reason}"
    return "pending", ""


def _latest_failure(store: Store, segment_id: str) -> str | None:
    """The reason of the newest attempt, if that attempt failed."""
    newest = store.attempts(segment_id).newest()
    return newest.failure_reason() if newest else None


@dataclass(frozen=True, kw_only=True)
class CellState:
    """One cell at one moment."""

    cell_id: str
    """Its content id."""
    arm: str
    """Its arm's label."""
    size: str
    """Name of its base shape."""
    budget: int
    """C in FLOPs."""
    seed: int
    """Its seed."""
    params: int
    """N, unique non-embedding parameters."""
    tokens: int
    """D, training tokens."""
    steps: int
    """Optimiser steps in all."""
    status: CellStatus
    """finished, pending, failed or diverged."""
    reason: str
    """One sentence where it failed or diverged."""
    waits_for: str | None
    """Id of the first segment on its way that is not published; None where it is finished."""
    loss: float | None
    """Nats per token under causal routing, where it is finished."""
    loss_topk: float | None
    """Nats per token under the paper's evaluation, where it is finished."""
    depth_mean: float | None
    """Mean recursions a token, where it is finished."""


@dataclass(frozen=True, kw_only=True)
class SweepStates:
    """A sweep's cells at one moment."""

    name: str
    """The sweep's name."""
    cells: tuple[CellState, ...]
    """Each once, in the order in which they were first planned."""
    settings_id: str
    """Content id of the settings that they have in common."""
    others: tuple[str, ...]
    """Ids of the settings that the sweep had before its latest ones."""
    num_others: int
    """Cells under those settings alone."""
    segments: Mapping[str, Mapping[str, Any]]
    """Every planned segment as sweep.json has it, by id."""
    planned_cells: Mapping[str, Mapping[str, Any]]
    """The same cells as sweep.json has them, by id."""


@dataclass(frozen=True, kw_only=True)
class _Chains:
    """What leads to a cell, as planned and as it stands."""

    planned: Mapping[str, Mapping[str, Any]]
    states: SegmentStates

    def of(self, segment_id: str) -> SegmentState:
        """One segment's state."""
        segment = self.planned[segment_id]
        return self.states.of(segment_id, segment["kind"], segment["stop_step"])

    def chain(self, segment_id: str) -> list[SegmentState]:
        """Those of the segments that lead to one, the first first, itself last."""
        return [self.of(name) for name in chain_ids(segment_id, lambda name: self.planned[name]["needs"])]


def sweep_states(store: Store, name: str | None = None, settings_id: str | None = None) -> SweepStates:
    """The cells of a sweep, or of the last one used, under its latest settings or under those of an id.

    Raises NoSuchSweep, StoreError and OtherVersion."""
    with cycle_collection_paused():
        return _sweep_states(store, name, settings_id)


def _sweep_states(store: Store, name: str | None, settings_id: str | None) -> SweepStates:
    name, document = find_document(store, name)
    planned: dict[str, Mapping[str, Any]] = {}
    cells: dict[str, Mapping[str, Any]] = {}
    try:
        settings_id = settings_id or str(document["revisions"][-1]["settings_id"])
        others = other_settings(document)
        all_cells = {cell["cell_id"] for revision in document["revisions"] for cell in revision["cells"]}
        current = {cell["cell_id"] for revision in current_revisions(document) for cell in revision["cells"]}
        for revision in revisions_of(document, settings_id):
            cells |= {cell["cell_id"]: cell for cell in revision["cells"]}
            planned |= {segment["id"]: segment for segment in revision["segments"]}
    except (KeyError, TypeError, IndexError) as error:
        raise damaged(store, name, error) from error
    chains = _Chains(planned=planned, states=SegmentStates(store))
    try:
        cell_states = tuple(_cell_state(cell, chains) for cell in cells.values())
    except KeyError as error:
        raise other_version("a cell", str(error)) from error
    return SweepStates(
        name=name,
        cells=cell_states,
        settings_id=settings_id,
        others=tuple(others),
        num_others=len(all_cells - current),
        segments=planned,
        planned_cells=cells,
    )


def _cell_state(cell: Mapping[str, Any], chains: _Chains) -> CellState:
    evaluated = chains.of(cell["evaluate_segment"])
    finished = evaluated.status == "finished"
    chain = [evaluated] if finished else chains.chain(cell["evaluate_segment"])
    status, reason = cell_status(chain)
    evaluation = evaluated.result.evaluation if finished and evaluated.result else None
    return CellState(
        cell_id=cell["cell_id"],
        arm=printable_label(cell["arm"]),
        size=printable_label(cell["size"]),
        budget=cell["budget"],
        seed=cell["seed"],
        params=cell["unique_params"],
        tokens=cell["tokens"],
        steps=cell["steps"],
        status=status,
        reason=reason,
        waits_for=next((state.segment_id for state in chain if state.result is None), None),
        loss=evaluation.loss if evaluation else None,
        loss_topk=evaluation.loss_topk if evaluation else None,
        depth_mean=evaluation.depth_mean if evaluation else None,
    )
