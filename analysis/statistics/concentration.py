"""Whether a few windows of the validation text decide how two models differ.

A difference that is spread evenly over the windows is that of the models. One that comes from a few windows of drawn
tables or encoded bytes is that of this text, and another draw of it says something else.

Shapes: S windows, T tokens, V ids of the vocabulary.
"""

import numpy as np
from numpy.typing import NDArray

EVEN_CONCENTRATION = 0.124
"""The concentration of normal differences; see `concentration`."""

FEW_WINDOWS = 0.06
"""Of trained cells: a concentration below this, half of that of even noise, is that of a text of which a few windows
decide. Models that differ by their seed had 4 % on text with drawn tables and 11 % without (bench/results.md)."""


def concentration(difference_S: NDArray[np.floating]) -> float | None:
    """The smallest share of windows, 0 to 1, whose squared differences make at least half of the sum of all. None where
    no window differs.

    Of evenly noisy windows it is 12.4 %: where differences are normal, z of unit variance with density phi, those with
    |z| > t hold the share 2 int_t^inf z^2 phi(z) dz = 2 (t phi(t) + P(z > t)) of the sum, by parts with
    phi'(z) = -z phi(z). That is a half at t = 1.538, and P(|z| > 1.538) = 0.124. Where 1 % of the windows decide it is
    about 1 %.
    """
    squares_S = np.sort(np.square(difference_S, dtype=np.float64))[::-1]
    sums_S = np.cumsum(squares_S)
    if not sums_S.size or sums_S[-1] == 0:
        return None
    return (int(np.searchsorted(sums_S, sums_S[-1] / 2)) + 1) / len(sums_S)


def deciding_token(difference_ST: NDArray[np.floating], tokens_ST: NDArray[np.int64]) -> tuple[int, float]:
    """The id on which most of the squared difference of windows falls, and the share of it that does, mostly 0 to 1.

    With d_w the difference of a window and d_wv the part of it at tokens of id v, the square is d_w^2 = sum_v d_w d_wv:
    id v has the share sum_w d_w d_wv / sum_w d_w^2. The models must differ.
    """
    weights_ST = difference_ST.sum(axis=1, keepdims=True) * difference_ST
    shares_V = np.bincount(tokens_ST.ravel(), weights=weights_ST.ravel()) / weights_ST.sum()
    token = int(shares_V.argmax())
    return token, float(shares_V[token])
