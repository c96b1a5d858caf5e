"""Which processes run a sweep. Each of these drivers holds a lock, which the kernel frees when the process ends: a file
that a killed driver left has no lock and counts for nobody.

sweeps/<name>/drivers/<host>-<pid>    locked by that process for as long as it runs the sweep
"""

import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.store.folder import is_held
from orchestrator.store.store import Store

FOLDER = "drivers"
POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A process that runs a sweep."""

    sweep: str
    """The sweep's name."""
    host: str
    """Where it runs."""
    pid: int
    """Its process id on that host."""
    lock: Path
    """The file whose lock it holds."""

    @property
    def is_local(self) -> bool:
        """Whether it runs on this host."""
        return self.host == socket.gethostname()


@contextlib.contextmanager
def driving(store: Store, name: str) -> Iterator[None]:
    """Be known as a driver of a sweep for the length of the body. Removes what killed drivers of this host left."""
    folder = store.make_folder(store.sweep_folder(name) / FOLDER)
    for path in folder.glob(f"{socket.gethostname()}-*"):
        if not is_held(path):
            path.unlink(missing_ok=True)
    path = folder / f"{socket.gethostname()}-{os.getpid()}"
    lock = _hold(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def running_drivers(store: Store, name: str | None = None) -> list[Driver]:
    """The drivers at work on a sweep, or on any of the results folder, as far as this host can see their locks."""
    drivers = []
    for path in sorted((store.root / "sweeps").glob(f"{name or '*'}/{FOLDER}/*")):
        host, _, pid = path.name.rpartition("-")
        if pid.isdecimal() and not host.startswith(".") and is_held(path):
            drivers.append(Driver(sweep=path.parent.parent.name, host=host, pid=int(pid), lock=path))
    return drivers


def ask_to_stop(driver: Driver) -> bool:
    """Send SIGTERM to a driver of this host. False where it has ended by itself.

    The process is pinned before its lock is looked at again, so a process that got its number later is never hit.
    """
    try:
        descriptor = os.pidfd_open(driver.pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        return False
    try:
        if not is_held(driver.lock):
            return False
        if descriptor is None:
            os.kill(driver.pid, signal.SIGTERM)
        else:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    except ProcessLookupError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def wait_until_gone(driver: Driver, seconds: float) -> bool:
    """Wait until the driver has let its lock go and its process has ended. False where it has not in time."""
    deadline = time.monotonic() + seconds
    while is_held(driver.lock) or _is_alive(driver.pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _is_alive(pid: int) -> bool:
    """Whether a process has the number; one that has ended and waits for its parent counts as gone."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _hold(path: Path) -> int:
    """Lock a file of this process. It gets its name when it is locked: nobody sees it free."""
    hidden = path.with_name(f".{path.name}")
    lock = os.open(hidden, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    hidden.rename(path)
    return lock
