"""One part of a large corpus to token shards: a pure function of the part and the tokenizer, done once.

    <data folder>/part-00012.json        what the part holds, written last: the part is done iff it exists
                  train-00012.bin        its training tokens, each document with its end of text
                  valid-00012.bin        its validation tokens
                  index-00012.npy        a row a document: hash, tokens, bytes, side
                  signatures-00012.npy   MinHash signatures, where near duplicates are looked for

Any number of processes may prepare parts at the same time, and be killed at any moment: files appear whole under their
names, and a second process that prepares the same part writes the same bytes.
"""

import hashlib
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import tee
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mor_core.data.cache_files import PARTIAL, naming_what_cannot_be_written, read_json, write_json
from mor_core.data.large.sources import Piece, documents_of
from mor_core.data.snapshot import SPLITS, TOKENIZER_FILE
from mor_core.data.spec import DataError
from mor_core.data.text.near_duplicates import signature
from mor_core.data.tokens.tokenizer import load_tokenizer, token_bytes
from mor_core.data.tokens.write_shards import checked_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HASH_BYTES = 16
"""Of a document's sha256: two of 10^9 documents share them with a probability of 10^-21."""

INDEX = np.dtype([("hash", "<u8", 2), ("tokens", "<u4"), ("bytes", "<u4"), ("valid", "?")])

COPIED_AT_ONCE = 2**22
"""Tokens copied at a time where documents are left out of a shard."""


@dataclass(frozen=True, kw_only=True)
class PartJob:
    """All that is needed to prepare one part; small, and sent to another process as it is."""

    number: int
    """Of the part in its source's order."""
    pieces: tuple[Piece, ...]
    folder: Path
    """The data folder; it holds the tokenizer."""
    tokenizer: str
    """The tokenizer as the user named it, for messages."""
    tokenizer_fingerprint: str
    """sha256 of tokenizer.json: a part that was encoded with another one is not done."""
    end_of_text_id: int
    vocab_size: int
    dtype: str
    """Of a stored token."""
    validation_share: float
    signatures: bool
    """Whether near duplicates will be looked for."""


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """What became of a part: a record, or the error that says why not (raised, it would lose its class on the way)."""

    number: int
    record: dict[str, Any] | None
    problem: DataError | None = None


def prepare_part(job: PartJob) -> PartResult:
    """Read, encode and publish one part, unless that has been done."""
    try:
        return PartResult(number=job.number, record=done(job) or _prepare(job))
    except DataError as error:
        return PartResult(number=job.number, record=None, problem=error)


def done(job: PartJob) -> dict[str, Any] | None:
    """The record of a part that is done, or None. Its shards may have been published again without repeated documents,
    but it is not done where a file is missing or has another size."""
    record = _record(job.folder, f"part-{job.number:05d}.json")
    if record is None or record["tokenizer"] != job.tokenizer_fingerprint:
        return None
    without_repeats = _record(job.folder, f"kept-{job.number:05d}.json")
    is_complete = _are_there(job.folder, record["others"]) and any(
        _are_there(job.folder, listed["shards"].values()) for listed in (record, without_repeats) if listed
    )
    return record if is_complete else None


def _record(folder: Path, name: str) -> dict[str, Any] | None:
    return read_json(folder / name) if (folder / name).is_file() else None


def _are_there(folder: Path, files: Iterable[dict[str, Any]]) -> bool:
    paths = [(folder / entry["file"], entry["size"]) for entry in files]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def read_index(folder: Path, number: int) -> NDArray[Any]:
    """The rows of a part's index, in the order of its documents."""
    return np.load(folder / f"index-{number:05d}.npy")


def drop_documents(job: PartJob, dropped: NDArray[np.int64]) -> dict[str, Any]:
    """Publish a part again without the documents in these rows of its index; returns the record of what is kept."""
    choice = hashlib.sha256(dropped.astype("<i8").tobytes()).hexdigest()
    before = _record(job.folder, f"kept-{job.number:05d}.json")
    chosen = (choice, job.tokenizer_fingerprint)
    if (
        before
        and (before["dropped"], before["tokenizer"]) == chosen
        and _are_there(job.folder, before["shards"].values())
    ):
        return before
    record = _record(job.folder, f"part-{job.number:05d}.json")
    if record is None or not _are_there(job.folder, record["shards"].values()):
        record = _prepare(job)  # its shards were removed once others had taken their place
    index = read_index(job.folder, job.number)
    kept = np.ones(len(index), dtype=bool)
    kept[dropped] = False
    shards = {}
    for side in SPLITS:
        rows = index["valid"] == (side == "valid")
        with _shard(job.folder, f"{side}-{job.number:05d}-kept.bin") as shard:
            _copy(job.folder / record["shards"][side]["file"], job.dtype, index["tokens"][rows], kept[rows], shard)
        shards[side] = shard.described()
    renewed = record | {"shards": shards, "dropped": choice} | counts(index[kept])
    write_json(job.folder / f"kept-{job.number:05d}.json", renewed)
    return renewed


def counts(index: NDArray[Any]) -> dict[str, dict[str, int]]:
    """Documents and bytes of text by side."""
    sides = {side: index[index["valid"] == (side == "valid")] for side in SPLITS}
    return {
        "documents": {side: len(rows) for side, rows in sides.items()},
        "bytes": {side: int(rows["bytes"].sum(dtype=np.int64)) for side, rows in sides.items()},
    }


def _prepare(job: PartJob) -> dict[str, Any]:
    tokenizer, bytes_of = _loaded(job.folder / TOKENIZER_FILE, job.tokenizer_fingerprint, job.vocab_size)
    skipped: Counter[str] = Counter()
    texts, encoded_texts = tee(_worth_keeping(job, skipped))
    ids = checked_ids(tokenizer, bytes_of, job.end_of_text_id, job.tokenizer, encoded_texts)
    end = np.array([job.end_of_text_id], dtype=job.dtype)
    rows, signatures = _Rows(INDEX), _Rows(np.dtype((np.uint32, signature("").shape)))
    with (
        _shard(job.folder, f"train-{job.number:05d}.bin") as train,
        _shard(job.folder, f"valid-{job.number:05d}.bin") as valid,
    ):
        for text, tokens in zip(texts, ids, strict=True):
            raw = text.encode()
            digest = hashlib.sha256(raw).digest()
            held_back = is_held_back(digest, job.validation_share)
            (valid if held_back else train).add(tokens.astype(job.dtype), end)
            rows.add((np.frombuffer(digest[:HASH_BYTES], dtype="<u8"), len(tokens) + 1, len(raw), held_back))
            if job.signatures:
                signatures.add(signature(text))
    index = rows.array()
    others = [_saved(job.folder / f"index-{job.number:05d}.npy", index)]
    if job.signatures:
        others.append(_saved(job.folder / f"signatures-{job.number:05d}.npy", signatures.array()))
    record = {
        "part": job.number,
        "tokenizer": job.tokenizer_fingerprint,
        "shards": {"train": train.described(), "valid": valid.described()},
        "others": others,
        "skipped": dict(sorted(skipped.items())),
    } | counts(index)
    with naming_what_cannot_be_written(job.folder):
        write_json(job.folder / f"part-{job.number:05d}.json", record)
    return record


@lru_cache(1)
def _loaded(file: Path, fingerprint: str, vocab_size: int) -> "tuple[Tokenizer, NDArray[np.int64]]":
    """A tokenizer and the bytes of its tokens, kept from part to part: `tokenizers` does not give back all the memory
    of one that has encoded, some 4 MB each time. The fingerprint tells it from one that stood in the file before."""
    return load_tokenizer(file), token_bytes(file, vocab_size)


def is_held_back(digest: bytes, share: float) -> bool:
    """Whether the document with this sha256 is for validation: equal documents are on the same side in every part."""
    return int.from_bytes(digest[-8:], "big") < share * 2**64


def _worth_keeping(job: PartJob, skipped: Counter[str]) -> Iterator[str]:
    for text in documents_of(job.pieces, skipped):
        if text.strip():
            yield text
        else:
            skipped["empty"] += 1


class _Rows:
    """Rows of a growing array, kept in blocks: a Python object for each of a million rows would take far more."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._full: list[NDArray[Any]] = []
        self._block = np.zeros(4096, dtype=dtype)
        self._used = 0

    def add(self, row: Any) -> None:
        if self._used == len(self._block):
            self._full.append(self._block)
            self._block, self._used = np.zeros_like(self._block), 0
        self._block[self._used] = row
        self._used += 1

    def array(self) -> NDArray[Any]:
        return np.concatenate([*self._full, self._block[: self._used]])


class _Shard:
    """A file of tokens that is being written."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name, self._file = name, file
        self._digest = hashlib.sha256()
        self.tokens = self.size = 0

    def add(self, *parts: NDArray[Any]) -> None:
        for ids in parts:
            raw = ids.tobytes()
            self._file.write(raw)
            self._digest.update(raw)
            self.tokens += len(ids)
            self.size += len(raw)

    def described(self) -> dict[str, Any]:
        return {"file": self._name, "tokens": self.tokens, "size": self.size, "sha256": self._digest.hexdigest()}


@contextmanager
def _shard(folder: Path, name: str) -> Iterator[_Shard]:
    with _replacing(folder / name) as file:
        yield _Shard(name, file)


def _saved(path: Path, array: NDArray[Any]) -> dict[str, Any]:
    with _replacing(path) as file:
        np.save(file, array)
    return {"file": path.name, "size": path.stat().st_size}


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with naming_what_cannot_be_written(path):
            with temporary.open("wb", buffering=2**20) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(path: Path, dtype: str, lengths: NDArray[Any], kept: NDArray[np.bool_], shard: _Shard) -> None:
    """Copy the documents that are kept, those that follow one another together."""
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    with path.open("rb") as file:
        itemsize = np.dtype(dtype).itemsize
        changes = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]])))
        for first, last in changes.reshape(-1, 2):
            file.seek(int(starts[first]) * itemsize)
            remaining = int(ends[last - 1] - starts[first])
            while remaining:
                ids = np.fromfile(file, dtype=dtype, count=min(remaining, COPIED_AT_ONCE))
                shard.add(ids)
                remaining -= len(ids)
