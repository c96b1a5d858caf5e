"""Run whole texts through the inference path at once. Returns their logits and how deep each token went.

Shapes: B sequences, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mor_core.config import CausalRule
from mor_core.inference.kv_cache import KeyValueCache, PoolSizes
from mor_core.inference.request import RequestError
from mor_core.inference.stages import Stages
from mor_core.model.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What happened to one text."""

    logits_TV: Tensor
    """Next-token logits after each token."""
    depth: tuple[int, ...]
    """Recursions that each token went through."""
    scores: tuple[tuple[float, ...], ...]
    """Expert choice: per token the logits that decided, one for each recursion it was judged for, the first included
    (which takes every token). Token choice: the probability of each depth. Empty without routing."""


@torch.inference_mode()
def trace(
    model: Transformer, texts: Sequence[Sequence[int]], rule: CausalRule = "threshold", max_depth: int | None = None
) -> list[Trace]:
    """Run texts of token ids, each as one prompt. Raises RequestError where one is empty or exceeds the context, or
    where `max_depth` is not a depth of the model."""
    check_depth(model, max_depth)
    for text in texts:
        if not 0 < len(text) <= model.config.context_length:
            raise RequestError(f"a text of {len(text)} tokens: expected 1 to {model.config.context_length}")
    counts = np.array([len(text) for text in texts], np.int64)
    length = int(counts.sum())
    sizes = PoolSizes(unshared=length, block=length * model.config.recursion.count)
    weight = model.embedding.weight
    cache = KeyValueCache(model.config, sizes, len(texts), weight.dtype, weight.device)
    rows = np.array([cache.open() for _ in texts], np.int64)
    tokens_N = np.array([token for text in texts for token in text], np.int64)
    reading = Stages(model, cache, rule, max_depth).read(rows, counts, tokens_N, logits=True)
    assert reading.logits_NV is not None
    scores: list[list[float]] = [[] for _ in range(length)]
    for tokens, details in reading.scores:
        for token, numbers in zip(tokens.tolist(), details.tolist(), strict=True):
            scores[token] += numbers
    ends = counts.cumsum().tolist()
    return [
        Trace(
            logits_TV=logits_TV,
            depth=tuple(reading.depth_N[end - len(logits_TV) : end].tolist()),
            scores=tuple(map(tuple, scores[end - len(logits_TV) : end])),
        )
        for logits_TV, end in zip(reading.logits_NV.split(counts.tolist()), ends, strict=True)
    ]


def check_depth(model: Transformer, max_depth: int | None) -> None:
    """Raises RequestError where tokens of a model cannot be kept to `max_depth` recursions."""
    recursion = model.config.recursion
    if max_depth is None:
        return
    if not recursion.sharing.endswith("cycle"):
        raise RequestError(
            f"depth {max_depth} under {recursion.sharing} sharing: its block is not a recursion to stop at"
        )
    if not 1 <= max_depth <= recursion.count:
        raise RequestError(f"depth {max_depth}: expected 1 to the model's {recursion.count} recursions")
