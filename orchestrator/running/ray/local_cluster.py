"""The folder and the processes of a local Ray. None of them outlives the command that started it (I8).

/tmp/mor-sweep-XXXXXXXX/owner    locked by the process that made the folder, for as long as it lives
/tmp/mor-sweep-XXXXXXXX/ray/     Ray's own files

Only this user can read the folder. The command removes it at its end; after a kill -9 its reaper does, a small process
that waits for the lock, or the next command. Its processes are known by the folder: their command lines name it, or
they hold its files open.

Ray ends its processes itself, but one that is just being started may look for the others for a minute. Where one of its
two central processes was killed, Ray ends nothing.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

PREFIX = "mor-sweep-"
OWNER = "owner"

REAPER = "orchestrator.running.ray.local_cluster"
"""The module that a reaper runs: this one, with the folder as its argument."""

LONGEST_PARENT = 30
"""Characters: Ray's sockets live under the folder, and a socket's path may have 107 bytes at most."""


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """A fresh folder for the length of the body; removes those whose owner was killed, and ends what runs there."""
    parent = _parent()
    for abandoned in filter(_is_ours, parent.glob(f"{PREFIX}*")):
        _reap(abandoned, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder, lock = _make(parent)
    # A session of its own: what a terminal or a scheduler sends to the command's processes does not reach it.
    reaper = subprocess.Popen(
        [sys.executable, "-m", REAPER, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        reaper.wait()


def _parent() -> Path:
    """The usual folder for temporary files, or /tmp where Ray cannot use that: it takes short ASCII paths only."""
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) < LONGEST_PARENT and usual.isascii() else "/tmp")


def _is_ours(folder: Path) -> bool:
    try:
        return not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    except OSError:
        return False


def _make(parent: Path) -> tuple[Path, int]:
    """The folder and the descriptor that holds its lock. It gets its name when it is locked: nobody sees it free."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    lock = os.open(hidden / OWNER, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = hidden.with_name(hidden.name.removeprefix("."))
    hidden.rename(folder)
    return folder, lock


def _reap(folder: Path, operation: int) -> None:
    """End the processes of a folder whose owner is gone and remove it, once this process has its lock, which the kernel
    lets go with the owner. `operation` is that of flock: whether to wait for the lock."""
    with contextlib.suppress(OSError):
        lock = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, operation)
            end_processes_of(folder)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


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
    processes: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and _names(process, str(folder / "ray")):
                processes |= {process, *process.children(recursive=True)}
    return processes


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


if __name__ == "__main__":
    _reap(Path(sys.argv[1]), fcntl.LOCK_EX)
