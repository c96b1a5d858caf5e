"""Near-duplicate documents: MinHash signatures over lines find candidates, an exact Jaccard index decides."""

import zlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasketch import MinHash

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
        from datasketch import MinHash, MinHashLSH  # half a second, which a look-up need not pay

        self._index = MinHashLSH(params=(BANDS, ROWS), num_perm=BANDS * ROWS)
        self._lines: list[NDArray[np.int64]] = []
        self._blank = MinHash(num_perm=BANDS * ROWS, hashfunc=int)

    def seen(self, text: str) -> bool:
        """Whether a document much like `text` was shown before; if not, remember this one."""
        lines = line_hashes(text)
        signature = self._blank.copy()
        signature.update_batch(lines)
        if any(jaccard(lines, self._lines[candidate]) >= THRESHOLD for candidate in self._candidates(signature)):
            return True
        self._index.insert(len(self._lines), signature, check_duplication=False)
        self._lines.append(lines)
        return False

    def _candidates(self, signature: "MinHash") -> list[int]:
        return [int(str(key)) for key in self._index.query(signature)]


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
    minhash = _blank().copy()
    minhash.update_batch(shingle_hashes(text))
    return minhash.hashvalues.astype(np.uint32)


def shingle_hashes(text: str) -> NDArray[np.int64]:
    """32-bit hashes of the distinct word 5-grams, or of the words where there are fewer."""
    words = text.split()
    last = max(len(words) - SHINGLE_WORDS, 0)
    shingles = {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(last + 1)}
    return np.unique(np.fromiter((zlib.crc32(each.encode()) for each in shingles), dtype=np.int64))


@cache
def _blank() -> "MinHash":
    from datasketch import MinHash

    return MinHash(num_perm=BANDS * ROWS, hashfunc=int)
