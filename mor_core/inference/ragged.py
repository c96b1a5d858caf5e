"""Layers over a ragged batch: tokens of many sequences, each at a depth and with a past of its own.

Matrix products see one flat list of tokens, so nothing is padded there. Attention reads each token's visible slots:
single tokens of sequences (decoding) share one padded call, those of a prompt get a call a sequence.

What layers do to some tokens is known by numbers, which the device is told, and by their shape, which decides what the
device does.

Shapes: N tokens of one run, W sequences of one run, B single tokens, K tokens of one prompt, S visible slots, H query
heads, G key and value heads, Q = H / G, C head width, P tables, T tokens of a context.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mor_core.inference.kv_cache import KeyValueCache, SlotPool
from mor_core.model.layers import Attention, Layer, rotate_in_place
from mor_core.model.transformer import Transformer

Column = TypeVar("Column", np.ndarray, Tensor)


class Tokens(NamedTuple, Generic[Column]):
    """Numbers of tokens that go through the same layers: arrays of the host, or tensors of the device."""

    rows: Column
    """Where each token's vectors are, in the tables of what tokens carry."""
    positions: Column
    """Of each in its sequence."""
    hidden: Column
    """For each, how many entries of a whole context it does not see."""
    tables: Column
    """The cache's table that each single token reads; of prompts, the shape has it."""
    slots: Column
    """Where keys and values are written: a slot for each token that leaves some."""
    places: Column
    """Places in the tables, counted through all of them, that name these slots from now on; as many for each."""
    writers: Column
    """Which tokens leave keys and values; none where all do, or nobody does."""
    notes: Column
    """What else a stage needs to know of each: its id, its recursion, or how it is drawn."""


class Prompt(NamedTuple):
    """Tokens of one sequence in a run."""

    start: int
    """The first of them, among the run's."""
    stop: int
    """The one behind the last."""
    table: int
    """Which they read."""
    longest: int
    """Entries of it that the last of them sees."""


class Shape(NamedTuple):
    """What decides the operations of layers. Runs of one shape differ in their numbers alone."""

    lengths: tuple[int, ...]
    """Of each column of numbers."""
    longest: int
    """Entries that the attention of single tokens reads."""
    is_masked: bool
    """Whether some of those tokens see fewer."""
    prompts: tuple[Prompt, ...] = ()
    """Empty where all are single tokens."""


class Part(NamedTuple, Generic[Column]):
    """Tokens that go through the same layers, in a run."""

    tokens: Tokens[Column]
    shape: Shape


def in_order(parts: Sequence[Part[np.ndarray]]) -> np.ndarray:
    """All numbers one after another: the device is told them at once, since a transfer costs more than what is in
    it."""
    return np.concatenate([column.reshape(-1) for part in parts for column in part.tokens if column.size])


def on_device(numbers: Tensor, shapes: Sequence[Shape]) -> list[Part[Tensor]]:
    """What `in_order` put together, on the device."""
    columns = iter(numbers.split_with_sizes([length for shape in shapes for length in shape.lengths]))
    return [Part(Tokens(*(next(columns) for _ in shape.lengths)), shape) for shape in shapes]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tokens whose attention is one call."""

    tokens: slice
    """Which of the N tokens."""
    slots_BS: Tensor
    """What each sequence of the group reads; whatever a mask hides may be any slot."""
    mask: Tensor | None
    """0 where a query sees a slot, else minus infinity, [B, 1, queries, S] or [B, 1, 1, S]; None hides nothing."""
    is_prompt: bool
    """One sequence of many tokens instead of many of one."""


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

    @cached_property
    def reading(self) -> "Run":
        """The same for a layer that writes nothing."""
        return replace(self, writers=self.slots[:0], slots=self.slots[:0])


def run_of(model: Transformer, cache: KeyValueCache, part: Part[Tensor]) -> Run:
    """Enter what is new into the tables and divide the attention into calls, the same for all layers."""
    tokens, shape = part
    if len(tokens.places):
        named = tokens.slots.repeat_interleave(len(tokens.places) // len(tokens.slots))
        cache.tables_PT.view(-1).index_copy_(0, tokens.places, named)
    config, dtype = model.config, model.embedding.weight.dtype
    groups: list[Group] = []
    if not shape.prompts:
        slots_BS = cache.tables_PT[:, : shape.longest].index_select(0, tokens.tables)
        mask = _mask(cache.tables_PT, tokens.hidden, shape.longest, dtype)[:, None, None] if shape.is_masked else None
        groups.append(Group(tokens=slice(None), slots_BS=slots_BS, mask=mask, is_prompt=False))
    for start, stop, table, longest in shape.prompts:
        where, table_T = slice(start, stop), cache.tables_PT[table]
        mask = _mask(table_T, tokens.hidden[where], longest, dtype)
        mask = mask.repeat(config.num_heads // config.num_kv_heads, 1)[None, None]
        groups.append(Group(tokens=where, slots_BS=table_T[None, :longest], mask=mask, is_prompt=True))
    cos_1N1C, sin_1N1C = model.rotary_table.index_select(1, tokens.positions)[:, None, :, None]
    all_write = len(tokens.slots) > 0 and not len(tokens.writers)
    return Run(
        rotary=(cos_1N1C, sin_1N1C),
        groups=groups,
        writers=None if all_write else tokens.writers,
        slots=tokens.slots,
    )


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
    attention, mlp, kv_S2GC = layer.attention, layer.mlp, pool.kv_LS2GC[lane]
    q_NHC = _project_and_write(attention, layer.attention_norm(x_ND), run, kv_S2GC)
    x_ND = x_ND + attention.out(_attend(q_NHC, run.groups, kv_S2GC).flatten(1))
    # Nobody else has this sum, so what the MLP adds is added by its last product.
    return x_ND.addmm_(mlp.hidden(layer.mlp_norm(x_ND)), mlp.down.weight.t())


def _project_and_write(attention: Attention, x_ND: Tensor, run: Run, kv_S2GC: Tensor) -> Tensor:
    """Queries of all tokens, [N, H, C]; keys and values of those that leave some."""
    if run.writers is not None and not len(run.writers):
        return attention.queries(x_ND[None], run.rotary)[0].transpose(0, 1)
    if run.writers is None or 2 * len(run.writers) >= len(x_ND):
        # One product of all is faster than two where most are wanted of both.
        heads, groups = attention.num_heads, attention.num_kv_heads
        qkv = attention.qkv(x_ND).unflatten(-1, (-1, attention.d_head))
        rotate_in_place(qkv[None, :, : heads + groups], run.rotary)
        q_NHC, kv_N2GC = qkv[:, :heads], qkv[:, heads:].unflatten(1, (2, groups))
        kv_W2GC = kv_N2GC if run.writers is None else kv_N2GC.index_select(0, run.writers)
    else:
        q_NHC = attention.queries(x_ND[None], run.rotary)[0].transpose(0, 1)
        kv = attention.keys_values(x_ND[run.writers][None], run.writers_rotary)
        kv_W2GC = torch.stack([vectors[0].transpose(0, 1) for vectors in kv], dim=1)
    kv_S2GC.index_copy_(0, run.slots, kv_W2GC)
    return q_NHC


def _attend(q_NHC: Tensor, groups: list[Group], kv_S2GC: Tensor) -> Tensor:
    if len(groups) == 1 and not groups[0].is_prompt:
        return _read(q_NHC, groups[0], kv_S2GC)
    y_NHC = torch.empty_like(q_NHC, memory_format=torch.contiguous_format)
    for group in groups:
        y_NHC[group.tokens] = _read(q_NHC[group.tokens], group, kv_S2GC)
    return y_NHC


def _any_length(device: torch.device) -> AbstractContextManager[object]:
    """Attention whose lengths hardly ever come again: cuDNN would plan each anew, which takes 35 ms on an H100's
    host."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _read(q_KHC: Tensor, group: Group, kv_S2GC: Tensor) -> Tensor:
    """Heads that share keys are further queries of one head, so that keys need no copies for them."""
    tokens, heads, width = q_KHC.shape
    batch, length = group.slots_BS.shape
    kv_BS2GC = kv_S2GC.index_select(0, group.slots_BS.reshape(-1)).view(batch, length, *kv_S2GC.shape[1:])
    k_BGSC, v_BGSC = kv_BS2GC[:, :, 0].transpose(1, 2), kv_BS2GC[:, :, 1].transpose(1, 2)
    groups = k_BGSC.shape[1]
    if group.is_prompt:
        q_BGQC = q_KHC.view(tokens, groups, heads // groups, width).permute(1, 2, 0, 3).flatten(1, 2)[None]
        with _any_length(q_BGQC.device):
            y_BGQC = F.scaled_dot_product_attention(q_BGQC, k_BGSC, v_BGSC, attn_mask=group.mask)
        return y_BGQC[0].unflatten(1, (heads // groups, tokens)).permute(2, 0, 1, 3).reshape(tokens, heads, width)
    q_BGQC = q_KHC.reshape(tokens, groups, heads // groups, width)
    return F.scaled_dot_product_attention(q_BGQC, k_BGSC, v_BGSC, attn_mask=group.mask).reshape(tokens, heads, width)
