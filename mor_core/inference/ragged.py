"""One layer over a ragged batch: tokens of many sequences, each at a depth and with a past of its own.

Matrix products see one flat list of tokens, so nothing is padded there. Attention reads each token's visible slots:
tokens that are alone in their sequence (decoding) share one padded call, those of a prompt get a call a sequence.

Shapes: N tokens of one run, W sequences of one run, B tokens that are alone, K tokens of one prompt, S visible slots,
H query heads, G key and value heads, Q = H / G, C head width, P tables, T tokens of a context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate, chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mor_core.inference.kv_cache import Entries, KeyValueCache, SlotPool
from mor_core.model.layers import Attention, Layer
from mor_core.model.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tokens whose attention is one call."""

    tokens: Tensor | slice
    """Which of the N tokens."""
    slots_BS: Tensor
    """What each sequence of the group reads; whatever a mask hides may be any slot."""
    mask: Tensor | None
    """0 where a query sees a slot, else minus infinity, [B, 1, queries, S] or [B, 1, 1, S]; None hides nothing."""
    is_prompt: bool
    """One sequence of many tokens instead of many of one."""


class Tokens(NamedTuple):
    """The tokens of a run, sequence after sequence, each sequence in one pass. Numbers of the host."""

    rows: Sequence[int]
    """Each sequence's row in the cache."""
    tables: Sequence[int]
    """Which of the cache's tables each sequence's tokens read."""
    counts: Sequence[int]
    """Tokens of each sequence."""
    positions: Sequence[int]
    """Of each token."""
    visible: Sequence[int]
    """For each token, how many of the table's entries it sees."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every layer of one run has in common."""

    rows_W: Tensor
    """Rows of its sequences."""
    rotary: tuple[Tensor, Tensor]
    """Cosines and sines at the tokens' positions, each [1, N, 1, C]."""
    groups: list[Group]
    """How attention reads."""
    writers: Tensor | None
    """Which tokens leave keys and values; None is all of them."""
    slots: Tensor
    """Where, one slot per writer."""

    @cached_property
    def writers_rotary(self) -> tuple[Tensor, Tensor]:
        """The writers' part of the rotary table, where not all are."""
        cos, sin = self.rotary
        return cos[:, self.writers], sin[:, self.writers]

    @cached_property
    def reading(self) -> "Run":
        """The same for a layer that writes nothing."""
        return replace(self, writers=self.slots[:0], slots=self.slots[:0])


def run_of(
    model: Transformer, cache: KeyValueCache, tokens: Tokens, new: Entries, writers: Sequence[int] | None = None
) -> Run:
    """Enter what is new into the tables and divide a run's attention into calls, the same for all its layers.

    The device is told all numbers of a run at once: a transfer costs more than what is in it.
    """
    all_alone = len(tokens.rows) == len(tokens.positions)
    starts = list(accumulate(tokens.counts, initial=0))
    alone = [i for i, count in enumerate(tokens.counts) if count == 1]
    rows_W, positions_N, hidden_N, alone_B, tables_B, slots, places, named, writers_V = _on_device(
        cache.tables_PT.device,
        tokens.rows,
        tokens.positions,
        [cache.context_length - each for each in tokens.visible],
        [] if all_alone else [starts[i] for i in alone],
        tokens.tables if all_alone else [tokens.tables[i] for i in alone],
        new.slots,
        new.places,
        new.named,
        writers or (),
    )
    if new.places:
        cache.tables_PT.view(-1).index_copy_(0, places, named)
    dtype, queries_per_key = model.embedding.weight.dtype, model.config.num_heads // model.config.num_kv_heads
    groups: list[Group] = []
    if alone:
        visible = tokens.visible if all_alone else [tokens.visible[starts[i]] for i in alone]
        where = slice(None) if all_alone else alone_B
        groups.append(_decoding_group(cache.tables_PT, tables_B, visible, hidden_N[where], where, dtype))
    for i in range(len(tokens.rows)) if not all_alone else ():
        if tokens.counts[i] > 1:
            where = slice(starts[i], starts[i + 1])
            table_T, longest = cache.tables_PT[tokens.tables[i]], max(tokens.visible[where])
            groups.append(_prompt_group(table_T, longest, hidden_N[where], where, queries_per_key, dtype))
    cos_1N1C, sin_1N1C = model.rotary_table.index_select(1, positions_N)[:, None, :, None]
    return Run(
        rows_W=rows_W,
        rotary=(cos_1N1C, sin_1N1C),
        groups=groups,
        writers=None if writers is None else writers_V,
        slots=slots,
    )


def _on_device(device: torch.device, *columns: Sequence[int]) -> Sequence[Tensor]:
    numbers = torch.tensor(list(chain.from_iterable(columns)), dtype=torch.int64).to(device)
    return numbers.split_with_sizes([len(column) for column in columns])


def _decoding_group(
    tables_PT: Tensor,
    tables_B: Tensor,
    visible: Sequence[int],
    hidden_B: Tensor,
    tokens: Tensor | slice,
    dtype: torch.dtype,
) -> Group:
    longest, shortest = max(visible), min(visible)
    slots_BS = tables_PT[:, :longest].index_select(0, tables_B)
    mask = None if shortest == longest else _mask(tables_PT, hidden_B, longest, dtype)[:, None, None]
    return Group(tokens=tokens, slots_BS=slots_BS, mask=mask, is_prompt=False)


def _prompt_group(
    table_T: Tensor, longest: int, hidden_K: Tensor, tokens: slice, queries_per_key: int, dtype: torch.dtype
) -> Group:
    mask = _mask(table_T, hidden_K, longest, dtype).repeat(queries_per_key, 1)[None, None]
    return Group(tokens=tokens, slots_BS=table_T[None, :longest], mask=mask, is_prompt=True)


def _mask(table: Tensor, hidden_K: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """0 for the entries of a table that each query sees, else minus infinity, [K, longest]; of a whole context's
    entries, it does not see `hidden`."""
    return _edge(table.shape[-1], dtype, table.device).unfold(0, longest, 1).index_select(0, hidden_K)


@cache
def _edge(context: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As many zeros as a context has tokens, then as many minus infinities: what begins v before the middle of it is
    the mask of a query that sees v entries."""
    zeros = torch.zeros(context, dtype=dtype, device=device)
    return torch.cat((zeros, torch.full_like(zeros, -torch.inf)))


def apply_layer(layer: Layer, x_ND: Tensor, run: Run, pool: SlotPool, lane: int) -> Tensor:
    """The residual stream of N tokens after a layer, whose keys and values are `lane` of the pool."""
    attention, normed_ND = layer.attention, layer.attention_norm(x_ND)
    q_NHC = _project_and_write(attention, normed_ND, run, pool.kv_LS2GC[lane])
    y_NHC = _attend(q_NHC, run.groups, pool.kv_LS2GC[lane])
    x_ND = x_ND + attention.out(y_NHC.flatten(1))
    return x_ND + layer.mlp(layer.mlp_norm(x_ND))


def _project_and_write(attention: Attention, x_ND: Tensor, run: Run, kv_S2GC: Tensor) -> Tensor:
    """Queries of all tokens, [N, H, C]; keys and values of those that leave some."""
    if run.writers is not None and not len(run.writers):
        return attention.queries(x_ND[None], run.rotary)[0].transpose(0, 1)
    if run.writers is None or 2 * len(run.writers) >= len(x_ND):
        # One product of all is faster than two where most are wanted of both.
        q_BHKC, kv = attention.project(x_ND[None], run.rotary)
        kv_N2GC = torch.stack([each[0].transpose(0, 1) for each in kv], dim=1)
        kv_W2GC = kv_N2GC if run.writers is None else kv_N2GC.index_select(0, run.writers)
    else:
        q_BHKC = attention.queries(x_ND[None], run.rotary)
        kv = attention.keys_values(x_ND[run.writers][None], run.writers_rotary)
        kv_W2GC = torch.stack([each[0].transpose(0, 1) for each in kv], dim=1)
    kv_S2GC.index_copy_(0, run.slots, kv_W2GC)
    return q_BHKC[0].transpose(0, 1)


def _attend(q_NHC: Tensor, groups: list[Group], kv_S2GC: Tensor) -> Tensor:
    if len(groups) == 1 and not groups[0].is_prompt:
        return _read(q_NHC, groups[0], kv_S2GC)
    y_NHC = torch.empty_like(q_NHC, memory_format=torch.contiguous_format)
    for group in groups:
        y_NHC[group.tokens] = _read(q_NHC[group.tokens], group, kv_S2GC)
    return y_NHC


def _read(q_KHC: Tensor, group: Group, kv_S2GC: Tensor) -> Tensor:
    """Heads that share keys are further queries of one head, so that keys need no copies for them."""
    tokens, heads, width = q_KHC.shape
    batch, length = group.slots_BS.shape
    kv_BS2GC = kv_S2GC.index_select(0, group.slots_BS.reshape(-1)).view(batch, length, *kv_S2GC.shape[1:])
    k_BGSC, v_BGSC = kv_BS2GC[:, :, 0].transpose(1, 2), kv_BS2GC[:, :, 1].transpose(1, 2)
    groups = k_BGSC.shape[1]
    if group.is_prompt:
        q_BGQC = q_KHC.view(tokens, groups, heads // groups, width).permute(1, 2, 0, 3).flatten(1, 2)[None]
        y_BGQC = F.scaled_dot_product_attention(q_BGQC, k_BGSC, v_BGSC, attn_mask=group.mask)
        return y_BGQC[0].unflatten(1, (heads // groups, tokens)).permute(2, 0, 1, 3).reshape(tokens, heads, width)
    q_BGQC = q_KHC.reshape(tokens, groups, heads // groups, width)
    return F.scaled_dot_product_attention(q_BGQC, k_BGSC, v_BGSC, attn_mask=group.mask).reshape(tokens, heads, width)
