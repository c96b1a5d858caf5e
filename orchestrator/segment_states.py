"""What became of a segment, and of the cell that a chain of segments leads to: derived from the store's files alone."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from orchestrator.store.published import SegmentResult, StoreError, move_away
from orchestrator.store.store import Store

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
        self._begun = {*_names(store.root / "segments"), *_names(store.root / "attempts")}
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


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []


def segment_state(store: Store, segment_id: str, kind: str, stop_step: int) -> SegmentState:
    """Where a segment stands; a result that cannot be read is a failure."""
    status, reason, result = "pending", "", None
    try:
        result = store.result(segment_id)
    except StoreError as error:
        status, reason = "failed", str(error)
    else:
        if result is not None and (fault := _fault(result, kind)):
            path = store.segment_folder(segment_id)
            status, reason, result = "failed", f"{path}/result.json {fault}: {move_away(path)}", None
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
    attempts = list(store.attempts(segment_id))
    if not attempts:
        return None
    path = attempts[-1] / "failure.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"an attempt failed, and {path} does not say why"
