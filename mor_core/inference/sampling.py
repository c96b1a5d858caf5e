"""From logits to a token: greedy, or drawn after temperature, top-k and top-p, in that order.

A draw is a function of the request's seed and the position alone, so that a request's text does not depend on what
else is in the batch. Shapes: B requests, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mor_core.inference.request import Sampling
from mor_core.model.device import to_device

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def choose(logits_BV: Tensor, samplings: Sequence[Sampling], positions: Sequence[int]) -> Tensor:
    """One token for each request, whose position in its sequence is given, [B]."""
    tokens_B = logits_BV.argmax(dim=-1)
    drawing = [i for i, each in enumerate(samplings) if each.temperature > 0]
    if not drawing:
        return tokens_B
    uniforms = [uniform(samplings[i].seed, positions[i]) for i in drawing]
    if len(drawing) == len(samplings):
        return _draw(logits_BV, samplings, uniforms)
    rows_D = to_device(drawing, np.int64, logits_BV.device)
    return tokens_B.index_copy(0, rows_D, _draw(logits_BV[rows_D], [samplings[i] for i in drawing], uniforms))


def _draw(logits_BV: Tensor, samplings: Sequence[Sampling], uniforms: list[float]) -> Tensor:
    """The inverse of the cumulative distribution, tokens in order of falling probability."""
    precise = torch.promote_types(logits_BV.dtype, torch.float32)
    rows = [
        [each.temperature, each.top_p, each.top_k or logits_BV.shape[1], own]
        for each, own in zip(samplings, uniforms, strict=True)
    ]
    table_B4 = to_device(rows, np.float64, logits_BV.device).to(precise)
    temperature_B1, top_p_B1, top_k_B1, uniform_B1 = table_B4.split(1, dim=1)
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


def uniform(seed: int, position: int) -> float:
    """A pseudo-random number in [0, 1) for one position of one seed: SplitMix64 (Steele et al. 2014), applied twice."""
    bits = _mix(_mix(seed & _MASK) + (position + 1) * _GOLDEN)
    return (bits >> 11) / (1 << 53)


def _mix(bits: int) -> int:
    bits = (bits + _GOLDEN) & _MASK
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & _MASK
    return bits ^ (bits >> 31)
