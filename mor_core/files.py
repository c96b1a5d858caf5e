"""Files and folders that other processes read and write too.

Reading a small file always ends, whatever lies at its path: with a value, or with one sentence that says why not. A
written file is seen whole, the old one or the new one; a folder is never seen half deleted. Also here: a file's sha256,
the bytes of a folder, and which names are safe to use as a file's or a folder's.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
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


def why_unreadable(error: Exception) -> str:
    """Why a text file could not be read, without its name and in words that are no library's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return f"not UTF-8: byte {error.object[error.start]:#04x} in line {line}"
    return str(error)


def remove_folder(path: Path) -> None:
    """Delete a folder so that nobody sees it half deleted: it loses its name first."""
    gone = path if path.name.endswith(".removed") else path.with_name(f"{path.name}.removed")
    with contextlib.suppress(FileNotFoundError):
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def rename_unless_there(folder: Path, target: Path) -> None:
    """Give a folder its place, unless another process was first: then it stays where it is."""
    try:
        folder.rename(target)
    except OSError:
        if not target.exists():
            raise


_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_plain_name(name: object) -> bool:
    """Whether it is the name of one entry of a folder: no way up, down or elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def is_folder_name(name: str) -> bool:
    """Whether a sweep file may call a sweep or an arm so: up to 100 letters, digits, dots, dashes and underscores."""
    return _FOLDER_NAME.fullmatch(name) is not None


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir() or file.is_symlink())


def write_json(path: Path, value: object) -> None:
    """Write or replace a JSON file, durably and whole."""
    write_bytes(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file, durably and whole."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        fsync(temporary)


def create_bytes(path: Path, content: bytes) -> bool:
    """Write a new file, durably and whole. False, and nothing is changed, where there is one: of several writers, on
    whichever hosts, one wins."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.writing")
    try:
        temporary.write_bytes(content)
        fsync(temporary)
        os.link(temporary, path)  # A rename would replace what another has written meanwhile.
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)
    return True


def replace_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write or replace a small file whole. `durable`: whole also after a power cut. Without, that may leave it empty,
    which is right for what is written again every second and read by nobody afterwards."""
    with replacing(path) as temporary:
        temporary.write_text(text)
        if durable:
            fsync(temporary)  # Before the rename, or the name may be on the disk before the content.


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file of this process that becomes `path` by one rename: a reader sees the old or the new, whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.writing")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Make a file's content, or a rename inside a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
