"""The processes of a local Ray, known by its folder: none of them outlives the command that started it (I8).

Ray ends its workers itself, all but one that is just being started: that one finds nobody, and looks for seconds. Where
one of its two central processes was killed, Ray ends nothing.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

LEAVE_SECONDS = 3.0
"""For processes that Ray has asked to leave."""

CENTRAL = ("gcs_server", "raylet")
"""Names of the processes without which a local Ray is lost; Ray starts neither again."""


@contextlib.contextmanager
def ended_with(folder: Path) -> Iterator[None]:
    """The body ends Ray; what is still there of it after that is ended too."""
    before = processes_of(folder)
    try:
        yield
    finally:
        _end(before | processes_of(folder), LEAVE_SECONDS)


def end_processes_of(folder: Path) -> None:
    """End what there is of a Ray, without asking."""
    _end(processes_of(folder), 0.0)


def central_processes() -> dict[str, psutil.Process]:
    """By name, of the local Ray that this process has started."""
    children = psutil.Process().children()
    return {process.name(): process for process in children if _lives(process) and process.name() in CENTRAL}


def lost_process(central: Mapping[str, psutil.Process]) -> str | None:
    """The name of one of these that has ended; None while all live."""
    return next((name for name, process in central.items() if not _lives(process)), None)


def processes_of(folder: Path) -> set[psutil.Process]:
    """Those that name the folder on their command lines, or have renamed themselves and hold its files open, and those
    below them: workers that run have other names."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and _names(process, str(folder / "ray")):
                found |= {process, *process.children(recursive=True)}
    return found


def _names(process: psutil.Process, folder: str) -> bool:
    command = process.cmdline()
    if any(folder in word for word in command):
        return True
    # Ray's title takes the place of the command line, and the parent that named the folder may be gone.
    return (
        bool(command) and command[0].startswith("ray::") and any(folder in file.path for file in process.open_files())
    )


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _end(processes: set[psutil.Process], patience: float) -> None:
    """Wait so long for their end, then kill those that are left."""
    _, left = psutil.wait_procs(processes, timeout=patience)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=LEAVE_SECONDS)
