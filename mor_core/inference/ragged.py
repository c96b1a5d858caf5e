"""One layer over a ragged batch: tokens of many sequences, each at a depth and with a past of its own.

Matrix products see one flat list of tokens, so nothing is padded there. Attention reads each token's visible slots:
tokens that are alone in their sequence (decoding) share one padded call, those of a prompt get a call a sequence.

Shapes: N tokens of one run, B of them alone, K tokens of one prompt, S visible slots, H query heads, G key and value
heads, Q = H / G, C head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mor_core.inference.kv_cache import SlotPool
from mor_core.model.layers import Attention, Layer


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


class Segment(NamedTuple):
    """Consecutive tokens of a run that belong to one sequence and one pass."""

    row: int
    """The sequence's row in the tables."""
    table: int
    """Which of its tables is read: 0 of the unshared layers, 1 + r of pass r."""
    visible: Sequence[int]
    """For each token, how many of the table's entries it sees."""


def groups_of(
    tables_QPT: Tensor, segments: Sequence[Segment], queries_per_group: int, dtype: torch.dtype
) -> list[Group]:
    """How the attention of a run is divided into calls; the same for all of its layers."""
    starts, n = [], 0
    for segment in segments:
        starts.append(n)
        n += len(segment.visible)
    alone = [i for i, segment in enumerate(segments) if len(segment.visible) == 1]
    groups = [
        _prompt_group(tables_QPT, segment, start, queries_per_group, dtype)
        for start, segment in zip(starts, segments, strict=True)
        if len(segment.visible) > 1
    ]
    if alone:
        tokens = slice(None) if len(alone) == n else torch.tensor([starts[i] for i in alone], device=tables_QPT.device)
        groups.append(_decoding_group(tables_QPT, [segments[i] for i in alone], tokens, dtype))
    return groups


def _decoding_group(tables_QPT: Tensor, segments: list[Segment], tokens: Tensor | slice, dtype: torch.dtype) -> Group:
    per_sequence = tables_QPT.shape[1]
    columns = [[each.row * per_sequence + each.table for each in segments], [each.visible[0] for each in segments]]
    tables_B, visible_B = torch.tensor(columns).to(tables_QPT.device).unbind()
    longest, shortest = max(columns[1]), min(columns[1])
    slots_BS = tables_QPT.view(-1, tables_QPT.shape[2])[:, :longest].index_select(0, tables_B)
    mask = None if shortest == longest else _mask(tables_QPT, visible_B, longest, dtype)[:, None, None]
    return Group(tokens=tokens, slots_BS=slots_BS, mask=mask, is_prompt=False)


def _prompt_group(
    tables_QPT: Tensor, segment: Segment, start: int, queries_per_group: int, dtype: torch.dtype
) -> Group:
    visible_K = torch.tensor(segment.visible, device=tables_QPT.device)
    longest = max(segment.visible)
    mask_KS = _mask(tables_QPT, visible_K, longest, dtype)
    return Group(
        tokens=slice(start, start + len(segment.visible)),
        slots_BS=tables_QPT[segment.row, segment.table, None, :longest],
        mask=mask_KS.repeat(queries_per_group, 1)[None, None],
        is_prompt=True,
    )


def _mask(tables_QPT: Tensor, visible_K: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """0 for the entries of a table that each query sees, else minus infinity; [K, longest]."""
    context = tables_QPT.shape[2]
    return _edge(context, dtype, tables_QPT.device).unfold(0, longest, 1).index_select(0, context - visible_K)


@cache
def _edge(context: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As many zeros as a context has tokens, then as many minus infinities: what begins v before the middle of it is
    the mask of a query that sees v entries."""
    zeros = torch.zeros(context, dtype=dtype, device=device)
    return torch.cat((zeros, torch.full_like(zeros, -torch.inf)))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every layer of one run has in common."""

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


def apply_layer(layer: Layer, x_ND: Tensor, run: Run, pool: SlotPool, lane: int) -> Tensor:
    """The residual stream of N tokens after a layer, whose keys and values are `lane` of the pool."""
    attention, normed_ND = layer.attention, layer.attention_norm(x_ND)
    q_NHC = _project_and_write(attention, normed_ND, run, pool.kv_LS2GC[lane])
    y_NHC = _attend(q_NHC, run.groups, pool.kv_LS2GC[lane])
    x_ND = x_ND + attention.out(y_NHC.flatten(1))
    return x_ND + layer.mlp(layer.mlp_norm(x_ND))


def _project_and_write(attention: Attention, x_ND: Tensor, run: Run, kv_S2GC: Tensor) -> Tensor:
    if run.writers is None:
        q_BHKC, kv = attention.project(x_ND[None], run.rotary)
    else:
        q_BHKC, kv = attention.queries(x_ND[None], run.rotary), None
        if len(run.writers):
            kv = attention.keys_values(x_ND[run.writers][None], run.writers_rotary)
    if kv is not None:
        kv_S2GC.index_copy_(0, run.slots, torch.stack([each[0].transpose(0, 1) for each in kv], dim=1))
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
