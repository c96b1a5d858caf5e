"""The folder of a local Ray: this user's alone, gone with its owner, or with the next one after a kill -9.

/tmp/mor-sweep-XXXXXXXX/owner    locked by the process that made the folder, for as long as it lives; says for which
                                 results folder
/tmp/mor-sweep-XXXXXXXX/ray/     Ray's own files
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.ray_processes import end_processes_of
from orchestrator.store.folder import is_held

PREFIX = "mor-sweep-"
OWNER = "owner"

LONGEST_PARENT = 30
"""Characters: Ray's sockets live under the folder, and a socket's path may have 107 bytes at most."""


@contextlib.contextmanager
def ray_folder(results: Path | None = None) -> Iterator[Path]:
    """A fresh folder for the length of the body; removes those whose owner was killed, and ends what runs there."""
    parent = _parent()
    _remove_abandoned(parent)
    folder, lock = _make(parent, results)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _parent() -> Path:
    """The usual folder for temporary files, or /tmp where Ray cannot use that: it takes short ASCII paths only."""
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) < LONGEST_PARENT and usual.isascii() else "/tmp")


def abandoned_folders(results: Path) -> list[Path]:
    """This user's folders of runs for a results folder whose owner is gone."""
    return [
        folder
        for folder in sorted(_parent().glob(f"{PREFIX}*"))
        if _is_ours(folder) and not is_held(folder / OWNER) and _results_of(folder) == str(results)
    ]


def _results_of(folder: Path) -> str:
    try:
        return (folder / OWNER).read_text()
    except (OSError, ValueError):
        return ""


def _is_ours(folder: Path) -> bool:
    try:
        return not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    except OSError:
        return False


def _make(parent: Path, results: Path | None) -> tuple[Path, int]:
    """The folder and the descriptor that holds its lock. It gets its name when it is locked: nobody sees it free."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    lock = os.open(hidden / OWNER, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, os.fsencode(str(results or "")))
    folder = hidden.with_name(hidden.name.removeprefix("."))
    hidden.rename(folder)
    return folder, lock


def _remove_abandoned(parent: Path) -> None:
    """Remove this user's folders whose owner is gone: its lock, which the kernel lets go with the process, is free."""
    for folder in filter(_is_ours, parent.glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            lock = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                end_processes_of(folder)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
