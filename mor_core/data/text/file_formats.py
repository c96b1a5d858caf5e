"""Files of documents, read piece by piece in flat memory: what can be taken from part of a file, and what cannot.

A file is read whole or by a range. Ranges of bytes are moved to the next boundary (the end of a line, or of a
character where lines are long) by a rule that looks at the bytes around the cut alone, so that neighbouring ranges
neither share a document nor lose one. What cannot be read as a document is counted by reason, never dropped silently.
"""

import bz2
import gzip
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mor_core.data.remote import opened_url, size_of_url
from mor_core.data.spec import DataError
from mor_core.errors import first_line

TEXT_FILES = {".txt", ".text", ".md", ".rst", ".tex", ".py"}
JSON_LINES_FILES = {".jsonl", ".ndjson"}
PARQUET_FILES = {".parquet"}
COMPRESSED_FILES = {".gz", ".bz2", ".xz", ".zst"}

TEXT_KEY = "text"
"""The key of a JSON line and the column of a Parquet file that holds the document."""

LONGEST_LINE = 64 * 2**20
"""Bytes of one JSON line: a longer one is passed over, so that memory stays flat."""

LONGEST_PIECE = 100_000
"""Bytes. A longer text file is cut at line ends into documents of at most this size."""

READ_AT_ONCE = 2**20
"""Bytes read at a time where something is searched for."""

LARGEST_CHARACTER = 4
"""Bytes of a character in UTF-8."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

ROWS_AT_ONCE = 256
"""Rows of a Parquet file decoded at a time."""


def kind_of(file: Path | str) -> str | None:
    """`text`, `json` or `parquet`, by the ending of the name before that of a compression; None for another file."""
    suffixes = [suffix.lower() for suffix in Path(file).suffixes]
    last = suffixes[-1] if suffixes else ""
    if last in COMPRESSED_FILES:
        last = suffixes[-2] if len(suffixes) > 1 and suffixes[-2] not in PARQUET_FILES else ""
    kinds = {"text": TEXT_FILES, "json": JSON_LINES_FILES, "parquet": PARQUET_FILES}
    return next((kind for kind, endings in kinds.items() if last in endings), None)


def size_of(file: str) -> int:
    """Bytes of a local file or of a URL, as stored."""
    if "://" not in file:
        return Path(file).stat().st_size
    return size_of_url(file)


def is_compressed(file: Path | str) -> bool:
    """Whether a file can only be read from its beginning."""
    return Path(file).suffix.lower() in COMPRESSED_FILES


@contextmanager
def opened(file: str) -> Iterator[IO[bytes]]:
    """The bytes of a local file or of a URL that fsspec knows, uncompressed.

    Raises `DataError` where the file cannot be read, or its compressed data are damaged or cut off.
    """
    try:
        with _raw(file) as raw, _uncompressed(file, raw) as stream:
            yield stream
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{file} cannot be read to its end ({first_line(error)}); write or copy it again.") from error


def json_documents(file: str, start: int, stop: int | None, skipped: Counter[str]) -> Iterator[str]:
    """The texts of the JSON lines whose first byte is in start..stop-1."""
    for line in _lines(file, start, stop, skipped):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            skipped["not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"] += 1
            continue
        text = row.get(TEXT_KEY) if isinstance(row, dict) else None
        if not isinstance(text, str):
            skipped[f"no string under the key '{TEXT_KEY}'"] += 1
        elif not _encodable(text):
            skipped["half of a surrogate pair"] += 1
        else:
            yield text


def text_documents(file: str, start: int, stop: int | None, skipped: Counter[str]) -> Iterator[str]:
    """A range of a text file as documents of at most `LONGEST_PIECE` bytes, cut at line ends where there are any."""
    with opened(file) as stream:
        position = _text_boundary(stream, start)
        end = None if stop is None else _text_boundary(stream, stop)
        if position or end is not None:  # else it is at its beginning, and may not be seekable
            stream.seek(position)
        rest = b""
        while True:
            block = stream.read(READ_AT_ONCE if end is None else min(READ_AT_ONCE, end - position))
            rest += block if position else block.removeprefix(BYTE_ORDER_MARK)
            position += len(block)
            while len(rest) > LONGEST_PIECE or (rest and not block):
                piece = rest if len(rest) <= LONGEST_PIECE else rest[: _cut_before(rest, LONGEST_PIECE)]
                rest = rest[len(piece) :]
                try:
                    yield piece.decode()
                except UnicodeDecodeError:
                    skipped["not UTF-8"] += 1
            if not block:
                return


def parquet_documents(file: str, start: int, stop: int | None, skipped: Counter[str]) -> Iterator[str]:
    """The texts of the row groups start..stop-1. Raises `DataError` where the file is damaged."""
    with opened_parquet(file) as parquet:
        groups = range(start, parquet.num_row_groups if stop is None else stop)
        for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=list(groups), columns=[TEXT_KEY]):
            yield from _strings(batch.column(0), skipped)


@contextmanager
def opened_parquet(file: str) -> Iterator[Any]:
    """A pyarrow ParquetFile with a column of strings named `text`; `DataError` names a file that is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with _raw(file) as raw, pq.ParquetFile(raw) as parquet:
            schema = parquet.schema_arrow
            if TEXT_KEY not in schema.names:
                columns = ", ".join(schema.names)
                raise DataError(f"{file} has no column '{TEXT_KEY}', only {columns}; rename the one with the text.")
            column_type = schema.field(TEXT_KEY).type
            if not (pa.types.is_string(column_type) or pa.types.is_large_string(column_type)):
                raise DataError(
                    f"The column '{TEXT_KEY}' of {file} holds {column_type}, expected strings; convert the column."
                )
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a whole Parquet file ({first_line(error)}); write or copy it again.") from error


def _strings(column: Any, skipped: Counter[str]) -> Iterator[str]:
    import pyarrow as pa

    try:
        texts = column.to_pylist()
    except UnicodeDecodeError:  # Parquet promises UTF-8 and does not check it
        wide = pa.types.is_large_string(column.type)
        texts = [_decoded(raw) for raw in column.view(pa.large_binary() if wide else pa.binary()).to_pylist()]
    for text in texts:
        if text is None:
            skipped["not UTF-8 or null"] += 1
        else:
            yield text


def _decoded(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def _lines(file: str, start: int, stop: int | None, skipped: Counter[str]) -> Iterator[bytes]:
    """The lines that begin in start..stop-1, without blank ones and those that are too long."""
    with opened(file) as stream:
        position = start
        if start > 0:
            stream.seek(start - 1)
            position = start - 1 + _rest_of_line(stream)  # 1 byte where the range before ends with a line
        while stop is None or position < stop:
            line = stream.readline(LONGEST_LINE)
            if not line:
                return
            position += len(line)
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                position += _rest_of_line(stream)
                skipped[f"a line over {LONGEST_LINE >> 20} MiB"] += 1
            elif line.strip():
                yield line.removeprefix(BYTE_ORDER_MARK) if position == len(line) else line


def _rest_of_line(stream: IO[bytes]) -> int:
    """Bytes up to the end of the line that `stream` is in, which are read."""
    passed = 0
    while block := stream.readline(READ_AT_ONCE):
        passed += len(block)
        if block.endswith(b"\n"):
            break
    return passed


def _text_boundary(stream: IO[bytes], position: int) -> int:
    """Where the range that is to begin at `wanted` begins: after the next line end, or else before a character."""
    if position == 0:
        return 0
    stream.seek(position - 1)
    near = stream.read(LONGEST_PIECE)
    if (line_end := near.find(b"\n")) >= 0:
        return position + line_end
    return position + next((i for i in range(LARGEST_CHARACTER) if not _continues(near, i + 1)), 0)


def _cut_before(utf8: bytes, limit: int) -> int:
    """Where to cut at most `limit` bytes off: after the last line end, or else before a character."""
    if line_end := utf8.rfind(b"\n", 0, limit) + 1:
        return line_end
    return limit - next((i for i in range(LARGEST_CHARACTER) if not _continues(utf8, limit - i)), 0)


def _continues(utf8: bytes, index: int) -> bool:
    """Whether the byte at `index` is inside a character."""
    return index < len(utf8) and utf8[index] & 0xC0 == 0x80


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raw(file: str) -> Any:
    if "://" not in file:
        return Path(file).open("rb")
    return opened_url(file)


def _uncompressed(file: str, raw: IO[bytes]) -> Any:
    """`raw` or a stream over it that raises where compressed data end early."""
    suffix = Path(file).suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".bz2":
        return bz2.BZ2File(raw)
    if suffix == ".xz":
        return lzma.LZMAFile(raw)
    if suffix == ".zst":
        return _zstandard(raw)
    return raw


def _zstandard(raw: IO[bytes]) -> Any:
    import io

    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"), READ_AT_ONCE)
