"""Attention to predecessors: fused kernels, and on a CPU in bf16 one of matrix products over blocks of queries.

torch's CPU kernel computes bf16 attention at a tenth of the rate of its own matrix products. The products here are
those of flash attention (Dao et al. 2022, arXiv 2205.14135): scores of one block of queries with the keys up to its
end, computed again in the backward pass from the logarithm of each row's sum, so that no square of scores is kept.

Shapes: B sequences, T tokens, H query heads, G key and value heads, C head width, N = B G independent heads, K tokens
of a block, Q = K H / G queries that share a head's keys, S keys that a block looks at.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask

from mor_core.model.sparse_prefix import SPARSE_MIN_D_HEAD, sparse_prefix_attention, sparse_prefix_of

HALF = (torch.bfloat16, torch.float16)
"""Precisions of a GPU's fastest attention kernels."""

BLOCK_TOKENS = 128
"""Queries of a block: fewer waste less on the half of its square that causality removes, more make larger products."""


class Prefix(NamedTuple):
    """Which keys of the whole sequence each packed query sees: those up to its own position.

    Queries are ascending in position, so they are cut into runs, and a run looks only at the keys up to the furthest
    position in it: about half of the work of one mask over everything.
    """

    keys: tuple[int, ...]
    """S of each run: keys from position 0 on that it looks at."""
    hidden: tuple[Tensor, ...]
    """Of each run, true where a query must not see a key, [B, 1, queries of the run, the last of the S keys]:
    every query of the run sees all keys before those."""


QUERIES_PER_RUN = {"cpu": 64, "cuda": 256}
"""Fewer would save more of the masked work and pay for it in calls."""


def device_kind(tensor: Tensor) -> Literal["cpu", "cuda"]:
    """What choices of block sizes depend on; every device that is no processor counts as a GPU."""
    return "cpu" if tensor.device.type == "cpu" else "cuda"


def compute_dtype(x: Tensor) -> torch.dtype:
    """What matrix products and attention of `x` are computed in here: autocast's precision where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def prefix_of(positions_BK: Tensor, length: int, d_head: int, dtype: torch.dtype) -> Prefix | BlockMask:
    """The prefix of queries at the given ascending positions of a sequence, for heads and a precision like these."""
    if positions_BK.device.type == "cuda" and dtype in HALF and d_head >= SPARSE_MIN_D_HEAD:
        return sparse_prefix_of(positions_BK, length)
    runs = positions_BK.split(QUERIES_PER_RUN[device_kind(positions_BK)], dim=1)
    # One wait for the device, whatever the number of runs and layers.
    ends = torch.stack([torch.stack((run.amin(), run.amax())) for run in runs]).tolist()
    places = torch.arange(max(high for _, high in ends) + 1, device=positions_BK.device)
    hidden = (places[low : high + 1] > run.unsqueeze(-1) for run, (low, high) in zip(runs, ends, strict=True))
    return Prefix(tuple(high + 1 for _, high in ends), tuple(hidden_BKS.unsqueeze(1) for hidden_BKS in hidden))


def causal_attention(q_BHTC: Tensor, k_BGTC: Tensor, v_BGTC: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(C)) v over each token's predecessors and itself, [B, H, T, C]."""
    if _takes_blocks(q_BHTC):
        return _BlockAttention.apply(q_BHTC, k_BGTC, v_BGTC, None)  # pyright: ignore
    if q_BHTC.device.type == "cuda" and q_BHTC.dtype not in HALF:
        k_BGTC, v_BGTC = _spread(q_BHTC, k_BGTC), _spread(q_BHTC, v_BGTC)
    grouped = q_BHTC.shape[1] != k_BGTC.shape[1]
    return F.scaled_dot_product_attention(q_BHTC, k_BGTC, v_BGTC, is_causal=True, enable_gqa=grouped)


def _spread(q_BHKC: Tensor, kv_BGTC: Tensor) -> Tensor:
    """Keys or values repeated for each head that shares them: fused CUDA kernels take grouped heads only in half
    precision and without a mask, and the unfused one keeps every square of scores."""
    spread = q_BHKC.shape[1] // kv_BGTC.shape[1]
    return kv_BGTC.repeat_interleave(spread, dim=1) if spread > 1 else kv_BGTC


def prefix_attention(q_BHKC: Tensor, k_BGTC: Tensor, v_BGTC: Tensor, prefix: Prefix | BlockMask) -> Tensor:
    """The same for packed queries over the keys of the whole sequence up to each query's position, [B, H, K, C]."""
    if isinstance(prefix, BlockMask):
        return sparse_prefix_attention(q_BHKC, k_BGTC, v_BGTC, prefix)
    if _takes_blocks(q_BHKC):
        return _BlockAttention.apply(q_BHKC, k_BGTC, v_BGTC, prefix)  # pyright: ignore
    k_BHTC, v_BHTC = _spread(q_BHKC, k_BGTC), _spread(q_BHKC, v_BGTC)
    queries = q_BHKC.split([hidden.shape[2] for hidden in prefix.hidden], dim=2)
    return torch.cat(
        [
            F.scaled_dot_product_attention(
                q,
                k_BHTC[:, :, :keys],
                v_BHTC[:, :, :keys],
                attn_mask=F.pad(~hidden, (keys - hidden.shape[3], 0), value=True),
            )
            for q, keys, hidden in zip(queries, prefix.keys, prefix.hidden, strict=True)
        ],
        dim=2,
    )


def _takes_blocks(q_BHTC: Tensor) -> bool:
    return q_BHTC.device.type == "cpu" and q_BHTC.dtype == torch.bfloat16


class _Block(NamedTuple):
    """Some of the queries, and what they look at."""

    queries: slice
    """Which of them."""
    keys: int
    """S."""
    hidden: Tensor
    """True where a query must not see a key; its last dimensions are [K, S'], the last S' of the S keys."""


class _BlockAttention(torch.autograd.Function):
    """Scores, softmax and sums are in fp32 (fp64 for fp64), matrix products in the tensors' own precision."""

    @staticmethod
    def forward(ctx: Any, q_BHTC: Tensor, k_BGTC: Tensor, v_BGTC: Tensor, prefix: Prefix | None) -> Tensor:
        k_NTC, v_NTC = k_BGTC.flatten(0, 1), v_BGTC.flatten(0, 1)
        groups = k_BGTC.shape[1]
        y_BHTC = _like_a_layers(q_BHTC)
        log_sums = []
        ctx.prefix = prefix
        for block in _blocks(q_BHTC, prefix):
            scores_NQS = _scores(_folded(q_BHTC, block, groups), k_NTC[:, : block.keys], block, groups)
            softmax_NQS = scores_NQS.softmax(dim=-1)
            # The highest score less the logarithm of its probability is the logarithm of the sum of exponentials.
            log_sums.append(scores_NQS.amax(dim=-1, keepdim=True) - softmax_NQS.amax(dim=-1, keepdim=True).log())
            y_NQC = torch.bmm(softmax_NQS.to(v_NTC.dtype), v_NTC[:, : block.keys])
            y_BHTC[:, :, block.queries] = y_NQC.view(y_BHTC[:, :, block.queries].shape)
        ctx.save_for_backward(q_BHTC, k_BGTC, v_BGTC, y_BHTC, *log_sums)
        return y_BHTC

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        return *_gradients(ctx, *grad_outputs), None


@once_differentiable
def _gradients(ctx: Any, dy_BHTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q_BHTC, k_BGTC, v_BGTC, y_BHTC, *log_sums = ctx.saved_tensors
    k_NTC, v_NTC, groups = k_BGTC.flatten(0, 1), v_BGTC.flatten(0, 1), k_BGTC.shape[1]
    dq_BHTC = _like_a_layers(q_BHTC)
    dk_NTC = torch.zeros_like(k_NTC, dtype=log_sums[0].dtype, memory_format=torch.contiguous_format)
    dv_NTC = torch.zeros_like(dk_NTC)
    for block, log_sum_NQ1 in zip(_blocks(q_BHTC, ctx.prefix), log_sums, strict=True):
        q_NQC, dy_NQC, y_NQC = (_folded(each, block, groups) for each in (q_BHTC, dy_BHTC, y_BHTC))
        keys_NSC, values_NSC = k_NTC[:, : block.keys], v_NTC[:, : block.keys]
        softmax_NQS = (_scores(q_NQC, keys_NSC, block, groups) - log_sum_NQ1).exp()
        dv_NTC[:, : block.keys] += torch.bmm(softmax_NQS.to(q_NQC.dtype).transpose(1, 2), dy_NQC)
        shift_NQ1 = (dy_NQC.to(log_sum_NQ1.dtype) * y_NQC).sum(dim=-1, keepdim=True)
        dsoftmax_NQS = torch.bmm(dy_NQC, values_NSC.transpose(1, 2))
        dscores_NQS = (softmax_NQS * (dsoftmax_NQS - shift_NQ1) / math.sqrt(q_NQC.shape[-1])).to(q_NQC.dtype)
        dq_BHTC[:, :, block.queries] = torch.bmm(dscores_NQS, keys_NSC).view(dq_BHTC[:, :, block.queries].shape)
        dk_NTC[:, : block.keys] += torch.bmm(dscores_NQS.transpose(1, 2), q_NQC)
    return dq_BHTC, dk_NTC.view(k_BGTC.shape).to(k_BGTC.dtype), dv_NTC.view(v_BGTC.shape).to(v_BGTC.dtype)


def _like_a_layers(x_BHTC: Tensor) -> Tensor:
    """An empty tensor of the same shape, whose heads lie inside its tokens, so that a layer can join them in place."""
    batch, heads, tokens, width = x_BHTC.shape
    return x_BHTC.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _blocks(q_BHTC: Tensor, prefix: Prefix | None) -> Iterator[_Block]:
    """Of a whole sequence: each block hides the upper half of its own square. Of packed queries: the prefix's runs."""
    if prefix is not None:
        start = 0
        for keys, hidden in zip(prefix.keys, prefix.hidden, strict=True):
            stop = start + hidden.shape[2]
            yield _Block(slice(start, stop), keys, hidden)
            start = stop
        return
    for start in range(0, q_BHTC.shape[2], BLOCK_TOKENS):
        stop = min(start + BLOCK_TOKENS, q_BHTC.shape[2])
        square_KK = torch.ones(stop - start, stop - start, dtype=torch.bool, device=q_BHTC.device)
        yield _Block(slice(start, stop), stop, square_KK.triu(1))


def _folded(x_BHTC: Tensor, block: _Block, groups: int) -> Tensor:
    """A block's queries, those of all heads that share keys one after another: [N, Q, C]."""
    x_BHKC = x_BHTC[:, :, block.queries]
    batch, heads, tokens, width = x_BHKC.shape
    return x_BHKC.reshape(batch * groups, heads // groups * tokens, width)


def _scores(q_NQC: Tensor, keys_NSC: Tensor, block: _Block, groups: int) -> Tensor:
    """q k^T / sqrt(C), minus infinity where a query must not see a key."""
    products_NQS = torch.bmm(q_NQC, keys_NSC.transpose(1, 2))
    precision = torch.promote_types(products_NQS.dtype, torch.float32)
    scores_NQS = products_NQS.to(precision) / math.sqrt(q_NQC.shape[-1])
    tokens, masked = block.hidden.shape[-2:]
    # [B, G, heads of a group, K, S]: the mask is the same for every head.
    by_head = scores_NQS.view(-1, groups, q_NQC.shape[1] // tokens, tokens, block.keys)
    hidden = block.hidden.unsqueeze(2) if block.hidden.dim() == 4 else block.hidden
    by_head[..., block.keys - masked :].masked_fill_(hidden, -math.inf)
    return scores_NQS
