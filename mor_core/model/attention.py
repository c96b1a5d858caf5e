"""Attention to predecessors: fused kernels, and on a CPU in bf16 one of matrix products over blocks of queries.

torch's CPU kernel computes bf16 attention at a tenth of the rate of its own matrix products. Here, as in flash
attention (Dao et al. 2022, arXiv 2205.14135), one block of queries meets the keys up to its end, and its softmax is
computed again in the backward pass, so that no square of scores is kept. On a CPU a pass over the scores costs as much
as a product that makes them, so there are few: products are added to the mask, and the softmax reads and writes bf16.

Shapes: B sequences, T tokens, H query heads, G key and value heads, C head width, N = B G independent heads, K tokens
of a block, Q = K H / G queries that share a head's keys, S keys that a block looks at.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask

from mor_core.model.device import device_kind
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
    masks: tuple[Tensor, ...]
    """Of each run, 0 where a query sees a key, else minus infinity, [B, 1, queries of the run, S]."""


QUERIES_PER_RUN = {"cpu": 64, "cuda": 256}
"""Fewer would save more of the masked work and pay for it in calls."""


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
    lengths = (torch.stack([run.amax() for run in runs]) + 1).tolist()
    places = torch.arange(max(lengths), device=positions_BK.device)
    hidden = (places[:keys] > run.unsqueeze(-1) for run, keys in zip(runs, lengths, strict=True))
    return Prefix(tuple(lengths), tuple(_mask(hidden_BKS.unsqueeze(1), dtype) for hidden_BKS in hidden))


def _mask(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores so that softmax gives nothing to hidden keys."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -math.inf)


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
    queries = q_BHKC.split([mask.shape[2] for mask in prefix.masks], dim=2)
    return torch.cat(
        [
            F.scaled_dot_product_attention(q, k_BHTC[:, :, :keys], v_BHTC[:, :, :keys], attn_mask=mask)
            for q, keys, mask in zip(queries, prefix.keys, prefix.masks, strict=True)
        ],
        dim=2,
    )


def as_read(kv_BGTC: Tensor) -> Tensor:
    """Keys or values as attention reads them: laid out for its products once, however many recursions read them."""
    return kv_BGTC.contiguous() if _takes_blocks(kv_BGTC) else kv_BGTC


def _takes_blocks(x_BHTC: Tensor) -> bool:
    return x_BHTC.device.type == "cpu" and x_BHTC.dtype == torch.bfloat16


class _Block(NamedTuple):
    """Some of the queries, and what they look at."""

    queries: slice
    """Which of them."""
    keys: int
    """S."""
    mask: Tensor
    """0 or minus infinity; [K, S], the same for every head and sequence, or [B, 1, K, S]."""


class _BlockAttention(torch.autograd.Function):
    """Tensors are in one precision throughout; sums, and what happens within a softmax, are in fp32 at least."""

    @staticmethod
    def forward(ctx: Any, q_BHTC: Tensor, k_BGTC: Tensor, v_BGTC: Tensor, prefix: Prefix | None) -> Tensor:
        k_NTC, v_NTC = k_BGTC.flatten(0, 1), v_BGTC.flatten(0, 1)
        groups = k_BGTC.shape[1]
        y_BHTC = _like_a_layers(q_BHTC)
        ctx.prefix, ctx.groups = prefix, groups
        for block in _blocks(q_BHTC, prefix):
            softmax_NQS = _softmax(_folded(q_BHTC, block, groups), k_NTC[:, : block.keys], block, groups)
            y_NQC = torch.bmm(softmax_NQS, v_NTC[:, : block.keys])
            y_BHTC[:, :, block.queries] = y_NQC.view(y_BHTC[:, :, block.queries].shape)
        ctx.save_for_backward(q_BHTC, k_NTC, v_NTC)
        return y_BHTC

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        return *_gradients(ctx, *grad_outputs), None


@once_differentiable
def _gradients(ctx: Any, dy_BHTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q_BHTC, k_NTC, v_NTC = ctx.saved_tensors
    dq_BHTC = _like_a_layers(q_BHTC)
    precision = torch.promote_types(k_NTC.dtype, torch.float32)
    dk_NTC, dv_NTC = torch.zeros_like(k_NTC, dtype=precision), torch.zeros_like(v_NTC, dtype=precision)
    for block in _blocks(q_BHTC, ctx.prefix):
        q_NQC, dy_NQC = _folded(q_BHTC, block, ctx.groups), _folded(dy_BHTC, block, ctx.groups)
        keys_NSC, values_NSC = k_NTC[:, : block.keys], v_NTC[:, : block.keys]
        softmax_NQS = _softmax(q_NQC, keys_NSC, block, ctx.groups)
        dv_NTC[:, : block.keys] += torch.bmm(softmax_NQS.transpose(1, 2), dy_NQC)
        dsoftmax_NQS = torch.bmm(dy_NQC, values_NSC.transpose(1, 2))
        dscores_NQS = torch.ops.aten._softmax_backward_data(dsoftmax_NQS, softmax_NQS, -1, softmax_NQS.dtype)
        dq_NQC = torch.bmm(dscores_NQS, keys_NSC).mul_(_scale(q_NQC))
        dq_BHTC[:, :, block.queries] = dq_NQC.view(dq_BHTC[:, :, block.queries].shape)
        dk_NTC[:, : block.keys] += torch.bmm(dscores_NQS.transpose(1, 2), q_NQC)
    dk_NTC *= _scale(q_BHTC)
    dk_BGTC, dv_BGTC = (
        gradient_NTC.to(k_NTC.dtype).unflatten(0, (-1, ctx.groups)) for gradient_NTC in (dk_NTC, dv_NTC)
    )
    return dq_BHTC, dk_BGTC, dv_BGTC


def _like_a_layers(x_BHTC: Tensor) -> Tensor:
    """An empty tensor of the same shape, whose heads lie inside its tokens, so that a layer can join them in place."""
    batch, heads, tokens, width = x_BHTC.shape
    return x_BHTC.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _blocks(q_BHTC: Tensor, prefix: Prefix | None) -> Iterator[_Block]:
    """Of a whole sequence: each block hides the upper half of its own square. Of packed queries: the prefix's runs."""
    if prefix is not None:
        start = 0
        for keys, mask in zip(prefix.keys, prefix.masks, strict=True):
            stop = start + mask.shape[2]
            yield _Block(slice(start, stop), keys, mask)
            start = stop
        return
    tokens = q_BHTC.shape[2]
    rows = min(BLOCK_TOKENS, tokens)
    # Of the last block of a sequence, whose square ends its keys. Others have fewer keys before theirs.
    hidden_KS = torch.ones(rows, tokens, dtype=torch.bool, device=q_BHTC.device).triu(1 + tokens - rows)
    mask_KS = _mask(hidden_KS, q_BHTC.dtype)
    for start in range(0, tokens, rows):
        stop = min(start + rows, tokens)
        yield _Block(slice(start, stop), stop, mask_KS[start - stop :, tokens - stop :])


def _folded(x_BHTC: Tensor, block: _Block, groups: int) -> Tensor:
    """A block's queries, those of all heads that share keys one after another: [N, Q, C]."""
    x_BHKC = x_BHTC[:, :, block.queries]
    batch, heads, tokens, width = x_BHKC.shape
    return x_BHKC.reshape(batch * groups, heads // groups * tokens, width)


def _softmax(q_NQC: Tensor, keys_NSC: Tensor, block: _Block, groups: int) -> Tensor:
    """Softmax over keys of q k^T / sqrt(C), 0 where a query must not see a key; [N, Q, S]."""
    tokens = block.mask.shape[-2]
    scores_NQS = q_NQC.new_empty(q_NQC.shape[0], q_NQC.shape[1], block.keys)
    # [B, G, heads of a group, K, S]: the mask is the same for every head.
    by_head = scores_NQS.view(-1, groups, q_NQC.shape[1] // tokens, tokens, block.keys)
    by_head.copy_(block.mask.unsqueeze(2) if block.mask.dim() == 4 else block.mask)
    return scores_NQS.baddbmm_(q_NQC, keys_NSC.transpose(1, 2), alpha=_scale(q_NQC)).softmax(dim=-1)


def _scale(q: Tensor) -> float:
    return 1 / math.sqrt(q.shape[-1])
