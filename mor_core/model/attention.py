"""Causal attention: the fused kernel, and on a CPU in bf16 one of matrix products over blocks of queries.

torch's CPU kernel computes bf16 attention at a tenth of the rate of its own matrix products. The products here are
those of flash attention (Dao et al. 2022, arXiv 2205.14135): scores of one block of queries with the keys up to its
end, computed again in the backward pass from the logarithm of each row's sum, so that no square of scores is kept.

Shapes: B sequences, T tokens, H query heads, G key and value heads, C head width, N = B G independent heads, K tokens
of a block, Q = K H / G queries that share a head's keys, S keys up to the block's end.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_TOKENS = 128
"""Queries of a block: fewer waste less on the half of its square that causality removes, more make larger products."""


def causal_attention(q_BHTC: Tensor, k_BGTC: Tensor, v_BGTC: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(C)) v over each token's predecessors and itself, [B, H, T, C]."""
    if q_BHTC.device.type == "cpu" and q_BHTC.dtype == torch.bfloat16:
        return _BlockAttention.apply(q_BHTC, k_BGTC, v_BGTC)  # pyright: ignore
    grouped = q_BHTC.shape[1] != k_BGTC.shape[1]
    return F.scaled_dot_product_attention(q_BHTC, k_BGTC, v_BGTC, is_causal=True, enable_gqa=grouped)


class _BlockAttention(torch.autograd.Function):
    """Scores, softmax and sums are in fp32 (fp64 for fp64), matrix products in the tensors' own precision."""

    @staticmethod
    def forward(ctx: Any, q_BHTC: Tensor, k_BGTC: Tensor, v_BGTC: Tensor) -> Tensor:
        k_NTC, v_NTC = k_BGTC.flatten(0, 1), v_BGTC.flatten(0, 1)
        groups = k_BGTC.shape[1]
        y_BHTC = _like_a_layers(q_BHTC)
        log_sums = []
        for block in _blocks(q_BHTC.shape[2]):
            scores_NQS = _scores(_folded(q_BHTC, block, groups), k_NTC[:, : block.stop], block)
            softmax_NQS = scores_NQS.softmax(dim=-1)
            # The highest score less the logarithm of its probability is the logarithm of the sum of exponentials.
            log_sums.append(scores_NQS.amax(dim=-1, keepdim=True) - softmax_NQS.amax(dim=-1, keepdim=True).log())
            y_NQC = torch.bmm(softmax_NQS.to(v_NTC.dtype), v_NTC[:, : block.stop])
            y_BHTC[:, :, block] = y_NQC.view(y_BHTC[:, :, block].shape)
        ctx.save_for_backward(q_BHTC, k_BGTC, v_BGTC, y_BHTC, *log_sums)
        return y_BHTC

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _gradients(ctx, *grad_outputs)


@once_differentiable
def _gradients(ctx: Any, dy_BHTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q_BHTC, k_BGTC, v_BGTC, y_BHTC, *log_sums = ctx.saved_tensors
    k_NTC, v_NTC, groups = k_BGTC.flatten(0, 1), v_BGTC.flatten(0, 1), k_BGTC.shape[1]
    dq_BHTC = _like_a_layers(q_BHTC)
    dk_NTC = torch.zeros_like(k_NTC, dtype=log_sums[0].dtype, memory_format=torch.contiguous_format)
    dv_NTC = torch.zeros_like(dk_NTC)
    for block, log_sum_NQ1 in zip(_blocks(q_BHTC.shape[2]), log_sums, strict=True):
        q_NQC, dy_NQC, y_NQC = (_folded(each, block, groups) for each in (q_BHTC, dy_BHTC, y_BHTC))
        keys_NSC, values_NSC = k_NTC[:, : block.stop], v_NTC[:, : block.stop]
        softmax_NQS = (_scores(q_NQC, keys_NSC, block) - log_sum_NQ1).exp()
        dv_NTC[:, : block.stop] += torch.bmm(softmax_NQS.to(q_NQC.dtype).transpose(1, 2), dy_NQC)
        shift_NQ1 = (dy_NQC.to(log_sum_NQ1.dtype) * y_NQC).sum(dim=-1, keepdim=True)
        dsoftmax_NQS = torch.bmm(dy_NQC, values_NSC.transpose(1, 2))
        dscores_NQS = (softmax_NQS * (dsoftmax_NQS - shift_NQ1) / math.sqrt(q_NQC.shape[-1])).to(q_NQC.dtype)
        dq_BHTC[:, :, block] = torch.bmm(dscores_NQS, keys_NSC).view(dq_BHTC[:, :, block].shape)
        dk_NTC[:, : block.stop] += torch.bmm(dscores_NQS.transpose(1, 2), q_NQC)
    return dq_BHTC, dk_NTC.view(k_BGTC.shape).to(k_BGTC.dtype), dv_NTC.view(v_BGTC.shape).to(v_BGTC.dtype)


def _like_a_layers(x_BHTC: Tensor) -> Tensor:
    """An empty tensor of the same shape, whose heads lie inside its tokens, so that a layer can join them in place."""
    batch, heads, tokens, width = x_BHTC.shape
    return x_BHTC.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, BLOCK_TOKENS):
        yield slice(start, min(start + BLOCK_TOKENS, length))


def _folded(x_BHTC: Tensor, block: slice, groups: int) -> Tensor:
    """A block's queries, those of all heads that share keys one after another: [N, Q, C]."""
    x_BHKC = x_BHTC[:, :, block]
    batch, heads, tokens, width = x_BHKC.shape
    return x_BHKC.reshape(batch * groups, heads // groups * tokens, width)


def _scores(q_NQC: Tensor, keys_NSC: Tensor, block: slice) -> Tensor:
    """q k^T / sqrt(C), minus infinity where a key comes after its query."""
    products_NQS = torch.bmm(q_NQC, keys_NSC.transpose(1, 2))
    precision = torch.promote_types(products_NQS.dtype, torch.float32)
    tokens = block.stop - block.start
    later_KK = torch.full((tokens, tokens), -math.inf, dtype=precision, device=q_NQC.device).triu(1)
    mask_KS = F.pad(later_KK, (block.start, 0))
    scores_NQS = products_NQS.to(precision) / math.sqrt(q_NQC.shape[-1])
    return (scores_NQS.unflatten(1, (-1, tokens)) + mask_KS).flatten(1, 2)
