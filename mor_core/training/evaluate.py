"""Weights to losses, over a fixed set of validation sequences.

A model with expert-choice routing has three. `loss` is causal: a token goes on when its router logit reaches the
recursion's threshold, which generation can do. `loss_half` is causal too, with the paper's implied rule: the sigmoid
reaches 0.5. `loss_topk` lets each sequence keep its top-k tokens, as the paper evaluates; it looks at the whole
sequence. Their differences are results, not errors. Other models have one loss, given as `loss` and `loss_topk`.

Shapes: B sequences, T tokens, R recursions.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mor_core.config.fields import later_field
from mor_core.config.model import ExpertChoice
from mor_core.config.own_model import Model
from mor_core.config.training import TrainConfig
from mor_core.flops import RecursionWork, evaluated_flops, planned_work
from mor_core.model.language_model import LanguageModel, Routed, RoutingRule
from mor_core.training.loop import autocast
from mor_core.training.loss import token_losses


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The losses of one set of weights and how deep its tokens went."""

    loss: float
    """Mean cross-entropy under causal routing by the calibrated thresholds, nats per token."""
    loss_half: float | None
    """Mean cross-entropy under causal routing by a sigmoid of 0.5, nats per token; None without expert choice."""
    loss_topk: float
    """Mean cross-entropy under top-k routing, nats per token."""
    bits_per_byte: float
    """`loss` in bits per byte of the text that the predicted tokens stand for."""
    tokens: int
    """Predicted tokens."""
    depth_mean: float
    """Mean number of recursions a token went through under the rule of `loss` (Nr without routing)."""
    depth_histogram: tuple[float, ...]
    """Share of tokens that went through exactly 1..Nr recursions under the rule of `loss`."""
    realised_capacity: tuple[float, ...]
    """Share of tokens that each recursion computed under the rule of `loss`."""
    realised_capacity_half: tuple[float, ...] | None
    """The same under the rule of `loss_half`."""
    planned_capacity: tuple[float, ...]
    """Share of tokens that top-k keeps, k_r / T; under token choice, that of a perfect balance."""
    forward_flops_per_token: float
    """Exact forward FLOPs per token under the rule of `loss`, averaged over the sequences."""
    sequence_losses: tuple[float, ...]
    """Mean cross-entropy of each sequence under the rule of `loss`, nats per token, in the order of the batches."""
    own_losses: dict[str, float] | None = later_field(None, since="0.1.0")
    """Losses that a user's own model names, each the mean over sequences, nats per token; None where it names none."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One pass over the validation set under one routing rule."""

    nats: float
    nats_S: np.ndarray
    """The same of each of the S sequences."""
    tokens_SR: np.ndarray
    """Tokens that each recursion computed in each of the S sequences."""
    prefix_SR: np.ndarray
    """The same tokens, each counted as often as there are tokens up to and including it."""


@torch.no_grad()
def evaluate(
    model: LanguageModel, train: TrainConfig, batches: Iterable[np.ndarray], bytes_of_token: np.ndarray
) -> Evaluation:
    """Losses over batches of token ids [B, T + 1]; bytes_of_token[id] is how many bytes of text an id stands for."""
    model.eval()
    batches = list(batches)
    targets = np.concatenate([batch[:, 1:].ravel() for batch in batches])
    length = batches[0].shape[1] - 1
    expert = isinstance(model.config.routing, ExpertChoice)
    causal = _run(model, train, batches, "threshold")
    half = _run(model, train, batches, "half") if expert else None
    top_k = _run(model, train, batches, "top-k") if expert else causal
    capacity = _capacity(causal, length)
    return Evaluation(
        loss=causal.nats / targets.size,
        loss_half=half.nats / targets.size if half else None,
        loss_topk=top_k.nats / targets.size,
        bits_per_byte=causal.nats / math.log(2) / int(bytes_of_token[targets].sum()),
        tokens=int(targets.size),
        depth_mean=sum(capacity),
        depth_histogram=tuple(
            at_least - deeper for at_least, deeper in zip(capacity, (*capacity[1:], 0.0), strict=True)
        ),
        realised_capacity=capacity,
        realised_capacity_half=_capacity(half, length) if half else None,
        planned_capacity=tuple(k / length for k in model.config.tokens_per_recursion(length)),
        forward_flops_per_token=_mean_flops(model.config, causal, length) / length,
        sequence_losses=tuple((causal.nats_S / length).tolist()),
        own_losses=_own_losses(model, train, batches),
    )


def _own_losses(model: LanguageModel, train: TrainConfig, batches: list[np.ndarray]) -> dict[str, float] | None:
    sums: dict[str, float] = {}
    for batch in batches:
        tokens_BT = torch.from_numpy(batch).to(model.device)
        with autocast(model, train):
            losses = model.named_losses(tokens_BT)
        if not losses:
            return None
        for name, losses_B in losses.items():
            sums[name] = sums.get(name, 0.0) + float(losses_B.double().sum())
    num_sequences = sum(map(len, batches))
    return {name: total / num_sequences for name, total in sums.items()}


def _capacity(run: _Pass, length: int) -> tuple[float, ...]:
    return tuple((run.tokens_SR.mean(axis=0) / length).tolist())


def _mean_flops(config: Model, run: _Pass, length: int) -> float:
    """Exact forward FLOPs of a sequence, averaged; shared keys are counted at the tokens' real positions."""
    total = 0.0
    for tokens_R, prefix_R in zip(run.tokens_SR.tolist(), run.prefix_SR.tolist(), strict=True):
        work = planned_work(config, length, tokens_R)
        if config.recursion.kv != "recursion-wise":
            later = zip(tokens_R[1:], prefix_R[1:], strict=True)
            work = (work[0], *(RecursionWork(tokens=tokens, pairs=pairs) for tokens, pairs in later))
        total += float(evaluated_flops(config, length, work))
    return total / len(run.tokens_SR)


def _run(model: LanguageModel, train: TrainConfig, batches: list[np.ndarray], rule: RoutingRule) -> _Pass:
    nats, sums, tokens, prefixes = 0.0, [], [], []
    device = model.device
    for batch in batches:
        tokens_BT = torch.from_numpy(batch).to(device)
        with autocast(model, train):
            x_BTD, routed = model.encode(tokens_BT[:, :-1], rule)
            losses_BT = token_losses(x_BTD, model.head_weight_VD, tokens_BT[:, 1:])
        # `loss` stays bit for bit what it was: the sum of a batch is not that of the sums of its sequences.
        nats += float(losses_BT.double().sum())
        sums.append(losses_BT.double().sum(dim=1).cpu().numpy())
        computed_RBT = computed_tokens(model.config, tokens_BT[:, :-1], routed)
        places_T = torch.arange(1, computed_RBT.shape[2] + 1, device=device)
        tokens.append(computed_RBT.sum(dim=2).T.cpu().numpy())
        prefixes.append((computed_RBT * places_T).sum(dim=2).T.cpu().numpy())
    return _Pass(
        nats=nats,
        nats_S=np.concatenate(sums),
        tokens_SR=np.concatenate(tokens),
        prefix_SR=np.concatenate(prefixes),
    )


def computed_tokens(config: Model, tokens_BT: Tensor, routed: Routed | None) -> Tensor:
    """Whether each recursion computed each token, [R, B, T]."""
    if routed is None:
        return torch.ones((config.recursion.count, *tokens_BT.shape), dtype=torch.bool, device=tokens_BT.device)
    return torch.stack(
        [
            torch.zeros_like(tokens_BT, dtype=torch.bool).scatter(
                1,
                selection.positions_BK,
                torch.ones_like(selection.positions_BK, dtype=torch.bool)
                if selection.valid_BK is None
                else selection.valid_BK,
            )
            for selection in routed.selections
        ]
    )
