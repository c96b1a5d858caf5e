"""The sign of life that an attempt writes. It names its process by number and start time, because the system gives a
number again: who ends a process that is stuck must not hit another one."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


def started(pid: int) -> float:
    """When a process of this host started, as ProcessIdentity has it. Raises psutil.NoSuchProcess."""
    stat = _text(Path(f"/proc/{pid}/stat"))
    # The second field is the command in brackets, and may hold anything.
    return float(stat.rpartition(")")[2].split()[19]) if stat else psutil.Process(pid).create_time()


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """A process of one machine."""

    host: str
    """The machine's name."""
    pid: int
    """Its number there."""
    started: float
    """When it started: clock ticks since the machine's start, which no change of the clock moves; seconds since 1970
    where there is no /proc."""

    @property
    def is_of_this_host(self) -> bool:
        """Whether this machine can see it."""
        return self.host == socket.gethostname()

    def running(self) -> psutil.Process | None:
        """The process; None where it has ended. Only on its own host."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if started(self.pid) == self.started and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def is_stopped(self) -> bool:
        """Whether it was told to stop (SIGSTOP) and not yet to go on."""
        process = self.running()
        with suppress(psutil.Error):
            return process is not None and process.status() == psutil.STATUS_STOPPED
        return False

    def wake(self, seconds: float) -> bool:
        """Let it go on if it was stopped, and wait so long for its end; whether it has ended."""
        if process := self.running():
            with suppress(psutil.Error):
                process.resume()
            psutil.wait_procs([process], timeout=seconds)
        return self.running() is None

    def end(self, seconds: float) -> bool:
        """Kill it and wait so long for its end; False where the kernel does not let it go."""
        if process := self.running():
            with suppress(psutil.Error):
                process.kill()
            psutil.wait_procs([process], timeout=seconds)
        return self.running() is None

    def description(self) -> str:
        """What the kernel says that it is doing: its state, and where each of its threads waits."""
        lines = [f"process {self.pid} on {self.host}"]
        for thread in sorted(Path(f"/proc/{self.pid}/task").glob("*")):
            waits = [_text(thread / name).strip() for name in ("comm", "wchan")]
            state = next((line for line in _text(thread / "status").splitlines() if line.startswith("State:")), "")
            lines.append(" ".join([f"thread {thread.name}", *waits, state, *_text(thread / "stack").splitlines()]))
        return "\n".join(lines)


def this_process() -> ProcessIdentity:
    """The process that asks."""
    return ProcessIdentity(host=socket.gethostname(), pid=os.getpid(), started=started(os.getpid()))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What an attempt's watchdog said when it was last set."""

    run: str
    """The run that makes the attempt."""
    process: ProcessIdentity
    """The process that takes the steps."""
    steps: int
    """Steps taken by it so far, and what took as long."""
    limit_seconds: float
    """After so long without a step the watchdog ends the process."""
    slowest_step_seconds: float
    """The slowest step so far; 0 before the second."""


def read_sign(path: Path) -> Sign | None:
    """The sign of life in a file; None where it holds none."""
    try:
        content = json.loads(path.read_text())
        return Sign(**content | {"process": ProcessIdentity(**content["process"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
