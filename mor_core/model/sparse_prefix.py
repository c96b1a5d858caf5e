"""Attention of packed queries to the keys of their whole sequence on a GPU, in half precision: one fused kernel.

torch's FlexAttention skips every block of keys that a block of queries does not see, and asks for no mask where it sees
all of them. Which blocks those are follows from the lowest and the highest position of each block of queries; it is
computed on the device, so the host never waits for positions.

Shapes: B sequences, T tokens, K queries, P blocks of queries, S blocks of keys, H query heads, G key and value heads,
C head width.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128
"""Queries, and keys, of a block: what the kernel is tuned for."""

SPARSE_MIN_D_HEAD = 16
"""Narrower heads are not implemented in the kernel."""


def sparse_prefix_of(positions_BK: Tensor, length: int) -> BlockMask:
    """Each query at its position in a sequence of `length` tokens sees the keys up to that position."""
    queries = positions_BK.shape[1]
    num_blocks, num_key_blocks = -(-queries // BLOCK), -(-length // BLOCK)
    # The last block is filled up with its last query again, which changes neither its lowest nor its highest position.
    places = torch.arange(num_blocks * BLOCK, device=positions_BK.device).clamp(max=queries - 1)
    positions_BK = positions_BK[:, places].contiguous()
    lowest_BP, highest_BP = positions_BK.unflatten(1, (num_blocks, BLOCK)).aminmax(dim=2)
    full_BP = (lowest_BP + 1) // BLOCK
    partial_BP = highest_BP // BLOCK + 1 - full_BP
    order_BPS = torch.arange(num_key_blocks, device=positions_BK.device).expand(*full_BP.shape, -1)
    # Of each row of block numbers only so many entries count as the block has; the rest must be valid numbers.
    partly_BPS = (order_BPS + full_BP.unsqueeze(-1)).clamp(max=num_key_blocks - 1)

    def sees(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= positions_BK[sequence, query]

    def per_head(blocks: Tensor) -> Tensor:
        return blocks.unsqueeze(1).to(torch.int32).contiguous()

    return BlockMask.from_kv_blocks(
        per_head(partial_BP),
        per_head(partly_BPS),
        per_head(full_BP),
        per_head(order_BPS),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(queries, length),
    )


def sparse_prefix_attention(q_BHKC: Tensor, k_BGTC: Tensor, v_BGTC: Tensor, mask: BlockMask) -> Tensor:
    """Softmax(q k^T / sqrt(C)) v over what the mask lets each query see, [B, H, K, C]."""
    attend = flex_attention if torch.compiler.is_compiling() else _compiled()
    grouped = q_BHKC.shape[1] != k_BGTC.shape[1]
    y_BHKC = attend(q_BHKC, k_BGTC, v_BGTC, block_mask=mask, enable_gqa=grouped)
    assert isinstance(y_BHKC, Tensor)
    return y_BHKC


@cache
def _compiled() -> Callable[..., Any]:
    """The kernel, made once a process; the number of queries may change from call to call."""
    return torch.compile(flex_attention)
