"""How a run is asked to stop: a file that its workers look for between steps, on whichever node they run.

The driver answers the first Ctrl-C or SIGTERM by writing the file; every worker then keeps a checkpoint at its next
step and leaves. A worker that is itself sent SIGTERM does the same. What must not be cut short defers either signal and
runs to its end first.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from orchestrator.store.workers.stop_request import StopFile

POLL_SECONDS = 0.1
"""Least time between two looks at the file."""

GRACE_SECONDS = 60.0
"""Longest wait for workers that are to keep a checkpoint: a step of a wide model on a CPU takes that long."""

EXIT_PREEMPTED = 85
"""Of a worker process that was sent SIGTERM."""

_TERMINATED = threading.Event()
"""Set in a worker process that was sent SIGTERM."""


class Interrupted(Exception):
    """A segment leaves before its end; what it has done is in a checkpoint."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(f"{cause} at step {step}")
        self.step = step
        self.cause = cause


def why_stop(stop: StopFile | None, *, running: bool) -> str | None:
    """Why a segment must not go on (or, where it is not `running` yet, not start); None where it may."""
    if _TERMINATED.is_set():
        return "SIGTERM"
    request = stop.asked() if stop else None
    if request == "now":
        return "the run was stopped"
    if request and not running:
        return "the run launches no more segments"
    return None


@dataclass(kw_only=True)
class StopWatch:
    """Looks for a request to stop, not more often than is worth the look."""

    stop: StopFile | None
    """None where only this process's own SIGTERM counts."""
    _looked_at: float = field(default=0.0, init=False)

    def check(self) -> str | None:
        """Why to leave now; None to go on."""
        if not _TERMINATED.is_set() and time.monotonic() - self._looked_at < POLL_SECONDS:
            return None
        self._looked_at = time.monotonic()
        return why_stop(self.stop, running=True)


@contextmanager
def preemptible() -> Iterator[None]:
    """SIGTERM in the body lets the segment at hand keep a checkpoint; then the process exits with 85.

    Its executor sees a lost worker and puts the segment on another one. A second SIGTERM exits at once. For the main
    thread of a process that is nothing but a worker.
    """

    def note(_number: int, _frame: FrameType | None) -> None:
        if _TERMINATED.is_set():
            os._exit(EXIT_PREEMPTED)
        _TERMINATED.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        if _TERMINATED.is_set():
            os._exit(EXIT_PREEMPTED)
        signal.signal(signal.SIGTERM, before)


@dataclass(kw_only=True)
class Stopping:
    """Whether, and since when, the driver is stopping."""

    number: int | None = None
    """The signal that asked for it."""
    since: float = 0.0
    """time.monotonic() of the request."""

    def seconds(self) -> float:
        """How long ago it was asked."""
        return time.monotonic() - self.since


@contextmanager
def stoppable(stop: StopFile) -> Iterator[Stopping]:
    """Ctrl-C and SIGTERM in the body ask the workers to stop; a second one unwinds at once.

    After the body, raises KeyboardInterrupt or SystemExit(143) where it was asked to stop.
    """
    state = Stopping()

    def ask(number: int, _frame: FrameType | None) -> None:
        if state.number is not None:
            raise _exit_of(number)
        state.number, state.since = number, time.monotonic()
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping: every running segment keeps a checkpoint; once more stops at once\n")
        with suppress(OSError):  # A full disk: then the workers are ended with the run.
            stop.ask("now")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield state
    except SystemExit as error:  # Ray replaces the code of one that is raised while it waits.
        raise (_exit_of(state.number) if state.number is not None else error) from error
    finally:
        for number in numbers:
            signal.signal(number, before[number])
        stop.remove()
    if state.number is not None:
        raise _exit_of(state.number)


def _exit_of(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


DEFERRED = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


@contextmanager
def deferred_signals(doing: str) -> Iterator[None]:
    """SIGINT and SIGTERM in the body are acted on when it has ended, by the handlers from before it.

    The first one says on stderr what is waited for (`doing`, such as "Ray starts"); a second one ends the process at
    once, with 128 and the signal's number. Handlers that the body sets for these two are ignored. In a thread other
    than the main one, which no handler interrupts, the body just runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        print(f"stopping as soon as {doing}; once more stops at once", file=sys.stderr, flush=True)

    try:
        with _handled_by(note):
            yield
    finally:
        if received:
            signal.raise_signal(signal.Signals(received[0]))


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """The deferred signals go to `handler` alone: in the body, `signal.signal` leaves them as they are."""
    install = signal.signal
    before = {number: signal.getsignal(number) for number in DEFERRED}

    def install_others(signalnum: int, handler: Handler, /) -> Handler:
        return before[signal.Signals(signalnum)] if signalnum in before else install(signalnum, handler)

    for number in DEFERRED:
        install(number, handler)
    signal.signal = install_others
    try:
        yield
    finally:
        signal.signal = install
        for number, previous in before.items():
            install(number, previous)
