"""Attempts that took no step for too long: what is recorded of them, and how one is ended that cannot end itself."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

from orchestrator.planning.identity import Segment
from orchestrator.running.outcomes import Failure, FailureClass
from orchestrator.running.stalls.watchdog import FIRED, stalled_run
from orchestrator.store.attempts import Attempt
from orchestrator.store.store import Store
from orchestrator.store.workers.sign_of_life import Sign

Ending = Literal["gone", "ended", "left"]
"""What became of a frozen process: nothing was to do, for it had ended or takes steps again; it was ended; it is still
there, and cannot be ended."""

WAKE_SECONDS = 1.0
"""For the watchdog of a stopped process that goes on: its time has run out, and it writes stacks and ends."""

END_SECONDS = 3.0
"""For the kernel to end a process; one that waits for a disk or a device may stay as long as that hangs."""


def record_stalled(segment: Segment, run: str, store: Store) -> int:
    """Say of attempts that took no step that they failed, as they could not; how many are of this run."""
    of_this_run = 0
    for attempt in _stalled_attempts(segment, store):
        of_this_run += stalled_run(attempt) == run
        if not attempt.has_failed:
            attempt.record_failure(_failure_of(segment, attempt).to_json())
    return of_this_run


def stalled_failure(segment: Segment, store: Store) -> Failure:
    """The failure of a segment's newest stalled attempt."""
    return _failure_of(segment, list(_stalled_attempts(segment, store))[-1])


def end_frozen(attempt: Attempt, sign: Sign, seconds: float) -> Ending:
    """End the process of an attempt that took no step for so long, with its stacks on file. Only on its own host."""
    process = sign.process
    if process.running() is None:
        return "gone"
    # A stopped process writes no stacks. Its watchdog counts on, and does so at once when it may go on.
    if process.is_stopped():
        if process.wake(WAKE_SECONDS):
            return "ended"
        if attempt.read_sign() != sign:
            return "gone"
    # Before the kill: the next attempt starts at once, and counts the stalled ones by this file.
    with suppress(OSError), attempt.stacks.open("a") as file:  # A full disk must not keep it alive.
        file.write(f"{FIRED}the driver saw no step for {seconds:.0f} s)!\n{process.description()}\n")
    return "ended" if process.end(END_SECONDS) else "left"


def _stalled_attempts(segment: Segment, store: Store) -> Iterator[Attempt]:
    return (attempt for attempt in store.attempts(segment.id) if stalled_run(attempt) is not None)


def _failure_of(segment: Segment, attempt: Attempt) -> Failure:
    progress = attempt.read_progress()
    where = f"after step {progress.step}" if progress else "before its first step"
    text = f"no step was taken for too long {where} of {segment.stop_step}; {attempt.stacks} has the stacks"
    return Failure(kind=FailureClass.stalled, text=text)
