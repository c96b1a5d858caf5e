"""The contents of a user's files by their sha256; only files with a new size or time stamp are read again."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from mor_core.data.cache_files import read_json, write_json
from mor_core.data.spec import DataSpec
from mor_core.data.text.user_files import SourceGone, common_root, source_files
from mor_core.files import file_sha256

SETTLED_AFTER_NS = 2_000_000_000
"""A file changed within this time of being hashed may change again under the same time stamp: it is kept without its
stamp, and hashed anew."""


def source_fingerprint(corpus: str, cache: Path) -> str:
    """sha256 over the names and contents of a user's files."""
    lines = [f"{content}\n" for _, content in sorted(source_contents(corpus, cache).items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def source_contents(corpus: str, cache: Path) -> dict[str, str]:
    """By path, the hash of a file's content and its name below the folder of all."""
    root = common_root(corpus)
    hashes = _source_hashes(corpus, cache)
    return {path: f"{entry['sha256']} {Path(path).relative_to(root)}" for path, entry in hashes.items()}


def remember_source_hashes(spec: DataSpec, cache: Path) -> None:
    """Keep the hashes of a user's files, so that the next look-up reads only those that changed."""
    if not spec.is_files or not os.access(cache, os.W_OK):  # a shared cache may be read-only
        return
    if source_is_gone(spec):
        return
    settled_ns = time.time_ns() - SETTLED_AFTER_NS
    hashes = _source_hashes(spec.corpus, cache)
    settled_hashes = {
        path: entry if entry["stamp"][1] < settled_ns else entry | {"stamp": None} for path, entry in hashes.items()
    }
    file = _source_hash_file(spec.corpus, cache)
    if not (file.is_file() and read_json(file) == settled_hashes):
        write_json(file, settled_hashes)


def source_is_gone(spec: DataSpec) -> bool:
    """Whether a user's files were deleted or moved away, so that only their frozen text may be left."""
    try:
        return spec.is_files and not source_files(spec.corpus)
    except SourceGone:
        return True


def _source_hashes(corpus: str, cache: Path) -> dict[str, dict[str, Any]]:
    """By path. Of files that are gone altogether, as they were when they were last prepared: their text is frozen."""
    hash_file = _source_hash_file(corpus, cache)
    last_hashes = read_json(hash_file) if hash_file.is_file() else {}
    hashes: dict[str, dict[str, Any]] = {}
    try:
        files = source_files(corpus)
    except SourceGone:
        if last_hashes:
            return last_hashes
        raise
    for path in files:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        before = last_hashes.get(str(path), {})
        sha256 = before["sha256"] if before.get("stamp") == stamp else file_sha256(path)
        hashes[str(path)] = {"stamp": stamp, "sha256": sha256}
    return hashes


def _source_hash_file(corpus: str, cache: Path) -> Path:
    path = Path(corpus).expanduser().absolute()
    return cache / "sources" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
