"""A language model that costs nothing to train: how often each token follows each other one.

Two of them, counted on different text, stand for two trained models where the question is on which windows of
validation text models differ at all, before anything is trained. Only pairs that occur are kept, so that a vocabulary
of 50,000 ids is no larger than one of 500.

Shapes: S windows, T tokens, V ids of the vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR_TOKENS = 100.0
"""How many tokens the frequencies of single ids count for beside the ids that were seen to follow one: the strength of
a Dirichlet prior (MacKay and Peto 1995, A hierarchical Dirichlet language model)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CountModel:
    """p(b | a) = (count(a b) + m p(b)) / (count(a) + m), with p(b) = (count(b) + 1) / (tokens + V), m PRIOR_TOKENS."""

    count_V: NDArray[np.int64]
    """How often each id was seen."""
    followed_V: NDArray[np.int64]
    """How often each id was followed by any."""
    pairs: NDArray[np.int64]
    """a V + b of the pairs that were seen, ascending."""
    pair_counts: NDArray[np.int64]
    """How often each of them was seen."""

    def losses(self, windows_ST1: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cross-entropy of every token but a window's first, [S, T] in nats."""
        before_ST, after_ST = windows_ST1[:, :-1], windows_ST1[:, 1:]
        vocabulary = len(self.count_V)
        keys_ST = before_ST * vocabulary + after_ST
        places_ST = np.minimum(np.searchsorted(self.pairs, keys_ST), len(self.pairs) - 1)
        seen_ST = np.where(self.pairs[places_ST] == keys_ST, self.pair_counts[places_ST], 0)
        single_V = (self.count_V + 1) / (self.count_V.sum() + vocabulary)
        return np.log(self.followed_V[before_ST] + PRIOR_TOKENS) - np.log(seen_ST + PRIOR_TOKENS * single_V[after_ST])


def count_model(windows_ST1: NDArray[np.int64], vocabulary: int) -> CountModel:
    """The model of windows of training text, at least one of at least two tokens."""
    before, after = windows_ST1[:, :-1].ravel(), windows_ST1[:, 1:].ravel()
    pairs, pair_counts = np.unique(before * vocabulary + after, return_counts=True)
    return CountModel(
        count_V=np.bincount(after, minlength=vocabulary),
        followed_V=np.bincount(before, minlength=vocabulary),
        pairs=pairs,
        pair_counts=pair_counts,
    )
