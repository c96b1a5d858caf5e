"""Keys and values of tokens that were computed: memory taken once, handed out token by token, given back at the end.

A slot holds one token's keys and values for every layer of a pool, and a table says which slots a sequence's tokens
have, in the order in which a query sees them. There are two pools: one for the unshared layers, where every token has
a slot, and one for the block, where a token has a slot for each pass that it went through and that writes keys. So an
early exit leaves memory to other sequences at once, whatever its depth.

Shapes: L layers, S slots, P tables, T tokens of a context, G key and value heads, C head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

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


class Entries(NamedTuple):
    """What a run adds to pools and tables: numbers of the host, since the device is told all of a run at once."""

    slots: list[int]
    """Where keys and values are written, one slot per token that writes any."""
    places: list[int]
    """Places in the tables, counted through all of them."""
    named: list[int]
    """The slot that each of these places names from now on."""


class KeyValueCache:
    """The two pools and the tables of all sequences that run. A sequence is known by its row in the tables."""

    def __init__(self, config: ModelConfig, sizes: PoolSizes, sequences: int, dtype: torch.dtype, device: torch.device):
        layout = kv_layout(config)
        self.passes = layout.passes
        self.by_position = config.recursion.kv != "recursion-wise"
        """Whether a pass's table is indexed by position: every pass sees the whole prefix."""
        self.sequences, self.context_length = sequences, config.context_length
        self.has_unshared = layout.unshared > 0
        self.unshared = SlotPool(layout.unshared, sizes.unshared, config, dtype, device)
        self.block = SlotPool(layout.block, sizes.block, config, dtype, device)
        # A sequence has one table for the unshared layers, and after it one for each pass.
        tables = sequences * (1 + self.passes)
        self.tables_PT = torch.zeros((tables, config.context_length), dtype=torch.int64, device=device)
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

    def unshared_table(self, row: int) -> int:
        """Index of a sequence's table at the unshared layers."""
        return row * (1 + self.passes)

    def block_table(self, row: int, recursion: int) -> int:
        """Index of the table that a sequence's tokens read in a pass through the block."""
        return row * (1 + self.passes) + 1 + (recursion if self.passes > 1 else 0)

    def add_unshared(self, rows: Sequence[int], positions: Sequence[int]) -> Entries:
        """Slots for tokens at the unshared layers."""
        slots = self.unshared.take(len(rows))
        for row, slot in zip(rows, slots, strict=True):
            self._taken[row][0].append(slot)
        length = self.context_length
        places = [self.unshared_table(row) * length + at for row, at in zip(rows, positions, strict=True)]
        return Entries(slots, places, slots)

    def unshared_slots(self, rows: Sequence[int], positions: Sequence[int]) -> list[int]:
        """The slots that tokens have at the unshared layers."""
        return [self._taken[row][0][position] for row, position in zip(rows, positions, strict=True)]

    def add_to_block(
        self, rows: Sequence[int], recursions: Sequence[int], positions: Sequence[int]
    ) -> tuple[Entries, Sequence[int]]:
        """Slots for tokens that enter a pass which writes keys, and each token's place in its pass's table."""
        slots = self.block.take(len(rows))
        for row, slot in zip(rows, slots, strict=True):
            self._taken[row][1].append(slot)
        length = self.context_length
        if not self.by_position:
            own: list[int] = []
            for row, recursion in zip(rows, recursions, strict=True):
                lengths = self._lengths[row]
                own.append(lengths[recursion])
                lengths[recursion] += 1
            places = [
                self.block_table(row, recursion) * length + at
                for row, recursion, at in zip(rows, recursions, own, strict=True)
            ]
            return Entries(slots, places, slots), own
        new = Entries(slots, [], [])
        for row, recursion, position, slot in zip(rows, recursions, positions, slots, strict=True):
            # Later passes see a token's first keys for as long as it has no fresh ones there.
            for each in range(recursion, self.passes if recursion == 0 else recursion + 1):
                new.places.append(self.block_table(row, each) * length + position)
                new.named.append(slot)
        return new, positions
