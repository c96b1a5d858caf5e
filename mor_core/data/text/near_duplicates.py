"""Near-duplicate documents: MinHash signatures over lines find candidates, an exact Jaccard index decides.

MinHash is written out here, in integers and with numpy's generator that is frozen for good, because which documents are
kept must depend on no library's version: releases of the usual one give other signatures.
"""

import zlib
from collections import defaultdict
from functools import cache

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.7
"""Share of distinct lines in common, |A and B| / |A or B|, from which the later document is left out.

Copies that a project carries of another's file, or of its own under a second name, share nearly all lines;
two independent modules share little beyond `else:` and `return None`. Lee et al. 2022 (Deduplicating Training
Data Makes Language Models Better) use 0.8 on word 5-grams; lines are coarser, so that one edit changes a whole
shingle, hence the lower threshold.
"""

BANDS, ROWS = 16, 4
"""Probability to become a candidate: 1 - (1 - J^4)^16, which is 0.99 at J = 0.7 and 0.997 at 0.75."""


class NearDuplicates:
    """The documents seen so far. Which of two near duplicates stays depends on the order they are shown in."""

    def __init__(self) -> None:
        self._by_band: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
        self._lines: list[NDArray[np.int64]] = []

    def seen(self, text: str) -> bool:
        """Whether a document much like `text` was shown before; if not, remember this one."""
        lines = line_hashes(text)
        bands = [(number, band.tobytes()) for number, band in enumerate(min_hashes(lines).reshape(BANDS, ROWS))]
        candidates = {candidate for band in bands for candidate in self._by_band.get(band, ())}
        if any(jaccard(lines, self._lines[candidate]) >= THRESHOLD for candidate in candidates):
            return True
        for band in bands:
            self._by_band[band].append(len(self._lines))
        self._lines.append(lines)
        return False


def line_hashes(text: str) -> NDArray[np.int64]:
    """Sorted 32-bit hashes of the distinct lines, blank space around them ignored; [lines]."""
    lines = {line.strip() for line in text.split("\n")}
    hashes = np.fromiter((zlib.crc32(line.encode()) for line in lines), dtype=np.int64, count=len(lines))
    return np.unique(hashes)


def jaccard(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """|A and B| / |A or B| of two sorted sets."""
    if min(len(a), len(b)) < THRESHOLD * max(len(a), len(b)):
        return 0.0  # sets this unequal in size cannot reach the threshold
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


SHINGLE_WORDS = 5
"""Words in one shingle of prose, as in Lee et al. 2022: a paragraph is one line, so that lines would be too coarse."""


def signature(text: str) -> NDArray[np.uint32]:
    """The MinHash signature of a text's word 5-grams; [BANDS * ROWS]."""
    return min_hashes(shingle_hashes(text))


def shingle_hashes(text: str) -> NDArray[np.int64]:
    """32-bit hashes of the distinct word 5-grams, or of the words where there are fewer."""
    words = text.split()
    last = max(len(words) - SHINGLE_WORDS, 0)
    shingles = {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(last + 1)}
    return np.unique(np.fromiter((zlib.crc32(shingle.encode()) for shingle in shingles), dtype=np.int64))


def min_hashes(values: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The MinHash signature of a set of 32-bit values, not empty; [BANDS * ROWS].

    Two sets agree in each value of it with the probability of their Jaccard index. The values are mixed (the finaliser
    of MurmurHash3), then permuted by x -> a x + b modulo 2^32 with odd a.
    """
    mixed = values.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    factors, offsets = _permutations()
    return (mixed[:, None] * factors + offsets).min(axis=0)


@cache
def _permutations() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    generator = np.random.RandomState(1)
    halves = generator.randint(0, 2**31, BANDS * ROWS, dtype=np.uint32)
    return halves * np.uint32(2) + np.uint32(1), generator.randint(0, 2**32, BANDS * ROWS, dtype=np.uint32)
