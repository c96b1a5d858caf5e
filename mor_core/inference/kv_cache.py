"""Keys and values of tokens that were computed: memory taken once, handed out token by token, given back at the end.

A slot holds one token's keys and values for every layer of a pool, and a table says which slots a sequence's tokens
have, in the order in which a query sees them. There are two pools: one for the unshared layers, where every token has
a slot, and one for the block, where a token has a slot for each pass that it went through and that writes keys. So an
early exit leaves memory to other sequences at once, whatever its depth.

The tables are on the device, which reads them, and on the host, which hands out what they name. Methods take arrays: of
a run's tokens all at once.

Shapes: L layers, S slots, P tables, T tokens of a context, G key and value heads, C head width, N tokens of a run,
Q sequences, R recursions.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mor_core.config import ModelConfig
from mor_core.flops import kv_bytes_per_layer, kv_layout

NONE = np.empty(0, np.int64)
"""No numbers."""


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

    def take(self, count: int) -> np.ndarray:
        """Free slots, now taken. Raises OutOfSlots where there are fewer."""
        if count > self.num_free:
            raise OutOfSlots(f"{count} slots asked for, {self.num_free} of {self.num_slots} are free")
        self.num_free -= count
        return self._free[self.num_free : self.num_free + count].copy()

    def give_back(self, slots: np.ndarray) -> None:
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
    """Where tokens of a run read and write."""

    tables: np.ndarray
    """The table that each reads."""
    at: np.ndarray
    """Its own place there: it sees this and all before it."""
    slots: np.ndarray
    """Where its keys and values are written."""
    places: np.ndarray
    """Places that name these slots from now on, counted through all tables, as many for each token."""


class KeyValueCache:
    """The two pools and the tables of all sequences that run. A sequence is known by its row in the tables.

    A run may be filled up with repetitions of its last token, which get what that has: `count` tokens differ."""

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
        self._per_row = 1 + self.passes
        shape = (sequences * self._per_row, config.context_length)
        self.tables_PT = torch.zeros(shape, dtype=torch.int64, device=device)
        self._slots_PT = np.zeros(shape, np.int64)
        self._lengths_P = np.zeros(len(self._slots_PT), np.int64)
        self._free_rows = list(range(sequences))[::-1]

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
        return self._free_rows.pop()

    def close(self, rows_Q: np.ndarray) -> None:
        """End sequences: their slots are free again."""
        tables_QP = rows_Q[:, None] * self._per_row + np.arange(self._per_row)
        lengths_QP = self._lengths_P[tables_QP]
        if self.by_position:
            lengths_QP[:, 2:] = lengths_QP[:, 1:2]
        is_named_QPT = np.arange(self.context_length) < lengths_QP[..., None]
        slots_QPT = self._slots_PT[tables_QP]
        self.unshared.give_back(slots_QPT[:, 0][is_named_QPT[:, 0]])
        slots = slots_QPT[:, 1:][is_named_QPT[:, 1:]]
        # A pass may name slots of an earlier one, where tokens have no fresh keys.
        self.block.give_back(np.unique(slots) if self.by_position and self.passes > 1 else slots)
        self._lengths_P[tables_QP] = 0
        self._free_rows.extend(rows_Q.tolist())

    def tables_of(self, rows_N: np.ndarray, recursions_N: np.ndarray | int | None = None) -> np.ndarray:
        """The table that each row's tokens read at the unshared layers, or in a pass through the block."""
        if recursions_N is None:
            return rows_N * self._per_row
        return rows_N * self._per_row + (1 + recursions_N if self.passes > 1 else 1)

    def unshared_entries(self, rows_N: np.ndarray, positions_N: np.ndarray) -> Entries:
        """What tokens have at the unshared layers."""
        tables_N = self.tables_of(rows_N)
        return Entries(tables_N, positions_N, self._slots_PT[tables_N, positions_N], NONE)

    def add_unshared(self, rows_N: np.ndarray, positions_N: np.ndarray, count: int) -> Entries:
        """Slots for tokens at the unshared layers."""
        return self._added(self.unshared, self.tables_of(rows_N), positions_N, count)

    def add_to_block(
        self,
        rows_N: np.ndarray,
        recursions_N: np.ndarray,
        positions_N: np.ndarray,
        count: int,
        ranks_N: np.ndarray | int,
    ) -> Entries:
        """Slots for tokens that enter a pass which writes keys. Ranks count those of one sequence in this run."""
        tables_N = self.tables_of(rows_N, recursions_N)
        if not self.by_position:
            return self._added(self.block, tables_N, self._lengths_P[tables_N] + ranks_N, count)
        new = self._added(self.block, tables_N, positions_N, count)
        if self.passes == 1:
            return new
        # Later passes see a token's first keys for as long as it has no fresh ones there.
        recursions_N1, at_N1 = recursions_N[:, None], positions_N[:, None]
        tables_NR = self.tables_of(rows_N[:, None], np.where(recursions_N1 == 0, np.arange(self.passes), recursions_N1))
        self._slots_PT[tables_NR, at_N1] = new.slots[:, None]
        return new._replace(places=(tables_NR * self.context_length + at_N1).ravel())

    def _added(self, pool: SlotPool, tables_N: np.ndarray, at_N: np.ndarray, count: int) -> Entries:
        slots_N = pool.take(count)
        if count < len(tables_N):
            slots_N = np.concatenate((slots_N, np.repeat(slots_N[-1:], len(tables_N) - count)))
        places_N = tables_N * self.context_length + at_N
        self._slots_PT.reshape(-1)[places_N] = slots_N
        # Of tokens of one table the last is the furthest.
        self._lengths_P[tables_N] = at_N + 1
        return Entries(tables_N, at_N, slots_N, places_N)
