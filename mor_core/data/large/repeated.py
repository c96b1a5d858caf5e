"""Which documents of a large corpus repeat an earlier one: a pure function of the parts' indexes, in bounded memory.

The first of equal documents stays, in the order of the parts; so does the first of near duplicates. It makes no
difference which process prepared which part, or when. Hashes are compared a range at a time and MinHash bands one at a
time: about 40 bytes of memory a document in a range, or in the corpus where near duplicates are looked for.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mor_core.data.large.parts import read_index
from mor_core.data.text.near_duplicates import BANDS, ROWS, THRESHOLD

DOCUMENTS_AT_ONCE = 8_000_000
"""Hashes sorted at a time: 320 MB."""

PAIRS_AT_ONCE = 100_000
"""Signatures compared at a time: 51 MB."""


def repeated_documents(
    folder: Path, parts: Sequence[int], near: bool
) -> tuple[dict[int, NDArray[np.int64]], dict[str, int]]:
    """The rows to leave out of each part's index, for the parts that have any; and how many, by reason."""
    sizes = [len(np.load(folder / f"index-{part:05d}.npy", mmap_mode="r")) for part in parts]
    starts = np.cumsum([0, *sizes])
    repeats = np.zeros(starts[-1], dtype=bool)
    _mark_equal(folder, parts, repeats)
    reasons = {"duplicate": int(repeats.sum())}
    if near:
        like_earlier = _near(folder, parts, repeats)
        reasons["near duplicate"] = int(like_earlier.sum())
        repeats |= like_earlier
    by_part = {
        part: np.flatnonzero(repeats[start:stop])
        for part, start, stop in zip(parts, starts[:-1], starts[1:], strict=True)
    }
    return {part: rows for part, rows in by_part.items() if len(rows)}, {k: v for k, v in reasons.items() if v}


def _mark_equal(folder: Path, parts: Sequence[int], repeats: NDArray[np.bool_]) -> None:
    ranges = max(1, -(-len(repeats) // DOCUMENTS_AT_ONCE))
    for number in range(ranges):
        hashes, places = _hashes_in(folder, parts, number, ranges)
        order = np.lexsort((places, hashes[:, 1], hashes[:, 0]))
        ordered = hashes[order]
        again = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1)) + 1
        repeats[places[order[again]]] = True


def _hashes_in(
    folder: Path, parts: Sequence[int], number: int, ranges: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hashes in one of the equal ranges of their values, with the places of their documents in the corpus."""
    hashes, places, start = [], [], 0
    for part in parts:
        part_hashes = read_index(folder, part)["hash"]
        rows = np.flatnonzero(part_hashes[:, 0] % np.uint64(ranges) == number)
        hashes.append(part_hashes[rows])
        places.append(rows + start)
        start += len(part_hashes)
    return np.concatenate(hashes), np.concatenate(places)


def _near(folder: Path, parts: Sequence[int], removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Documents that are much like the first one of theirs in some band, by the share of equal MinHash values."""
    signatures = [np.load(folder / f"signatures-{part:05d}.npy", mmap_mode="r") for part in parts]
    starts = np.cumsum([0, *(len(part_signatures) for part_signatures in signatures)])
    near_copies = np.zeros(len(removed), dtype=bool)
    for band in range(BANDS):
        columns = slice(band * ROWS, (band + 1) * ROWS)
        keys = np.concatenate([_band_keys(part_signatures[:, columns]) for part_signatures in signatures])
        for first, later in _pairs(keys, removed | near_copies):
            alike = _rows(signatures, starts, first) == _rows(signatures, starts, later)
            near_copies[later[alike.mean(axis=1) >= THRESHOLD]] = True
    return near_copies


def _band_keys(values: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One 64-bit number for the values of a band."""
    key = np.zeros(len(values), dtype=np.uint64)
    for column in range(values.shape[1]):
        key = (key ^ values[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def _pairs(
    keys: NDArray[np.uint64], removed: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places of the first document with each key that several share, and of the others with it."""
    present = np.flatnonzero(~removed)
    order = present[np.argsort(keys[present], kind="stable")]
    sorted_keys = keys[order]
    is_first = np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]) if len(order) else np.zeros(0, bool)
    firsts = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))] if len(order) else order
    first, later = firsts[~is_first], order[~is_first]
    for start in range(0, len(later), PAIRS_AT_ONCE):
        yield first[start : start + PAIRS_AT_ONCE], later[start : start + PAIRS_AT_ONCE]


def _rows(signatures: Sequence[NDArray[Any]], starts: NDArray[Any], places: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The signatures of documents by their places in the corpus; [places, values]."""
    part_of = np.searchsorted(starts, places, side="right") - 1
    values = np.empty((len(places), BANDS * ROWS), dtype=np.uint32)
    for part in np.unique(part_of):
        in_part = part_of == part
        values[in_part] = signatures[part][places[in_part] - starts[part]]
    return values
