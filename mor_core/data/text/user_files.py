"""Documents from a user's own files: text, JSON Lines and Parquet, or a folder of them."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mor_core.data.spec import DataError
from mor_core.data.text.documents import (
    SHORTEST_PIECE,
    Document,
    Selection,
    admit_all,
    pieces,
)
from mor_core.data.text.file_formats import (
    COMPRESSED_FILES,
    JSON_LINES_FILES,
    LONGEST_PIECE,
    PARQUET_FILES,
    TEXT_FILES,
    TEXT_KEY,
    kind_of,
    opened,
    opened_parquet,
)
from mor_core.data.text.quality import admission_for, non_ascii_bytes

PIECES_AT_LEAST = 20
"""Small corpora are cut finer, into about this many pieces, so that 5 % of the bytes is one of them."""


READABLE_FILES = TEXT_FILES | JSON_LINES_FILES | PARQUET_FILES


class SourceGone(DataError):
    """A path of the user's that leads to nothing."""


def source_files(corpus: str) -> list[Path]:
    """The files behind a path: itself, or all readable files below a folder in the order of their names.

    A pattern with * or ? stands for all that match it, and commas stand between several paths.
    """
    paths = _paths(corpus)
    if len(paths) == 1:
        return _files_below(paths[0])
    return sorted({file for path in paths for file in _files_below(path)})


def common_root(corpus: str) -> Path:
    """The path itself, or the lowest folder that holds all that are meant."""
    paths = _paths(corpus)
    return paths[0] if len(paths) == 1 else Path(os.path.commonpath([path.parent for path in paths]))


def _paths(corpus: str) -> list[Path]:
    whole = Path(corpus).expanduser().absolute()
    if whole.exists() or not any(mark in corpus for mark in ",*?"):
        return [whole]
    paths: list[Path] = []
    for named in filter(None, map(str.strip, corpus.split(","))):
        path = Path(named).expanduser().absolute()
        matching = [path] if path.exists() else sorted(_matching(path))
        if not matching:
            raise DataError(f"There is no file or folder {path} to take text from; correct it or leave it out.")
        paths += matching
    return paths


def _matching(pattern: Path) -> Iterator[Path]:
    """The paths that match a pattern, of which ** stands for folders at any depth."""
    return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))


def _files_below(path: Path) -> list[Path]:
    if not path.exists():
        raise SourceGone(
            f"There is no file or folder {path} to take text from; give an existing path, "
            "or `python-sources` for the default corpus."
        )
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(
            f"{path} is neither a file nor a folder (a device or a pipe), so it cannot be read twice; give a text, "
            "JSON Lines or Parquet file, or a folder of them."
        )
    files = [file for file in sorted(path.rglob("*")) if _is_readable(file, path)]
    if not files:
        endings = ", ".join(sorted(READABLE_FILES))
        raise DataError(
            f"The folder {path} holds no file ending in {endings} (text and JSON Lines also with "
            f"{', '.join(sorted(COMPRESSED_FILES))}); add text to it or give another path."
        )
    return files


def read_user_text(corpus: str, max_bytes: int | None = None, quality_for: int | None = None) -> Selection:
    """The documents behind a path, without empty and repeated ones, long ones cut into pieces.

    With `max_bytes`, documents are kept in the order of their hashes until the next would exceed it. With
    `quality_for`, the size of the vocabulary, what nobody wants to measure is left out.
    """
    root = common_root(corpus)
    whole = whole_documents(corpus)
    total = sum(document.num_bytes for document in whole)
    piece_bytes = min(max(total // PIECES_AT_LEAST, SHORTEST_PIECE), LONGEST_PIECE)
    admit = admit_all
    if quality_for is not None:
        non_ascii = sum(non_ascii_bytes(document.text) for document in whole)
        admit = admission_for(quality_for, non_ascii / max(total, 1))
    left_out: Counter[str] = Counter()
    distinct: dict[str, Document] = {}
    for whole_piece in (piece for document in whole for piece in pieces(document, piece_bytes)):
        text = admit(whole_piece.text, left_out)
        if text is None:
            continue
        piece = whole_piece if text == whole_piece.text else replace(whole_piece, text=text)
        if not piece.text.strip():
            left_out["empty"] += 1
        elif distinct.setdefault(piece.sha256, piece) is not piece:
            left_out["duplicate"] += 1
    if not distinct:
        raise _nothing_kept(root, left_out, quality_for is not None)
    kept = _within_limit([distinct[sha] for sha in sorted(distinct)], max_bytes)
    if len(kept) < len(distinct):
        left_out["beyond max_megabytes"] = len(distinct) - len(kept)
    return Selection(documents=tuple(kept), left_out=left_out)


def _nothing_kept(root: Path, left_out: Counter[str], by_quality: bool) -> DataError:
    if not by_quality:
        return DataError(f"{root} holds no text, only empty documents; give a path with text in it.")
    counts = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    return DataError(f"{root} holds no text that is kept ({counts}); give other text, or leave quality out.")


def whole_documents(corpus: str) -> list[Document]:
    """The documents behind a path as they stand, file after file. Raises DataError where one cannot be read."""
    root = common_root(corpus)
    return [document for file in source_files(corpus) for document in _documents_of(file, root)]


def _is_readable(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.is_file() and not hidden and kind_of(file) is not None


def _documents_of(file: Path, root: Path) -> Iterator[Document]:
    name = file.name if file == root else file.relative_to(root).as_posix()
    kind = kind_of(file)
    if kind == "parquet":
        texts = _parquet_texts(file)
    elif kind == "json":
        texts = _json_lines_texts(file)
    else:
        yield Document(name, name, _utf8_text(file))
        return
    for number, text in enumerate(texts):
        yield Document(f"{name}:{number}", name, text)


def _utf8_text(file: Path) -> str:
    with opened(str(file)) as stream:
        raw = stream.read()
    if not raw:
        raise DataError(f"{file} is empty, expected text; remove it or write some text into it.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}); convert it to UTF-8."
        ) from error


def _json_lines_texts(file: Path) -> Iterator[str]:
    # not splitlines(): a JSON string may hold U+2028 and the like unescaped
    for number, line in enumerate(_utf8_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"Line {number} of {file} is not JSON ({error}); expected one object a line; mend or remove it."
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get(TEXT_KEY), str):
            raise DataError(
                f"Line {number} of {file} has no string under the key '{TEXT_KEY}'; "
                f'expected lines like {{"{TEXT_KEY}": "..."}}; rename the key that holds the text.'
            )
        yield _encodable(row[TEXT_KEY], f"line {number} of {file}")


def _parquet_texts(file: Path) -> Iterator[str]:
    with opened_parquet(str(file)) as parquet:
        column = parquet.read(columns=[TEXT_KEY]).column(TEXT_KEY)
    yield from (text or "" for text in column.to_pylist())


def _encodable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The text in {where} holds half of a surrogate pair, which is not Unicode text; remove it."
        ) from error
    return text


def _within_limit(documents: list[Document], max_bytes: int | None) -> list[Document]:
    if max_bytes is None:
        return documents
    kept: list[Document] = []
    for document in documents:
        max_bytes -= document.num_bytes
        if max_bytes < 0:
            break
        kept.append(document)
    return kept
