"""Whether a results folder can be read and written, which is checked before any work is done; and whether it is still
there while work is done in it."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mor_core.errors import Fix, Unreachable, UserError

ADDRESS = "remote.json"
"""In a local folder that stands for results in a bucket: the bucket's address."""

RESULTS = Fix(setting="results")
"""The setting to change where a folder will not do."""


class ResultsError(UserError):
    """The results folder cannot be used as asked; the message names it and what to do."""


class ResultsGone(Unreachable):
    """The results folder was moved, deleted or unmounted while a run worked in it."""


@dataclass(frozen=True, kw_only=True)
class HeldFolder:
    """A results folder that a process works in, known by its device and inode and not by its path alone."""

    root: Path
    """Where it was when the work began."""
    descriptor: int
    """Of the folder itself. While it is open, its inode is given to no other folder."""

    def check(self) -> None:
        """Raises ResultsGone where the path leads to no folder any more, or to another one."""
        try:
            is_there = os.path.samestat(self.root.stat(), os.fstat(self.descriptor))
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        if not is_there:
            raise _gone(self.root)


@contextlib.contextmanager
def holding(root: Path) -> Iterator[HeldFolder]:
    """Hold a results folder for the length of the body. Raises ResultsGone where there is none, or where the body fails
    and the folder is gone: then that is why."""
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise _gone(root) from None
    folder = HeldFolder(root=root, descriptor=descriptor)
    try:
        yield folder
    except ResultsGone:
        raise
    except Exception as error:
        try:
            folder.check()
        except ResultsGone as gone:
            raise gone from error
        raise
    finally:
        os.close(descriptor)


def _gone(root: Path) -> ResultsGone:
    return ResultsGone(
        f"the results folder is gone: {root} was moved, deleted or unmounted. What ran there is interrupted, not "
        "failed: the same command, told of the folder's new place, goes on from the last checkpoints"
    )


def check_is_folder(root: Path) -> None:
    """Raises ResultsError where a results folder, or a folder above it, is something else."""
    nearest = _nearest_existing(root)
    if not nearest.is_dir():
        raise ResultsError(f"{nearest} is not a folder: name a folder, one that exists or a new one", fix=RESULTS)


def check_exists(root: Path) -> None:
    """Raises ResultsError where there is no such folder: what would be looked at is then somewhere else."""
    check_is_folder(root)
    if not root.is_dir():
        raise ResultsError(f"there is no folder {root}: name the folder that a sweep was run in", fix=RESULTS)


def check_writable(root: Path) -> None:
    """Raises ResultsError where nothing can be written to a results folder, or it cannot be made. Makes nothing."""
    check_is_folder(root)
    nearest = _nearest_existing(root)
    with writing(root), tempfile.TemporaryDirectory(prefix=".mor-sweep-", dir=nearest):
        pass


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Where the body cannot write `path`, raises ResultsError."""
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be written ({error.strerror}): name a folder that you may write to "
            "(a copy of this one will do)",
            fix=RESULTS,
        ) from error


def _nearest_existing(path: Path) -> Path:
    """The path, or the first above it that is there."""
    return next(ancestor for ancestor in (path.absolute(), *path.absolute().parents) if os.path.lexists(ancestor))


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file, as far as this host can see."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
