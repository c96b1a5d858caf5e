"""Where the cells of a sweep stand, and what they wait for, read as cheaply as ten thousand of them need.

sweep.json is taken as the plain JSON that it is, and a file is opened only where the folders' listings say that there
is something to read. What the states mean is said in segment_states; the whole table is made by records.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mor_core.printable import printable_label
from orchestrator.planning.canonical import cycle_collection_paused, other_version
from orchestrator.segment_states import CellStatus, SegmentState, SegmentStates, cell_status
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import current_revisions, damaged, find_document, other_settings, revisions_of


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
        chain = [self.of(segment_id)]
        while needs := self.planned[chain[-1].segment_id]["needs"]:
            chain.append(self.of(needs[0]))
        return chain[::-1]


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
        found = tuple(_cell_state(cell, chains) for cell in cells.values())
    except KeyError as error:
        raise other_version("a cell", str(error)) from error
    return SweepStates(
        name=name,
        cells=found,
        settings_id=settings_id,
        others=tuple(others),
        num_others=len(all_cells - current),
        segments=planned,
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
        steps=cell["steps"],
        status=status,
        reason=reason,
        waits_for=next((each.segment_id for each in chain if each.result is None), None),
        loss=evaluation.loss if evaluation else None,
        loss_topk=evaluation.loss_topk if evaluation else None,
        depth_mean=evaluation.depth_mean if evaluation else None,
    )
