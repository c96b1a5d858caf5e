"""Weights to losses, over a fixed set of validation sequences.

A routed model has two. `loss` is causal: a token goes on when its router logit reaches the recursion's threshold,
which is all that generation can do. `loss_topk` lets each sequence keep its top-k tokens, as the paper evaluates; it
looks at the whole sequence. Their difference is a result, not an error. Other models have one loss, given twice.

Shapes: B sequences, T tokens, R recursions.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mor_core.config import TrainConfig
from mor_core.flops import forward_flops
from mor_core.model.transformer import RoutingRule, Transformer
from mor_core.training.loop import autocast, token_loss


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The losses of one set of weights and how deep its tokens went."""

    loss: float
    """Mean cross-entropy under causal routing, nats per token."""
    loss_topk: float
    """Mean cross-entropy under top-k routing, nats per token."""
    bits_per_byte: float
    """`loss` in bits per byte of the text that the predicted tokens stand for."""
    tokens: int
    """Predicted tokens."""
    depth_mean: float
    """Mean number of recursions a token went through under causal routing (Nr without routing)."""
    realised_capacity: tuple[float, ...]
    """Share of tokens that each recursion computed under causal routing."""
    planned_capacity: tuple[float, ...]
    """Share of tokens that top-k keeps, k_r / T."""
    forward_flops_per_token: float
    """Exact forward FLOPs per token under causal routing, averaged over the sequences."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One pass over the validation set under one routing rule."""

    nats: float
    counts: np.ndarray
    """Tokens that each recursion computed in each sequence, [sequences, R]."""


@torch.no_grad()
def evaluate(
    model: Transformer, train: TrainConfig, batches: Iterable[np.ndarray], bytes_of_token: np.ndarray
) -> Evaluation:
    """Losses over batches of token ids [B, T + 1]; bytes_of_token[id] is how many bytes of text an id stands for."""
    model.eval()
    batches = list(batches)
    targets = np.concatenate([batch[:, 1:].ravel() for batch in batches])
    causal = _run(model, train, batches, "threshold")
    top_k = _run(model, train, batches, "top-k") if model.config.routing else causal
    length = batches[0].shape[1] - 1
    flops = [forward_flops(model.config, length, tuple(int(k) for k in counts)) for counts in causal.counts]
    return Evaluation(
        loss=causal.nats / targets.size,
        loss_topk=top_k.nats / targets.size,
        bits_per_byte=causal.nats / math.log(2) / int(bytes_of_token[targets].sum()),
        tokens=int(targets.size),
        depth_mean=float(causal.counts.sum(axis=1).mean() / length),
        realised_capacity=tuple((causal.counts.mean(axis=0) / length).tolist()),
        planned_capacity=tuple(k / length for k in model.config.tokens_per_recursion(length)),
        forward_flops_per_token=float(np.mean(flops) / length),
    )


def _run(model: Transformer, train: TrainConfig, batches: list[np.ndarray], rule: RoutingRule) -> _Pass:
    nats, counts = 0.0, []
    device = model.embedding.weight.device
    for batch in batches:
        tokens_BT = torch.from_numpy(batch).to(device)
        with autocast(model, train):
            output = model(tokens_BT[:, :-1], rule)
        nats += float(token_loss(output, tokens_BT[:, 1:]).double().sum())
        counts.append(_tokens_per_recursion(model, tokens_BT, output.selections).cpu().numpy())
    return _Pass(nats=nats, counts=np.concatenate(counts))


def _tokens_per_recursion(model: Transformer, tokens_BT: Tensor, selections: tuple) -> Tensor:
    """Tokens that each recursion computed in each sequence, [B, R]."""
    if not selections:
        return tokens_BT.new_full((tokens_BT.shape[0], model.config.recursion.count), tokens_BT.shape[1] - 1)
    return torch.stack(
        [
            tokens_BT.new_full((tokens_BT.shape[0],), s.positions_BK.shape[1])
            if s.valid_BK is None
            else s.valid_BK.sum(dim=1)
            for s in selections
        ],
        dim=1,
    )
