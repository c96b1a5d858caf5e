"""A document, and the ways to hold some of them back for validation.

Under `quality`, validation is drawn from many packages or folders alike and no document is more than a hundredth of it:
else a few long files of one library decide a loss. The rest of a package that is held back is in neither part.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mor_core.data.spec import DataError

VALIDATION_SHARE = 0.05
"""Share of the bytes held back for validation, reached from below by whole packages or documents."""

LARGEST_VALIDATION_SHARE = 0.08
"""A package that would take validation above this share of the bytes stays in training, so that validation is
made of several packages and no large one is lost to training."""

FEWEST_VALIDATION_PACKAGES = 2

LARGEST_DOCUMENT_SHARE = 0.01
"""Of the bytes aimed at for validation, in a stratified split."""

LARGEST_PACKAGE_SHARE = 0.1
"""Of the bytes aimed at for validation, in a stratified split: at least ten packages are in it."""

SHORTEST_PIECE = 4_000
"""Bytes. Documents are cut no shorter, so that a document may be more than its share where a corpus has under 8 MB."""


@dataclass(frozen=True)
class Document:
    """One piece of text. Not keyword-only: tens of thousands are made."""

    name: str
    """Where it came from: a path relative to its root, with a number where one file holds several."""

    package: str
    """The package it belongs to; documents of one package never lie on both sides of the split."""

    text: str

    @cached_property
    def num_bytes(self) -> int:
        return len(self.text.encode())

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The documents kept from a source, and how many were left out for which reason."""

    documents: tuple[Document, ...]
    left_out: Counter[str]
    """Number of files or documents by reason; where lines are cut from documents that are kept, of lines."""


Admission = Callable[[str, Counter[str]], str | None]
"""The part of a text that is kept, or None; what is left out is counted by reason."""


def admit_all(text: str, left_out: Counter[str]) -> str | None:
    """The `Admission` of a corpus without rules for its text."""
    return text


def pieces(document: Document, piece_bytes: int) -> Iterator[Document]:
    """The document, or consecutive parts of at most `piece_bytes`, cut at line ends where there are any."""
    if document.num_bytes <= piece_bytes:
        yield document
        return
    for number, part in enumerate(_cut(document.text.encode(), piece_bytes)):
        yield Document(f"{document.name}#{number}", document.package, part.decode())


def _cut(utf8: bytes, piece_bytes: int) -> Iterator[bytes]:
    start = 0
    while len(utf8) - start > piece_bytes:
        end = utf8.rfind(b"\n", start, start + piece_bytes) + 1
        if end <= start:  # a line longer than a piece: cut before a character, never inside one
            end = start + piece_bytes
            while utf8[end] & 0xC0 == 0x80:
                end -= 1
        yield utf8[start:end]
        start = end
    yield utf8[start:]


def hash_order(text: str, purpose: str) -> bytes:
    """A sort key that depends on `text` alone and is unrelated to the key for another `purpose`."""
    return hashlib.sha256(f"{purpose}:{text}".encode()).digest()


def validation_packages(bytes_by_package: dict[str, int]) -> tuple[str, ...]:
    """Whole packages for validation, in hash order, until 5 % of the bytes and two packages are reached.

    A package that would take validation above 8 % of the bytes is passed over.
    """
    total = sum(bytes_by_package.values())
    chosen: list[str] = []
    held_back = 0
    for package in sorted(bytes_by_package, key=lambda name: hash_order(name, "validation")):
        if held_back >= VALIDATION_SHARE * total and len(chosen) >= FEWEST_VALIDATION_PACKAGES:
            break
        if held_back + bytes_by_package[package] <= LARGEST_VALIDATION_SHARE * total:
            chosen.append(package)
            held_back += bytes_by_package[package]
    _check_packages(len(chosen), len(bytes_by_package))
    return tuple(chosen)


def split_by_package(documents: Iterable[Document], held_back: Sequence[str]) -> dict[str, list[Document]]:
    """Training and validation documents, each side ordered by the hash of the text."""
    split: dict[str, list[Document]] = {"train": [], "valid": []}
    for document in sorted(documents, key=lambda document: document.sha256):
        split["valid" if document.package in held_back else "train"].append(document)
    return split


def split_by_hash(documents: Sequence[Document], source: str) -> dict[str, list[Document]]:
    """Training and validation documents: in the order of their hashes, the first 5 % of bytes are held back."""
    _check_documents(len(documents), source)
    ordered = sorted(documents, key=lambda document: document.sha256)
    total = sum(document.num_bytes for document in ordered)
    held_back, count = 0, 0
    while count == 0 or (held_back < VALIDATION_SHARE * total and count < len(ordered) - 1):
        held_back += ordered[count].num_bytes
        count += 1
    return {"train": ordered[count:], "valid": ordered[:count]}


def bytes_by_package(documents: Iterable[Document]) -> dict[str, int]:
    """Bytes of text of each package."""
    counts: Counter[str] = Counter()
    for document in documents:
        counts[document.package] += document.num_bytes
    return dict(counts)


@dataclass(frozen=True, kw_only=True)
class StratifiedSplit:
    """A split over many packages or folders."""

    documents: dict[str, list[Document]]
    """Training and validation documents, each side ordered by the hash of the text."""

    packages: tuple[str, ...]
    """Those held back; empty for folders, of which each is on both sides."""

    left_out: Counter[str]
    """Documents that are on neither side, by reason."""


def longest_validation_document(total_bytes: int) -> int:
    """Most bytes of a document in the validation part of a corpus, in a stratified split."""
    return max(int(LARGEST_DOCUMENT_SHARE * VALIDATION_SHARE * total_bytes), SHORTEST_PIECE)


def split_over_packages(documents: Sequence[Document]) -> StratifiedSplit:
    """Packages in hash order, each giving at most a tenth of validation, until 5 % of the bytes are reached.

    A package is passed over that would take what training loses above 8 % of the bytes. Of a document that is too
    long, one piece is taken. Raises `DataError` where fewer than two packages are small enough.
    """
    sizes = bytes_by_package(documents)
    total = sum(sizes.values())
    validation_bytes = VALIDATION_SHARE * total
    longest = longest_validation_document(total)
    by_package: dict[str, list[Document]] = {package: [] for package in sizes}
    for document in documents:
        by_package[document.package].append(document)
    chosen: dict[str, list[Document]] = {}
    held_back, removed = 0, 0
    for package in sorted(sizes, key=lambda name: hash_order(name, "validation")):
        if held_back >= validation_bytes and len(chosen) >= FEWEST_VALIDATION_PACKAGES:
            break
        if removed + sizes[package] <= LARGEST_VALIDATION_SHARE * total:
            chosen[package] = _sample(
                by_package[package], longest, max(LARGEST_PACKAGE_SHARE * validation_bytes, longest)
            )
            held_back += sum(document.num_bytes for document in chosen[package])
            removed += sizes[package]
    _check_packages(len(chosen), len(sizes))
    sides = {
        "train": [document for document in documents if document.package not in chosen],
        "valid": [document for sample in chosen.values() for document in sample],
    }
    num_left_out = sum(len(by_package[package]) - len(sample) for package, sample in chosen.items())
    return StratifiedSplit(
        documents={side: sorted(kept, key=lambda document: document.sha256) for side, kept in sides.items()},
        packages=tuple(chosen),
        left_out=Counter({"beyond a package's share of validation": num_left_out} if num_left_out else {}),
    )


def split_over_folders(documents: Sequence[Document], source: str) -> StratifiedSplit:
    """Of each folder 5 % of the bytes are held back, to within one document, by hash; long documents are cut first.

    Folders follow one another, and what one gives too little or too much the next makes up for.
    """
    longest = longest_validation_document(sum(document.num_bytes for document in documents))
    cut = [piece for document in documents for piece in pieces(document, longest)]
    distinct = {piece.sha256: piece for piece in sorted(cut, key=lambda piece: piece.name)}
    _check_documents(len(distinct), source)
    ordered = sorted(distinct.values(), key=lambda piece: (hash_order(folder_of(piece), "folder"), piece.sha256))
    split: dict[str, list[Document]] = {"train": [], "valid": []}
    passed, held_back = 0, 0
    for document in ordered:
        passed += document.num_bytes
        is_due = held_back + document.num_bytes / 2 <= VALIDATION_SHARE * passed
        held_back += document.num_bytes if is_due else 0
        split["valid" if is_due else "train"].append(document)
    if not split["valid"]:
        split = {"train": ordered[1:], "valid": ordered[:1]}
    repeated = len(cut) - len(distinct)
    return StratifiedSplit(
        documents={side: sorted(kept, key=lambda document: document.sha256) for side, kept in split.items()},
        packages=(),
        left_out=Counter({"duplicate": repeated} if repeated else {}),
    )


def folder_of(document: Document) -> str:
    """The folder of the file that a user's document is from, relative to their root."""
    return document.package.rpartition("/")[0]


def _sample(documents: Iterable[Document], longest: int, most: float) -> list[Document]:
    """Documents of a package in the order of their hashes, of at most `longest` bytes each and `most` together."""
    sample: list[Document] = []
    room = most
    for document in sorted(documents, key=lambda document: document.sha256):
        piece = _one_piece(document, longest)
        if piece.num_bytes <= room:
            sample.append(piece)
            room -= piece.num_bytes
    return sample


def _one_piece(document: Document, longest: int) -> Document:
    """The document, or of a longer one a full piece that is chosen by hash."""
    parts = list(pieces(document, longest))
    return min(parts[:-1] or parts, key=lambda part: part.sha256)


def _check_packages(small_enough: int, packages: int) -> None:
    if small_enough < FEWEST_VALIDATION_PACKAGES:
        raise DataError(
            f"Only {small_enough} of {packages} packages are small enough to be held back for "
            f"validation, expected at least {FEWEST_VALIDATION_PACKAGES} that make up less than "
            f"{LARGEST_VALIDATION_SHARE:.0%} of the text together; use a larger corpus or give a path to your own."
        )


def _check_documents(documents: int, source: str) -> None:
    if documents < 2:
        raise DataError(
            f"{source} gives {documents} document(s), expected at least one for training and one for "
            "validation; add more text."
        )
