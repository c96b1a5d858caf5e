"""The loss and the depth of every token of given windows, where a mean over the text would hide them.

Shapes: B windows, T tokens, N tokens in all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mor_core.config.training import TrainConfig
from mor_core.model.language_model import LanguageModel, RoutingRule
from mor_core.training.evaluate import computed_tokens
from mor_core.training.loop import autocast
from mor_core.training.loss import token_losses


@dataclass(frozen=True, kw_only=True)
class TokenMeasurements:
    """One entry a predicted token, window after window."""

    nats_N: NDArray[np.float64]
    """Cross-entropy of the token that comes next."""
    depth_N: NDArray[np.int64]
    """Recursions that the token before it, which predicts it, went through."""
    position_N: NDArray[np.int64]
    """That token's place in its window, from 0."""
    window_N: NDArray[np.int64]
    """Number of the window."""


def text_windows(tokens_N: NDArray[np.int64], length: int, batch: int) -> Iterator[NDArray[np.int64]]:
    """All of a text in windows of `length` tokens and the one after, [<=B, T + 1]; the last batch is what is left."""
    whole = (len(tokens_N) - 1) // length
    for first in range(0, whole, batch):
        starts_B1 = length * np.arange(first, min(first + batch, whole))[:, None]
        yield tokens_N[starts_B1 + np.arange(length + 1)]
    if whole * length < len(tokens_N) - 1:
        yield tokens_N[None, whole * length :]


@torch.inference_mode()
def measure_tokens(
    model: LanguageModel, train: TrainConfig, batches: Iterable[NDArray[np.int64]], rule: RoutingRule
) -> TokenMeasurements:
    """Every token of batches of windows [B, T + 1] under one routing rule, in the precision of training.

    Windows of one batch have one length, which matters to top-k: it keeps a share of a window.
    """
    model.eval()
    device = model.device
    nats, depths, positions, windows = [], [], [], []
    count = 0
    for batch in batches:
        tokens_BT = torch.from_numpy(np.ascontiguousarray(batch)).to(device)
        with autocast(model, train):
            x_BTD, routed = model.encode(tokens_BT[:, :-1], rule)
            losses_BT = token_losses(x_BTD, model.head_weight_VD, tokens_BT[:, 1:])
        size, length = losses_BT.shape
        nats.append(losses_BT.double().cpu().numpy().ravel())
        depths.append(computed_tokens(model.config, tokens_BT[:, :-1], routed).sum(dim=0).cpu().numpy().ravel())
        positions.append(np.tile(np.arange(length), size))
        windows.append(np.repeat(np.arange(count, count + size), length))
        count += size
    return TokenMeasurements(
        nats_N=np.concatenate(nats),
        depth_N=np.concatenate(depths),
        position_N=np.concatenate(positions),
        window_N=np.concatenate(windows),
    )
