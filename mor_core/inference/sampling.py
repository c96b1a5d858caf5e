"""From logits to a token: greedy, or drawn after temperature, top-k and top-p, in that order.

A draw is a function of the request's seed and the position alone, so that a request's text does not depend on what
else is in the batch. Shapes: B requests, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mor_core.inference.request import Sampling

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def draw_settings(sampling: Sampling) -> tuple[float, float, float]:
    """Temperature, top-p and top-k of a draw. The most likely token is what is drawn among one."""
    if sampling.temperature == 0:
        return 1.0, 1.0, 1.0
    return sampling.temperature, sampling.top_p, float(sampling.top_k or np.inf)


def starts_of_draws(seeds: Sequence[int]) -> np.ndarray:
    """What `uniforms` needs to know of seeds, which are any whole numbers."""
    return _mixed(np.array([seed & _MASK for seed in seeds], np.uint64))


def uniforms(starts_B: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
    """Pseudo-random numbers in [0, 1), each for one position of one seed: SplitMix64 (Steele et al. 2014), applied
    twice. Starts are `starts_of_draws`."""
    bits_B = _mixed(starts_B + (positions_B.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))
    return (bits_B >> np.uint64(11)) / float(1 << 53)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Of unsigned 64-bit integers, which wrap around."""
    bits = bits + np.uint64(_GOLDEN)
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


def choose(logits_BV: Tensor, draws_B4: Tensor | None) -> Tensor:
    """One token for each request, [B]: the most likely one, or drawn, given settings (`draw_settings`) and a number in
    [0, 1) for each. A draw is the inverse of the cumulative distribution, tokens in order of falling probability."""
    if draws_B4 is None:
        return logits_BV.argmax(dim=-1)
    precise = torch.promote_types(logits_BV.dtype, torch.float32)
    temperature_B1, top_p_B1, top_k_B1, uniform_B1 = draws_B4.to(precise).split(1, dim=1)
    sorted_BV, order_BV = logits_BV.to(precise).sort(dim=-1, descending=True, stable=True)
    ranks_V = torch.arange(logits_BV.shape[1], device=logits_BV.device)
    scaled_BV = (sorted_BV / temperature_B1).masked_fill(ranks_V >= top_k_B1, -torch.inf)
    probabilities_BV = scaled_BV.softmax(dim=-1)
    before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
    probabilities_BV = probabilities_BV.masked_fill(before_BV >= top_p_B1, 0.0)
    # The most likely token stays whatever rounding does, so the sum is above 0.
    cumulative_BV = probabilities_BV.cumsum(dim=-1)
    last_B1 = (probabilities_BV > 0).sum(dim=-1, keepdim=True) - 1
    rank_B1 = torch.minimum(torch.searchsorted(cumulative_BV, uniform_B1 * cumulative_BV[:, -1:], right=True), last_B1)
    return order_BV.gather(1, rank_B1).squeeze(1)
