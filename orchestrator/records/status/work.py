"""How much of a sweep's training is done: FLOPs, and the time of one worker at the speeds so far."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.canonical import cycle_collection_paused
from orchestrator.records.status.states import SweepStates, folder_names
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store

MOST_TIMED = 1000
"""Segments whose results are opened for their time: `status` of thousands of cells stays quick, and says no time."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Training of a sweep's cells, each shared segment counted once. Evaluations are not in it."""

    flops: float
    """Exact training FLOPs in all."""
    flops_done: float
    """Of these, in segments that are published, and in the steps of those under way."""
    seconds: float | None
    """What all of it takes one worker at the speeds so far, s; None where no speed is known."""
    seconds_done: float | None
    """Of these, what is done; None likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stretch:
    """A segment that trains."""

    segment_id: str
    """Its content id."""
    speed_of: tuple[str, str]
    """Arm and size: what its speed is that of."""
    steps: int
    """Its steps."""
    flops: float
    """Of these steps."""
    share_done: float
    """Of its steps."""


def work_done(store: Store, states: SweepStates, steps_under_way: Mapping[str, int]) -> Work | None:
    """What is done of a sweep; None where another version recorded it and left out what this takes. `steps_under_way`
    is the step that each segment under way is at, by its id."""
    try:
        with cycle_collection_paused():
            stretches = list(_stretches(store, states, steps_under_way))
    except (KeyError, TypeError):
        return None
    done = [stretch for stretch in stretches if stretch.share_done == 1.0]
    speeds = _seconds_per_flop(store, done) if len(done) <= MOST_TIMED else {}
    mean = sum(speeds.values()) / len(speeds) if speeds else None

    def seconds(stretch: _Stretch) -> float:
        return stretch.flops * speeds.get(stretch.speed_of, mean or 0.0)

    return Work(
        flops=sum(stretch.flops for stretch in stretches),
        flops_done=sum(stretch.flops * stretch.share_done for stretch in stretches),
        seconds=None if mean is None else sum(map(seconds, stretches)),
        seconds_done=None if mean is None else sum(seconds(stretch) * stretch.share_done for stretch in stretches),
    )


def _stretches(store: Store, states: SweepStates, steps_under_way: Mapping[str, int]) -> Iterator[_Stretch]:
    """Every segment that leads to a cell and takes steps, once. What leads to a finished cell is done, however it was
    planned since."""
    finished = {cell.cell_id for cell in states.cells if cell.status == "finished"}
    ends = [(cell["evaluate_segment"], cell["cell_id"] in finished) for cell in states.planned_cells.values()]
    passed = _leading_to([end for end, is_finished in ends if is_finished], states.segments)
    begun = folder_names(store.root / "segments")  # One listing: a look at each of thousands of files takes seconds.
    trunks = {cell["trunk_id"]: cell for cell in states.planned_cells.values()}
    for segment_id in _leading_to([end for end, _ in ends], states.segments):
        segment = states.segments[segment_id]
        cell = trunks.get(segment["trunk_id"])
        first = max((states.segments[need]["stop_step"] for need in segment["needs"]), default=0)
        steps = segment["stop_step"] - first
        if segment["kind"] == "evaluate" or steps <= 0 or cell is None:
            continue
        is_done = segment_id in passed or (segment_id in begun and store.is_done(segment_id))
        at = segment["stop_step"] if is_done else steps_under_way.get(segment_id, first)
        yield _Stretch(
            segment_id=segment_id,
            speed_of=(cell["arm"], cell["size"]),
            steps=steps,
            flops=steps * cell["flops"]["exact"] / cell["steps"],
            share_done=min(max(at - first, 0) / steps, 1.0),
        )


def _leading_to(ends: Iterable[str], segments: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Those segments and all that they need, each looked at once."""
    reached: set[str] = set()
    waiting = list(ends)
    while waiting:
        segment_id = waiting.pop()
        if segment_id not in reached:
            reached.add(segment_id)
            waiting += segments[segment_id]["needs"]
    return reached


def _seconds_per_flop(store: Store, done: Iterable[_Stretch]) -> dict[tuple[str, str], float]:
    """By arm and size: seconds of a step, in the mean over the steps that were timed, over its FLOPs."""
    seconds: dict[tuple[str, str], float] = {}
    flops: dict[tuple[str, str], float] = {}
    for stretch in done:
        try:
            result = store.result(stretch.segment_id)
        except StoreError:
            continue
        if result is None or not result.steps_executed:
            continue
        name = stretch.speed_of
        seconds[name] = seconds.get(name, 0.0) + result.train_seconds
        flops[name] = flops.get(name, 0.0) + result.steps_executed * stretch.flops / stretch.steps
    return {name: seconds[name] / flops[name] for name in seconds}
