"""Ctrl-C and SIGTERM that wait: what must not be cut short runs to its end first."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

DEFERRED = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


@contextlib.contextmanager
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


@contextlib.contextmanager
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
