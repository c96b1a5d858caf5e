"""Layers over a ragged batch: tokens of many sequences, each at a depth and with a past of its own.

Matrix products see one flat list of tokens, so nothing is padded there. Attention reads each token's visible slots:
single tokens of sequences (decoding) share one padded call, those of a prompt (prefill) get a call a sequence.

What layers do to some tokens is known by numbers, which the device is told, and by their shape, which decides what the
device does.

Shapes: N tokens of one run, B sequences and K tokens of one call of attention, S visible slots, H query heads, G key
and value heads, Q = H / G, C head width (of heads) or columns (of numbers).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import islice
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mor_core.inference.kv_cache import KeyValueCache, SlotPool, num_passes
from mor_core.model.layers import Attention, Layer, rotate_in_place
from mor_core.model.transformer import Transformer


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

    tokens: int
    """How many."""
    notes: int
    """Of each."""
    longest: int = 0
    """Entries that the attention of single tokens reads; some of them may see fewer."""
    writes: bool = True
    """Whether some tokens leave keys and values that are read later."""
    prompts: tuple[Prompt, ...] = ()
    """Empty where all are single tokens."""


class Part(NamedTuple):
    """Tokens that go through the same layers in a run, on the device."""

    rows: Tensor
    """Where each token's vectors are, in the tables of what tokens carry."""
    positions: Tensor
    """Of each in its sequence."""
    hidden: Tensor
    """For each, how many entries of a whole context it does not see."""
    tables: Tensor
    """The cache's table that each reads."""
    slots: Tensor
    """Where its keys and values are written."""
    places: Tensor
    """Places in the tables, counted through all of them, that name these slots from now on."""
    notes: tuple[Tensor, ...]
    """What else a stage needs to know of each: its id, its recursion, or how it is drawn."""
    shape: Shape


class HostPart(NamedTuple):
    """The same on the host."""

    columns: Sequence[np.ndarray]
    """Those of `Part` in their order, and then the notes."""
    shape: Shape
    """May be of more tokens than there are: the last one is repeated then, which does the same to memory again."""


COLUMNS = len(Part._fields) - 2


def packed(parts: Sequence[HostPart]) -> np.ndarray:
    """All numbers one after another: the device is told them at once, since a transfer costs more than what is in
    it."""
    numbers = np.empty(sum([len(columns) * shape.tokens for columns, shape in parts]), np.int64)
    start = 0
    for columns, shape in parts:
        end, count = start + len(columns) * shape.tokens, len(columns[0])
        part_CN = numbers[start:end].reshape(len(columns), shape.tokens)
        part_CN[:, :count] = columns
        part_CN[:, count:] = part_CN[:, count - 1 : count]
        start = end
    return numbers


def unpacked(numbers: Tensor, shapes: Sequence[Shape]) -> list[Part]:
    """What `packed` put together, on the device."""
    columns = iter(numbers.split([shape.tokens for shape in shapes for _ in range(COLUMNS + shape.notes)]))
    return [Part._make((*islice(columns, COLUMNS), tuple(islice(columns, shape.notes)), shape)) for shape in shapes]


class Application(NamedTuple):
    """One layer that tokens go through."""

    layer: Layer
    lane: int
    """Which of its pool's layers holds its keys and values."""
    writes: bool
    """False where an earlier application of the same layer left them."""


def applications(model: Transformer) -> tuple[list[Application], list[Application], list[Application]]:
    """The layers before the block, of one pass through it, and after it, in order. A model of one pass has the first
    alone."""
    config, indices = model.config, model.config.layer_map
    edge, passes = config.num_unshared_layers // 2, num_passes(config)
    if passes == 1:
        return _applications(model, indices, first_lane=0), [], []
    end = len(indices) - edge
    block = indices[edge:end][: (end - edge) // passes]
    return (
        _applications(model, indices[:edge], first_lane=0),
        _applications(model, block, first_lane=0),
        _applications(model, indices[end:], first_lane=edge),
    )


def _applications(model: Transformer, indices: Sequence[int], first_lane: int) -> list[Application]:
    """Under shared keys, a layer that comes again reads the keys that it left before."""
    lanes = list(dict.fromkeys(indices)) if model.config.recursion.kv == "shared" else []
    return [
        Application(
            layer=cast(Layer, model.layers[index]),
            lane=first_lane + (lanes.index(index) if lanes else i),
            writes=not lanes or index not in indices[:i],
        )
        for i, index in enumerate(indices)
    ]


class Group(NamedTuple):
    """Tokens whose attention is one call."""

    tokens: slice
    """Which of the N tokens."""
    slots_BS: Tensor
    """What each sequence of the group reads; whatever a mask hides may be any slot."""
    mask: Tensor
    """0 where a query sees a slot, else minus infinity, [B, 1, queries, S]."""


def attention_groups(model: Transformer, cache: KeyValueCache, part: Part) -> list[Group]:
    """Enter what is new into the tables, and divide the attention into calls, the same for all layers."""
    shape, dtype = part.shape, model.embedding.weight.dtype
    if shape.writes:
        cache.tables_PT.view(-1).index_copy_(0, part.places, part.slots)
    if not shape.prompts:
        slots_BS = cache.tables_PT[:, : shape.longest].index_select(0, part.tables)
        mask = _mask(cache.tables_PT, part.hidden, shape.longest, dtype)[:, None, None]
        return [Group(slice(None), slots_BS, mask)]
    groups: list[Group] = []
    for start, stop, table, longest in shape.prompts:
        table_T = cache.tables_PT[table]
        mask = _mask(table_T, part.hidden[start:stop], longest, dtype)
        mask = mask.repeat(model.config.num_heads // model.config.num_kv_heads, 1)[None, None]
        groups.append(Group(slice(start, stop), table_T[None, :longest], mask))
    return groups


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


def run_layers(
    applied: Sequence[Application],
    x_ND: Tensor,
    part: Part,
    model: Transformer,
    cache: KeyValueCache,
    pool: SlotPool,
) -> Tensor:
    """The residual stream of N tokens after some layers, whose keys and values are in this pool."""
    if not applied:
        return x_ND
    groups = attention_groups(model, cache, part)
    cos_1N1C, sin_1N1C = model.rotary_table.index_select(1, part.positions)[:, None, :, None]
    for layer, lane, writes in applied:
        mlp, kv_S2GC = layer.mlp, pool.kv_LS2GC[lane]
        slots_N = part.slots if writes and part.shape.writes else None
        q_NHC = _project(layer.attention, layer.attention_norm(x_ND), (cos_1N1C, sin_1N1C), slots_N, kv_S2GC)
        x_ND = x_ND + layer.attention.out(_attend(q_NHC, groups, kv_S2GC).flatten(1))
        # Nobody else has this sum, so what the MLP adds is added by its last product.
        x_ND = x_ND.addmm_(mlp.hidden(layer.mlp_norm(x_ND)), mlp.down.weight.t())
    return x_ND


def _project(
    attention: Attention, x_ND: Tensor, rotary: tuple[Tensor, Tensor], slots_N: Tensor | None, kv_S2GC: Tensor
) -> Tensor:
    """Queries, [N, H, C]; keys and values are written to the slots, if any."""
    if slots_N is None:
        return attention.queries(x_ND[None], rotary)[0].transpose(0, 1)
    heads, groups = attention.num_heads, attention.num_kv_heads
    qkv = attention.qkv(x_ND).unflatten(-1, (-1, attention.d_head))
    rotate_in_place(qkv[None, :, : heads + groups], rotary)
    kv_S2GC.index_copy_(0, slots_N, qkv[:, heads:].unflatten(1, (2, groups)))
    return qkv[:, :heads]


def _attend(q_NHC: Tensor, groups: list[Group], kv_S2GC: Tensor) -> Tensor:
    if len(groups) == 1:
        return _read(q_NHC, groups[0], kv_S2GC)
    return torch.cat([_read(q_NHC[group.tokens], group, kv_S2GC) for group in groups])


def _any_length(device: torch.device) -> AbstractContextManager[object]:
    """Attention whose lengths hardly ever come again: cuDNN would plan each anew, which takes 35 ms on an H100's
    host."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _read(q_KHC: Tensor, group: Group, kv_S2GC: Tensor) -> Tensor:
    """Heads that share keys are further queries of one head, so that keys need no copies for them."""
    tokens, _, width = q_KHC.shape
    batch, length = group.slots_BS.shape
    kv_BS2GC = kv_S2GC.index_select(0, group.slots_BS.reshape(-1)).view(batch, length, *kv_S2GC.shape[1:])
    k_BGSC, v_BGSC = kv_BS2GC[:, :, 0].transpose(1, 2), kv_BS2GC[:, :, 1].transpose(1, 2)
    q_KGQC = q_KHC.reshape(tokens, k_BGSC.shape[1], -1, width)
    if batch == tokens:
        return F.scaled_dot_product_attention(q_KGQC, k_BGSC, v_BGSC, attn_mask=group.mask).reshape(q_KHC.shape)
    with _any_length(q_KHC.device):
        q_1GQC = q_KGQC.permute(1, 2, 0, 3).flatten(1, 2)[None]
        y_1GQC = F.scaled_dot_product_attention(q_1GQC, k_BGSC, v_BGSC, attn_mask=group.mask)
    return y_1GQC[0].unflatten(1, (-1, tokens)).permute(2, 0, 1, 3).reshape(q_KHC.shape)
