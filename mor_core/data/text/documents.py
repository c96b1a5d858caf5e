"""A document, and the two ways to hold some of them back for validation."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from mor_core.data.spec import DataError

VALIDATION_SHARE = 0.05
"""Share of the bytes held back for validation, reached from below by whole packages or documents."""

LARGEST_VALIDATION_SHARE = 0.08
"""A package that would take validation above this share of the bytes stays in training, so that validation is
made of several packages and no large one is lost to training."""

FEWEST_VALIDATION_PACKAGES = 2


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
    """Number of files or documents by reason."""


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
    if len(chosen) < FEWEST_VALIDATION_PACKAGES:
        raise DataError(
            f"Only {len(chosen)} of {len(bytes_by_package)} packages are small enough to be held back for "
            f"validation, expected at least {FEWEST_VALIDATION_PACKAGES} that make up less than "
            f"{LARGEST_VALIDATION_SHARE:.0%} of the text together; use a larger corpus or give a path to your own."
        )
    return tuple(chosen)


def split_by_package(documents: Iterable[Document], held_back: Sequence[str]) -> dict[str, list[Document]]:
    """Training and validation documents, each side ordered by the hash of the text."""
    split: dict[str, list[Document]] = {"train": [], "valid": []}
    for document in sorted(documents, key=lambda document: document.sha256):
        split["valid" if document.package in held_back else "train"].append(document)
    return split


def split_by_hash(documents: Sequence[Document], source: str) -> dict[str, list[Document]]:
    """Training and validation documents: in the order of their hashes, the first 5 % of bytes are held back."""
    if len(documents) < 2:
        raise DataError(
            f"{source} gives {len(documents)} document(s), expected at least one for training and one for "
            "validation; add more text."
        )
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
