"""What a large corpus is made of: its files, and the parts that they are prepared in, frozen before any is read.

    <cache>/corpora/<key>/current.json               which source a specification means
    <cache>/corpora/<key>/<fingerprint>/source.json  files, parts, and how documents are chosen

A part is a few files, or a range of one: bytes of text and JSON Lines, row groups of Parquet, a whole compressed file.
Parts stand in the order of a hash, so that the first of them are a fair sample of a corpus that is used in part.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mor_core.data.cache_files import read_frozen, write_json
from mor_core.data.spec import REFRESH, DataError
from mor_core.data.text.documents import hash_order
from mor_core.data.text.file_formats import (
    TEXT_KEY,
    is_compressed,
    json_documents,
    kind_of,
    opened_parquet,
    parquet_documents,
    size_of,
    text_documents,
)
from mor_core.data.text.hub import STREAMED, stream_documents

SOURCE_FILE = "source.json"
SCHEMA = 1

PART_BYTES = 256 * 10**6
"""Bytes of text in one part: some 60 M tokens, two minutes of one core, and what a kill can cost each worker."""

VALIDATION_SHARE = 0.005
"""Share of a large corpus's documents that is held back: 150 M of 30 B tokens."""

LEAST_VALIDATION_BYTES = 2_000_000
"""The share is larger, up to `LARGEST_VALIDATION_SHARE`, where a corpus is too small for this much to be held back."""

LARGEST_VALIDATION_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file, or a range of it, that is read by one part."""

    file: str
    """Path or URL."""

    kind: str
    """`text`, `json`, `parquet`, or `datasets:FORMAT` for a file that `datasets` reads."""

    start: int
    """First byte or first row group."""

    stop: int | None
    """Where the next range begins; None for the end of the file."""

    bytes: int
    """Bytes of text, as far as it is known before reading: compressed files count as they lie on disk."""

    stamp: tuple[int, int] | None
    """Size and time of last change (ns) of a local file when the source was frozen."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A large corpus, frozen: what is read, in which parts, and how documents are chosen."""

    name: str
    """The corpus as it was named, or the name of the file or folder."""

    parts: tuple[tuple[Piece, ...], ...]
    """In their order."""

    max_bytes: int | None
    """Text enough: parts are taken in order until their documents reach this."""

    deduplicate: str
    """`none`, `exact` or `near`."""

    validation_share: float
    """Share of the documents that is held back, by their hashes."""

    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the text comes from: source, revision, licence, filter."""

    content: tuple[str, ...] = ()
    """sha256 (or a URL with its revision) and name of each file: what the fingerprint is made of."""

    @property
    def fingerprint(self) -> str:
        """sha256 over the content of the files and all that decides which documents come in which order."""
        ranges = [[[piece.kind, piece.start, piece.stop] for piece in part] for part in self.parts]
        order = [[self.content_of[piece.file] for piece in part] for part in self.parts]
        rules = [self.max_bytes, self.deduplicate, self.validation_share, SCHEMA]
        return hashlib.sha256(json.dumps([order, ranges, rules]).encode()).hexdigest()

    @property
    def content_of(self) -> dict[str, str]:
        files = dict.fromkeys(piece.file for piece in sorted_pieces(self.parts))
        return dict(zip(files, self.content, strict=True))


def sorted_pieces(parts: Iterable[Iterable[Piece]]) -> list[Piece]:
    """Every piece, by file and place."""
    return sorted((piece for part in parts for piece in part), key=lambda piece: (piece.file, piece.start))


def parts_needed(source: Source) -> int:
    """About how many parts are prepared: all, or those up to the limit on text as far as it is known before reading."""
    num_bytes = 0
    for number, part in enumerate(source.parts, start=1):
        num_bytes += sum(piece.bytes for piece in part)
        if source.max_bytes is not None and num_bytes >= source.max_bytes:
            return number
    return len(source.parts)


def documents_of(part: Iterable[Piece], skipped: Counter[str]) -> Iterator[str]:
    """The documents of a part in their order; what is passed over is counted by reason.

    Raises `DataError` where a file cannot be read or was changed since the source was frozen.
    """
    read = {"text": text_documents, "json": json_documents, "parquet": parquet_documents}
    for piece in part:
        if piece.kind.startswith(STREAMED):
            yield from stream_documents(piece.file, piece.kind, skipped)
        else:
            yield from read[piece.kind](piece.file, piece.start, piece.stop, skipped)
        if piece.stamp is not None and stamp_of(piece.file) != piece.stamp:
            raise DataError(
                f"{piece.file} changed since its corpus was frozen, expected a file that stays as it is", fix=REFRESH
            )


def make_source(
    name: str,
    files: dict[str, str],
    *,
    part_bytes: int,
    max_bytes: int | None,
    deduplicate: str,
    provenance: dict[str, Any],
    kind: str | None = None,
) -> Source:
    """Freeze files, given with the hash or revision of their content, into parts of about `part_bytes` of text.

    `kind` is the format of files whose names do not say it. Raises `DataError` where a Parquet file is damaged.
    """
    pieces = [piece for file in sorted(files) for piece in _pieces_of(file, part_bytes, kind)]
    total = sum(piece.bytes for piece in pieces)
    parts = tuple(sorted(_grouped(pieces, part_bytes), key=lambda part: _place(part, files)))
    expected = min(total, max_bytes or total)
    share = min(LARGEST_VALIDATION_SHARE, max(VALIDATION_SHARE, LEAST_VALIDATION_BYTES / max(expected, 1)))
    present = dict.fromkeys(piece.file for piece in sorted_pieces(parts))
    return Source(
        name=name,
        parts=parts,
        max_bytes=max_bytes,
        deduplicate=deduplicate,
        validation_share=share,
        provenance=provenance,
        content=tuple(files[file] for file in present),
    )


def write_source(source: Source, folder: Path) -> None:
    """Keep a frozen source, so that a resumed preparation reads the same parts."""
    write_json(folder / SOURCE_FILE, {"schema": SCHEMA} | asdict(source))


def load_source(folder: Path) -> Source:
    """A frozen source; `DataError` where it is missing, damaged or of another layout."""
    stored = read_frozen(folder / SOURCE_FILE, SCHEMA, "source")
    parts = tuple(tuple(_piece(piece) for piece in part) for part in stored.pop("parts"))
    return Source(parts=parts, content=tuple(stored.pop("content")), **stored)


def stamp_of(file: str) -> tuple[int, int] | None:
    """Size and time of last change of a local file; None for a URL, and for a file that is gone."""
    try:
        stat = Path(file).stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _piece(stored: dict[str, Any]) -> Piece:
    stamp = stored.pop("stamp")
    return Piece(stamp=None if stamp is None else (stamp[0], stamp[1]), **stored)


def _pieces_of(file: str, part_bytes: int, kind: str | None) -> Iterator[Piece]:
    kind = kind_of(file) or f"{STREAMED}{kind}"
    size, stamp = size_of(file), stamp_of(file)
    if kind == "parquet":
        yield from _row_groups(file, part_bytes, stamp)
    elif kind.startswith(STREAMED) or is_compressed(file) or size <= part_bytes:
        yield Piece(file=file, kind=kind, start=0, stop=None, bytes=size, stamp=stamp)
    else:
        for start in range(0, size, part_bytes):
            stop = start + part_bytes if start + part_bytes < size else None
            num_bytes = min(part_bytes, size - start)
            yield Piece(file=file, kind=kind, start=start, stop=stop, bytes=num_bytes, stamp=stamp)


def _row_groups(file: str, part_bytes: int, stamp: tuple[int, int] | None) -> Iterator[Piece]:
    """Consecutive row groups of a Parquet file with about `part_bytes` of text together."""
    with opened_parquet(file) as parquet:
        column = parquet.schema_arrow.names.index(TEXT_KEY)
        groups = (parquet.metadata.row_group(number) for number in range(parquet.num_row_groups))
        sizes = [group.column(_leaf(group, column)).total_uncompressed_size for group in groups]
    start = num_bytes = 0
    for number, size in enumerate(sizes, start=1):
        num_bytes += size
        if num_bytes >= part_bytes or number == len(sizes):
            yield Piece(file=file, kind="parquet", start=start, stop=number, bytes=num_bytes, stamp=stamp)
            start, num_bytes = number, 0


def _leaf(group: Any, column: int) -> int:
    """The stored column of the text: nested columns before it are stored as several."""
    paths = (group.column(number).path_in_schema for number in range(group.num_columns))
    return next((number for number, path in enumerate(paths) if path == TEXT_KEY), column)


def _grouped(pieces: Iterable[Piece], part_bytes: int) -> Iterator[tuple[Piece, ...]]:
    """Small pieces that follow one another, together; large ones alone."""
    group: list[Piece] = []
    for piece in pieces:
        if group and sum(member.bytes for member in group) + piece.bytes > part_bytes:
            yield tuple(group)
            group = []
        group.append(piece)
    if group:
        yield tuple(group)


def _place(part: tuple[Piece, ...], files: dict[str, str]) -> bytes:
    first = part[0]
    content = files.get(first.file, first.file)
    return hash_order(f"{content} {first.start}", "part")
