"""The contents of a user's files by their sha256; only files with a new size or time stamp are read again."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from mor_core.data.publish import read_json, write_json
from mor_core.data.spec import DataSpec
from mor_core.data.user_text import common_root, source_files
from mor_core.file_hash import file_sha256

SETTLED_AFTER_NS = 2_000_000_000
"""A file changed within this time of being hashed may change again under the same time stamp: hash it anew."""


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
    settled_ns = time.time_ns() - SETTLED_AFTER_NS
    hashes = _source_hashes(spec.corpus, cache)
    known = {path: entry for path, entry in hashes.items() if entry["stamp"][1] < settled_ns}
    file = _source_hash_file(spec.corpus, cache)
    if known and not (file.is_file() and read_json(file) == known):
        write_json(file, known)


def _source_hashes(corpus: str, cache: Path) -> dict[str, dict[str, Any]]:
    known_file = _source_hash_file(corpus, cache)
    known = read_json(known_file) if known_file.is_file() else {}
    hashes: dict[str, dict[str, Any]] = {}
    for path in source_files(corpus):
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        before = known.get(str(path), {})
        sha256 = before["sha256"] if before.get("stamp") == stamp else file_sha256(path)
        hashes[str(path)] = {"stamp": stamp, "sha256": sha256}
    return hashes


def _source_hash_file(corpus: str, cache: Path) -> Path:
    path = Path(corpus).expanduser().absolute()
    return cache / "sources" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
