"""Keys and values of tokens that were computed: memory taken once, handed out token by token, given back at the end.

A slot holds one token's keys and values for every layer of a pool, and a table says which slots a sequence's tokens
have, in the order in which a query sees them. There are two pools: one for the unshared layers, where every token has
a slot, and one for the block, where a token has a slot for each pass that it went through and that writes keys. So an
early exit leaves memory to other sequences at once, whatever its depth.

Shapes: N tokens of one run, S slots, G key and value heads, C head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mor_core.config import ModelConfig
from mor_core.flops import kv_bytes_per_layer, kv_layout


class OutOfSlots(Exception):
    """A pool has fewer free slots than asked for."""


class SlotPool:
    """Slots of some layers, free or taken. The memory is taken when the pool is made and never grows."""

    def __init__(self, num_layers: int, num_slots: int, config: ModelConfig, dtype: torch.dtype, device: torch.device):
        shape = (num_layers, num_slots if num_layers else 0, 2, config.num_kv_heads, config.d_head)
        # Zeros rather than whatever was there: a slot that a mask hides must still hold numbers.
        self.kv_LS2GC = torch.zeros(shape, dtype=dtype, device=device)
        self.num_slots = num_slots
        self._free = np.arange(num_slots, dtype=np.int64)
        self.num_free = num_slots

    @property
    def num_bytes(self) -> int:
        """Bytes of its keys and values."""
        return self.kv_LS2GC.nbytes

    def take(self, count: int) -> list[int]:
        """Free slots, now taken. Raises OutOfSlots where there are fewer."""
        if count > self.num_free:
            raise OutOfSlots(f"{count} slots asked for, {self.num_free} of {self.num_slots} are free")
        self.num_free -= count
        return self._free[self.num_free : self.num_free + count].tolist()

    def give_back(self, slots: Sequence[int]) -> None:
        """Make slots free that `take` gave."""
        assert self.num_free + len(slots) <= self.num_slots
        self._free[self.num_free : self.num_free + len(slots)] = slots
        self.num_free += len(slots)


@dataclass(frozen=True, kw_only=True)
class PoolSizes:
    """How a budget of bytes is divided."""

    unshared: int
    """Slots of the unshared layers' pool."""
    block: int
    """Slots of the block's pool."""


def pool_sizes(config: ModelConfig, kv_bytes: int, bytes_per_number: int, sequences: int) -> PoolSizes:
    """The slots that a budget buys, in the proportion of the planned capacities, but no more than can be used."""
    layout = kv_layout(config)
    layer = kv_bytes_per_layer(config, bytes_per_number)
    mean_passes = float(sum(config.capacities)) if layout.passes > 1 else 1.0
    most = sequences * config.context_length
    tokens = min(most, int(kv_bytes / (layer * (layout.unshared + layout.block * mean_passes))))
    block = (kv_bytes - tokens * layout.unshared * layer) // (layout.block * layer)
    return PoolSizes(unshared=tokens, block=min(block, most * layout.passes))


class KeyValueCache:
    """The two pools and the tables of all sequences that run. A sequence is known by its row in the tables."""

    def __init__(self, config: ModelConfig, sizes: PoolSizes, sequences: int, dtype: torch.dtype, device: torch.device):
        layout = kv_layout(config)
        self.passes = layout.passes
        self.by_position = config.recursion.kv != "recursion-wise"
        """Whether a pass's table is indexed by position: every pass sees the whole prefix."""
        self.has_unshared = layout.unshared > 0
        self.unshared = SlotPool(layout.unshared, sizes.unshared, config, dtype, device)
        self.block = SlotPool(layout.block, sizes.block, config, dtype, device)
        tables = (sequences, 1 + self.passes, config.context_length)
        # Table 0 of a sequence is the unshared layers', table 1 + r that of pass r.
        self.tables_QPT = torch.zeros(tables, dtype=torch.int64, device=device)
        self._free_rows = list(range(sequences))[::-1]
        self._taken: dict[int, tuple[list[int], list[int]]] = {}
        self._lengths: dict[int, list[int]] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values, taken or free."""
        return self.unshared.num_bytes + self.block.num_bytes

    @property
    def num_free_rows(self) -> int:
        """Sequences that can still be opened."""
        return len(self._free_rows)

    def open(self) -> int:
        """A row for a new sequence."""
        row = self._free_rows.pop()
        self._taken[row] = ([], [])
        self._lengths[row] = [0] * self.passes
        return row

    def close(self, row: int) -> None:
        """End a sequence: its slots are free again."""
        unshared, block = self._taken.pop(row)
        self.unshared.give_back(unshared)
        self.block.give_back(block)
        del self._lengths[row]
        self._free_rows.append(row)

    def add_unshared(self, rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Slots for tokens at the unshared layers; [N]."""
        slots = self.unshared.take(len(rows))
        for row, slot in zip(rows, slots, strict=True):
            self._taken[row][0].append(slot)
        rows_N, positions_N, slots_N = self._on_device(rows, positions, slots)
        self.tables_QPT[rows_N, 0, positions_N] = slots_N
        return slots_N

    def slots_of(self, rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        """The slots that tokens have at the unshared layers; [N]."""
        rows_N, positions_N = self._on_device(rows, positions)
        return self.tables_QPT[rows_N, 0, positions_N]

    def add_to_block(
        self, rows: Sequence[int], passes: Sequence[int], positions: Sequence[int]
    ) -> tuple[Tensor, list[int]]:
        """Slots for tokens that enter a pass which writes keys, [N], and each token's place in its pass's table."""
        slots = self.block.take(len(rows))
        places: list[int] = []
        for row, index, position, slot in zip(rows, passes, positions, slots, strict=True):
            self._taken[row][1].append(slot)
            places.append(position if self.by_position else self._lengths[row][index])
            self._lengths[row][index] += 1
        rows_N, passes_N, places_N, slots_N = self._on_device(rows, passes, places, slots)
        if self.by_position and self.passes > 1:
            # Later passes see a token's first keys for as long as it has no fresh ones there.
            first_N = (passes_N == 0).nonzero().squeeze(1)
            self.tables_QPT[rows_N[first_N], 1:, places_N[first_N]] = slots_N[first_N].unsqueeze(1)
        self.tables_QPT[rows_N, 1 + passes_N, places_N] = slots_N
        return slots_N, places

    def _on_device(self, *columns: Sequence[int]) -> tuple[Tensor, ...]:
        return tuple(torch.tensor(columns, dtype=torch.int64).to(self.tables_QPT.device).unbind())
