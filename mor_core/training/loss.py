"""Cross-entropy of a linear head, a few tokens at a time, so that the logits of a whole batch never exist at once.
A model that has no such head to give away gives logits, and the weight is None.

Shapes: B sequences, T tokens, N = B T tokens, K tokens of a chunk, P tokens of a piece of it, D model width,
V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mor_core.model.attention import compute_dtype
from mor_core.model.device import device_kind
from mor_core.training.memory import CHUNK_TOKENS, PIECE_ENTRIES


def linear_cross_entropy(hidden_BTD: Tensor, weight_VD: Tensor | None, targets_BT: Tensor) -> Tensor:
    """Mean over all tokens of the cross-entropy of hidden @ weight^T against the targets, in nats; a scalar.

    Matrix products are in autocast's precision where it is on, else in the tensors' own; softmax, loss and the sum of
    the weight's gradient are in fp32, or fp64 for fp64 tensors. The gradients are computed in the forward pass, while a
    chunk's logits are there: three matrix products in all, none of them twice. Without a weight, what is hidden are
    the logits.
    """
    if weight_VD is None:
        return F.cross_entropy(_at_least_fp32(hidden_BTD).flatten(0, -2), targets_BT.flatten())
    if not torch.is_grad_enabled():
        return token_losses(hidden_BTD, weight_VD, targets_BT).mean()
    hidden_ND, targets_N = hidden_BTD.flatten(0, -2), targets_BT.flatten()
    return _ChunkedLinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N)  # pyright: ignore


@torch.no_grad()
def token_losses(hidden_BTD: Tensor, weight_VD: Tensor | None, targets_BT: Tensor) -> Tensor:
    """The same cross-entropy of every token, [B, T] in nats, without a gradient."""
    if weight_VD is None:
        return F.cross_entropy(_at_least_fp32(hidden_BTD).transpose(1, 2), targets_BT, reduction="none")
    tokens, rows = CHUNK_TOKENS[device_kind(weight_VD)], _piece_tokens(weight_VD)
    losses = [
        F.cross_entropy(_at_least_fp32(logits_PV), targets_P, reduction="none")
        for hidden_KD, targets_K in zip(
            hidden_BTD.flatten(0, -2).split(tokens), targets_BT.flatten().split(tokens), strict=True
        )
        for logits_PV, targets_P in zip(F.linear(hidden_KD, weight_VD).split(rows), targets_K.split(rows), strict=True)
    ]
    return torch.cat(losses).view_as(targets_BT)


def _piece_tokens(weight_VD: Tensor) -> int:
    """Tokens whose logits are in fp32 at once."""
    return max(1, PIECE_ENTRIES[device_kind(weight_VD)] // weight_VD.shape[0])


def _at_least_fp32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    """The mean cross-entropy, with gradients that are ready before anyone asks for them.

    Buffers are made once and written over: on a CPU, fresh memory costs more than the arithmetic done in it.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        precision, count = compute_dtype(hidden_ND), hidden_ND.shape[0]
        ctx.hidden_dtype, ctx.weight_dtype = hidden_ND.dtype, weight_VD.dtype
        tokens = min(count, CHUNK_TOKENS[device_kind(weight_VD)])
        with torch.autocast(hidden_ND.device.type, enabled=False):
            hidden_ND, weight_VD = hidden_ND.detach().to(precision), weight_VD.detach().to(precision)
            logits_KV = hidden_ND.new_empty(tokens, weight_VD.shape[0])
            grad_hidden_ND = torch.empty_like(hidden_ND)
            sum_weight = _SumOfProducts(weight_VD)
            losses_N = hidden_ND.new_empty(count, dtype=sum_weight.total_VD.dtype)
            for start in range(0, count, tokens):
                chunk = slice(start, min(start + tokens, count))
                grad_KV = logits_KV[: chunk.stop - start]
                torch.mm(hidden_ND[chunk], weight_VD.T, out=grad_KV)
                _losses_and_gradients(grad_KV, targets_N[chunk], losses_N[chunk])
                torch.mm(grad_KV, weight_VD, out=grad_hidden_ND[chunk])
                sum_weight.add(grad_KV.T, hidden_ND[chunk])
        ctx.save_for_backward(grad_hidden_ND, sum_weight.total_VD)
        return losses_N.mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        return _scaled_gradients(ctx, *grad_outputs)


@once_differentiable
def _scaled_gradients(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
    grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
    scale = grad_output / grad_hidden_ND.shape[0]
    return (grad_hidden_ND * scale).to(ctx.hidden_dtype), (grad_weight_VD * scale).to(ctx.weight_dtype), None


class _SumOfProducts:
    """A sum of matrix products, held in fp32 at least."""

    def __init__(self, like_VD: Tensor) -> None:
        self.total_VD = torch.zeros_like(like_VD, dtype=torch.promote_types(like_VD.dtype, torch.float32))
        self.product_VD = None if like_VD.dtype == self.total_VD.dtype else torch.empty_like(like_VD)

    def add(self, left_VK: Tensor, right_KD: Tensor) -> None:
        if self.product_VD is None:
            self.total_VD.addmm_(left_VK, right_KD)
        else:
            self.total_VD.add_(torch.mm(left_VK, right_KD, out=self.product_VD))


def _losses_and_gradients(logits_KV: Tensor, targets_K: Tensor, losses_K: Tensor) -> None:
    """Write each token's loss, and over its logits their gradient: softmax minus one at the target.

    The loss is log(sum(exp(logits))) - logit of the target, whose first term is the highest logit less the logarithm of
    its probability. That one is at least 1 / V, so nothing underflows, and one softmax serves loss and gradient.
    """
    rows = _piece_tokens(logits_KV.T)
    for logits_PV, targets_P, losses_P in zip(
        logits_KV.split(rows), targets_K.split(rows), losses_K.split(rows), strict=True
    ):
        scores_PV, targets_P1 = _at_least_fp32(logits_PV), targets_P.unsqueeze(1)
        softmax_PV = scores_PV.softmax(dim=1)
        losses_P.copy_(
            scores_PV.amax(dim=1) - softmax_PV.amax(dim=1).log() - scores_PV.gather(1, targets_P1).squeeze(1)
        )
        gradient_P1 = softmax_PV.gather(1, targets_P1) - 1
        logits_PV.copy_(softmax_PV).scatter_(1, targets_P1, gradient_P1.to(logits_PV.dtype))
