"""Files and folders of prepared data. They are written under a temporary name and then renamed, so that they appear
whole or not at all. A file that is missing, damaged or of the wrong size is named, with the command that mends it."""

import errno
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mor_core.data.spec import CACHE_VARIABLE, REFRESH, DataError
from mor_core.files import fsync, rename_unless_there

PARTIAL = ".partial"
ABANDONED_AFTER = 24 * 3600.0
"""Seconds after which a temporary folder is taken to be left over from a killed process."""

FULL = {errno.ENOSPC, errno.EDQUOT}
CANNOT_WRITE = FULL | {
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the cache; `FileNotFoundError` where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and run `mor-sweep data prepare`.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object as expected; delete it and run `mor-sweep data prepare`.")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` so that a reader sees the old file or the new one, never a part."""
    with naming_what_cannot_be_written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)


@contextmanager
def published_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `target` by one rename when the block ends well.

    Where `target` exists already the first writer wins and the new folder is dropped, unless `replace`
    is set. When the block raises, the temporary folder is removed.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with naming_what_cannot_be_written(target):
            temporary.mkdir(parents=True)
            yield temporary
            for path in temporary.iterdir():
                fsync(path)
            if replace and target.exists():
                target.rename(temporary.with_name(f".{target.name}.{uuid.uuid4().hex}.old{PARTIAL}"))
            rename_unless_there(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_leftovers(target)


@contextmanager
def naming_what_cannot_be_written(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into a sentence that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise DataError(
            f"Cannot write prepared data to {path}: {error.strerror}; "
            f"{'free some space there, or ' if error.errno in FULL else ''}"
            f"set {CACHE_VARIABLE} to a folder that can be written."
        ) from error


def read_frozen(path: Path, schema: int, noun: str) -> dict[str, Any]:
    """The description of a frozen folder, without its schema. Raises `DataError`, which calls the folder by `noun`,
    where it is missing, damaged or of another layout."""
    try:
        stored = read_json(path)
    except FileNotFoundError as error:
        raise DataError(f"The frozen {noun} {path.parent} is gone", fix=REFRESH) from error
    if (layout := stored.pop("schema", None)) != schema:
        raise DataError(f"The frozen {noun} {path.parent} has the layout {layout}, expected {schema}", fix=REFRESH)
    return stored


def _remove_leftovers(target: Path) -> None:
    """Remove what was replaced, and what a killed process left behind long ago."""
    if not target.parent.is_dir():
        return
    for path in target.parent.glob(f".*{PARTIAL}"):
        replaced = path.name.endswith(f".old{PARTIAL}")
        if replaced or time.time() - path.stat().st_mtime > ABANDONED_AFTER:
            shutil.rmtree(path, ignore_errors=True)


MEND = "delete it and run `mor-sweep data prepare`, which makes it again from the frozen text."


def check_size(path: Path, expected_bytes: int) -> None:
    """`DataError` where a shard is missing or has not the size that the manifest states."""
    if not path.is_file():
        raise DataError(
            f"The token shard {path} is missing; run `mor-sweep data prepare`, which makes it again from the "
            "frozen text."
        )
    if (size := path.stat().st_size) != expected_bytes:
        raise DataError(f"The token shard {path} has {size} bytes, expected {expected_bytes}; {MEND}")
