"""Whether a results folder can be read from or written to as asked: said before any work is done."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mor_core.errors import UserError

ADDRESS = "remote.json"
"""In a local folder that stands for one in a bucket: which."""


class ResultsError(UserError):
    """The results folder cannot be used as asked; the message names it and what to do."""


def check_is_folder(root: Path) -> None:
    """Raises ResultsError where a results folder, or a folder above it, is something else."""
    nearest = _nearest_existing(root)
    if not nearest.is_dir():
        raise ResultsError(f"--results: {nearest} is not a folder: name a folder, one that exists or a new one")


def check_exists(root: Path) -> None:
    """Raises ResultsError where there is no such folder: what would be looked at is then somewhere else."""
    check_is_folder(root)
    if not root.is_dir():
        raise ResultsError(f"--results: there is no folder {root}: name the folder that a sweep was run in")


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
            f"--results: {path} cannot be written ({error.strerror}): name a folder that you may write to "
            "(a copy of this one will do)"
        ) from error


def _nearest_existing(path: Path) -> Path:
    """The path, or the first above it that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if os.path.lexists(each))
