"""Where every cell of a sweep stands at one moment, from the files of its results folder alone."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mor_core.units import duration_text, short_power
from orchestrator.records.status.states import CellState, SweepStates, sweep_states
from orchestrator.records.status.work import Work, work_done
from orchestrator.store.drivers import running_drivers
from orchestrator.store.store import Store

SILENT_SECONDS = 30.0
"""Least time without a step that is worth a word."""

SILENT_STEPS = 3.0
"""And as many times the slowest step so far."""


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """A segment that has been begun and is not published, and the cells that wait for it next."""

    segment_id: str
    """Its content id."""
    kind: str
    """stable, decay or evaluate."""
    step: int
    """Steps taken when its attempt last said so."""
    stop_step: int
    """The step at which it ends."""
    running: bool
    """Whether a process of this host is at work on it; always False where another host's locks are not seen."""
    cell_ids: tuple[str, ...]
    """Cells."""
    silent_seconds: int | None = None
    """For how long a running one has taken no step, by this host's clock; None where that is as usual or not known."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A sweep at one moment."""

    name: str
    """Its name."""
    cells: tuple[CellState, ...]
    """Its cells."""
    under_way: tuple[UnderWay, ...]
    """What has been begun and is not published."""
    is_running: bool
    """Whether a driver or a worker is at work, as far as this host can see."""
    settings_id: str = ""
    """Content id of the settings that the cells have in common."""
    others: tuple[str, ...] = ()
    """Ids of the settings that the sweep had before its latest ones."""
    num_others: int = 0
    """Cells under those settings alone."""
    work: Work | None = None
    """How much of its training is done; None where that was not asked."""

    def by_cell(self) -> dict[str, UnderWay]:
        """What each cell waits for, where that has been begun."""
        return {cell_id: segment for segment in self.under_way for cell_id in segment.cell_ids}


def read_status(store: Store, name: str | None, settings_id: str | None = None) -> Status:
    """A sweep, or the last one used, as it stands, under its latest settings or under those of an id. Raises what
    `sweep_states` raises."""
    states = sweep_states(store, name, settings_id)
    driven = bool(running_drivers(store, states.name))
    under_way = segments_under_way(store, states)
    if driven or under_way:  # What ended since the first look is in the second.
        states = sweep_states(store, name, settings_id)
    return Status(
        name=states.name,
        cells=states.cells,
        under_way=tuple(under_way),
        is_running=driven or any(segment.running for segment in under_way),
        settings_id=states.settings_id,
        others=states.others,
        num_others=states.num_others,
        work=work_done(store, states, {segment.segment_id: segment.step for segment in under_way}),
    )


def segments_under_way(store: Store, states: SweepStates) -> list[UnderWay]:
    """The first unfinished segment of each unfinished cell, where an attempt at it has taken a step; each once."""
    cells: dict[str, list[str]] = {}
    for cell in states.cells:
        if cell.waits_for is not None:
            cells.setdefault(cell.waits_for, []).append(cell.cell_id)
    under_way = (_under_way(store, name, states.segments[name]["kind"], tuple(cells[name])) for name in cells)
    return [segment for segment in under_way if segment]


def _under_way(store: Store, segment_id: str, kind: str, cell_ids: tuple[str, ...]) -> UnderWay | None:
    progress = store.attempts(segment_id).progress()
    if progress is None:
        return None
    running = store.attempts(segment_id).is_locked()
    return UnderWay(
        segment_id=segment_id,
        kind=kind,
        step=progress.step,
        stop_step=progress.stop_step,
        running=running,
        cell_ids=cell_ids,
        silent_seconds=silent_seconds(store, segment_id) if running else None,
    )


def silent_seconds(store: Store, segment_id: str) -> int | None:
    """For how long the newest attempt has shown no sign of life, where that is much longer than its steps take.

    The one place where a clock is compared with a file's time, which another machine may have set: for reading only.
    """
    attempt = store.attempts(segment_id).newest()
    sign = attempt.read_sign() if attempt else None
    if attempt is None or sign is None:
        return None
    try:
        seconds = time.time() - attempt.sign.stat().st_mtime
    except OSError:  # It has just ended.
        return None
    return int(seconds) if seconds > max(SILENT_SECONDS, SILENT_STEPS * sign.slowest_step_seconds) else None


def state_text(cell: CellState, under_way: UnderWay | None) -> str:
    """Such as "running: stable at step 40 of 120, no step for 75 s", or what stopped the cell."""
    if cell.status == "diverged":  # Its reason says so itself.
        return cell.reason
    if cell.reason or under_way is None:
        return f"{cell.status}: {cell.reason}" if cell.reason else cell.status
    state = "running" if under_way.running else cell.status
    silent = f", no step for {under_way.silent_seconds} s" if under_way.silent_seconds is not None else ""
    return f"{state}: {under_way.kind} at step {under_way.step} of {under_way.stop_step}{silent}"


def is_running(cell: CellState, under_way: UnderWay | None) -> bool:
    """Whether a process is at work on what a cell waits for."""
    return cell.status == "pending" and under_way is not None and under_way.running


def counts_text(status: Status) -> str:
    """Such as "toy: 3 finished, 9 pending"."""
    return f"{status.name}: {counted(cell.status for cell in status.cells)}"


def work_text(status: Status) -> str:
    """Such as "trained: 31% of 3.1e12 FLOPs, 28% of the time; about 12.4 minutes of one worker are left"; empty where
    that is not known."""
    work = status.work
    if work is None or not work.flops:
        return ""
    if work.flops_done >= work.flops:
        spent = f" in {duration_text(work.seconds)} of one worker" if work.seconds else ""
        return f"trained: {short_power(work.flops)} FLOPs{spent}"
    text = f"trained: {work.flops_done / work.flops:.0%} of {short_power(work.flops)} FLOPs"
    if not work.seconds or work.seconds_done is None:
        return text
    left = duration_text(work.seconds - work.seconds_done)
    return f"{text}, {work.seconds_done / work.seconds:.0%} of the time; about {left} of one worker are left"


def counted(states: Iterable[str]) -> str:
    """Such as "3 finished, 9 pending"."""
    return ", ".join(f"{count} {state}" for state, count in sorted(Counter(states).items()))
