"""Reading small files that somebody else may have written: whatever lies at a path, reading ends, with a value or with
one sentence. And deleting a folder, which nobody sees half deleted."""

import contextlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

LARGEST_JSON_BYTES = 2**30
"""More than any plan needs; a larger file is not read into memory."""


class UnreadableFileError(ValueError):
    """A file does not hold what it should; the message names the file and what is wrong with it."""


def read_json_object(path: Path, largest_bytes: int = LARGEST_JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file. Raises FileNotFoundError where there is no file, UnreadableFileError where there is
    something else than a readable regular file with one JSON object."""
    return parse_json_object(read_regular_file(path, largest_bytes), path)


def parse_json_object(content: bytes, path: Path) -> dict[str, Any]:
    """The object that a file's content is. Raises UnreadableFileError."""
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise UnreadableFileError(f"{path} cannot be read (its JSON is nested too deeply)") from error
    except ValueError as error:
        raise UnreadableFileError(f"{path} cannot be read ({error})") from error
    if not isinstance(document, dict):
        raise UnreadableFileError(f"{path} cannot be read (it holds no JSON object)")
    return document


def read_regular_file(path: Path | str, largest_bytes: int) -> bytes:
    """A file's bytes. Raises FileNotFoundError where there is none, UnreadableFileError where it cannot be read."""
    try:
        # A FIFO without a writer would block open(), and with one, read(): not waiting, its kind is looked at first.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return _regular_bytes(descriptor, path, largest_bytes)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read ({error.strerror})") from error


def _regular_bytes(descriptor: int, path: Path | str, largest_bytes: int) -> bytes:
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        raise UnreadableFileError(f"{path} cannot be read (it is not a regular file)")
    if state.st_size > largest_bytes:
        raise UnreadableFileError(
            f"{path} cannot be read ({state.st_size} bytes, at most {largest_bytes} are expected)"
        )
    content = os.read(descriptor, state.st_size + 1)
    while len(content) < state.st_size and (more := os.read(descriptor, state.st_size - len(content))):
        content += more  # One read returns less on some network file systems, and never more than 2 GiB.
    return content


def remove_folder(path: Path) -> None:
    """Delete a folder so that nobody sees it half deleted: it loses its name first."""
    gone = path if path.name.endswith(".removed") else path.with_name(f"{path.name}.removed")
    with contextlib.suppress(FileNotFoundError):
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
