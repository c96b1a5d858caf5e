"""Ends this process when no step is taken for too long, with the stacks of all its threads on file.

The timer is faulthandler's, a thread below Python: it fires also while a native call holds the interpreter. It counts
this process's own monotonic seconds since the last step; no clock is compared, and none of another machine.

A process that is frozen as a whole cannot end itself. So the watchdog says in a file of the attempt, each time that it
is set, by which process and for how long; the driver ends the process when that file does not change any more (see
`detection`).
"""

import faulthandler
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import TextIO

from mor_core.files import replace_text
from orchestrator.store.attempts import Attempt
from orchestrator.store.workers.sign_of_life import Sign, this_process

FIRED = "Timeout ("
"""How faulthandler begins when its timer has run out."""

FIRST_STEP_FACTOR = 3.0
"""The first step waits for data to be verified, a model to be built and perhaps compiled."""

SLOWEST_STEP_FACTOR = 20.0
"""A step that takes this many times the slowest one so far is no step any more."""

REARM_SECONDS = 1.0
"""Setting the timer costs a thread: not for every step of a few milliseconds."""

LOOK_SECONDS = 0.1
"""Least time between two looks whether the attempt was given up."""


class Superseded(Exception):
    """The driver gave this attempt up while it took no step: another attempt has its place."""


@dataclass(kw_only=True)
class Watchdog:
    """Watches the steps taken in its `with` body; each is told by `step`."""

    attempt: Attempt
    """Whose steps they are, and where the stacks go."""
    run: str
    """The run that makes the attempt: retries are counted within one run."""
    seconds: float
    """Least time without a step that ends the process; 20 times the slowest step so far where that is more."""
    _slowest: float = field(default=0.0, init=False)
    _steps: int = field(default=0, init=False)
    _stepped_at: float | None = field(default=None, init=False)
    _armed_at: float = field(default=0.0, init=False)
    _looked_at: float = field(default=0.0, init=False)
    _file: TextIO | None = field(default=None, init=False)

    def __enter__(self) -> "Watchdog":
        # Appended to: the driver may add what it saw of a process that is frozen.
        self._file = self.attempt.stacks.open("a")
        self._file.write(f"run {self.run}\n")
        self._file.flush()
        self._arm(FIRST_STEP_FACTOR * self.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()
        assert self._file is not None
        with suppress(OSError):  # A disk that is full or read-only must not hide what it caused.
            self.attempt.sign.unlink(missing_ok=True)
            self._file.close()
            if not isinstance(error, Superseded):  # Then the driver has written there.
                self.attempt.stacks.unlink(missing_ok=True)

    def step(self) -> None:
        """A step was taken, or as much was done in another way (a checkpoint was kept). Raises Superseded."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self.refuse_superseded()
        self._steps += 1
        if self._stepped_at is not None:
            self._slowest = max(self._slowest, now - self._stepped_at)
        self._stepped_at = now
        if now - self._armed_at >= REARM_SECONDS:
            self._arm(max(self.seconds, SLOWEST_STEP_FACTOR * self._slowest))

    def refuse_superseded(self) -> None:
        """Raise Superseded where the driver has given this attempt up: what it does from then on is for nobody."""
        if self.attempt.has_failed:
            raise Superseded(f"{self.attempt.folder} was given up while it took no step")

    def _arm(self, seconds: float) -> None:
        assert self._file is not None
        self._armed_at = time.monotonic()
        # Before the timer: the driver's count of these seconds must not end before the timer does.
        self._sign(seconds)
        # The timer is a thread, and needs memory for its stack. Where a step has taken the last there was, the step
        # itself is what fails, or goes on; the timer is set again a second later.
        with suppress(RuntimeError):
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)

    def _sign(self, seconds: float) -> None:
        sign = Sign(
            run=self.run,
            process=this_process(),
            steps=self._steps,
            limit_seconds=seconds,
            slowest_step_seconds=self._slowest,
        )
        replace_text(self.attempt.sign, json.dumps(asdict(sign)))


def stalled_run(attempt: Attempt) -> str | None:
    """The run whose watchdog, or driver, ended this attempt; None where none did."""
    try:
        first, _, rest = attempt.stacks.read_text(errors="replace").partition("\n")
    except OSError:
        return None
    return first.removeprefix("run ") if FIRED in rest else None
