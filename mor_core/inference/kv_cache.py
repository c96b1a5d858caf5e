"""Keys and values of tokens that were computed: memory taken once, handed out token by token, given back at the end.

A slot holds one token's keys and values for every layer of a pool, and a table says which slots a sequence's tokens
have, in the order in which a query sees them. There are two pools. In that of the unshared layers every token has a
slot. In that of the block a token has one for each pass that it went through and that writes keys, so an early exit
leaves memory to other sequences at once, whatever its depth. A model of one pass has no block: every token makes all of
its layers, so all of them are the first pool's.

The tables are on the device, which reads them, and on the host, which remembers there what to give back. Methods take
arrays: of a run's tokens all at once.

Shapes: L layers, S slots, P tables, T tokens of a context, G key and value heads, C head width, N tokens of a run,
Q sequences, R recursions.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mor_core.config.model import ModelConfig
from mor_core.flops import KeyValueLayout, kv_bytes_per_layer, kv_layout

NO_SLOT = -1
"""What the host's tables hold where no slot was handed out."""


class SlotPool:
    """Slots of some layers, free or taken. The memory is taken when the pool is made and never grows."""

    def __init__(self, num_layers: int, num_slots: int, config: ModelConfig, dtype: torch.dtype, device: torch.device):
        # One more than is handed out: whatever need not be kept is written there.
        shape = (num_layers, num_slots + 1 if num_layers else 0, 2, config.num_kv_heads, config.d_head)
        # Zeros rather than whatever was there: a slot that a mask hides must still hold numbers.
        self.kv_LS2GC = torch.zeros(shape, dtype=dtype, device=device)
        self.num_slots = num_slots
        self._free = np.arange(num_slots, dtype=np.int64)
        self.num_free = num_slots
        self.num_bytes = self.kv_LS2GC[:, :num_slots].nbytes
        """Of the keys and values that it can hold."""

    def take(self, count: int) -> np.ndarray:
        """Free slots, now taken. Whoever asks has made sure that there are as many."""
        assert count <= self.num_free
        self.num_free -= count
        return self._free[self.num_free : self.num_free + count].copy()

    def give_back(self, slots: np.ndarray) -> None:
        """Make slots free that `take` gave."""
        assert self.num_free + len(slots) <= self.num_slots
        self._free[self.num_free : self.num_free + len(slots)] = slots
        self.num_free += len(slots)


def num_passes(config: ModelConfig) -> int:
    """Passes through the block that a token can make, one a recursion where the block repeats as a whole."""
    return config.recursion.count if config.recursion.sharing.endswith("cycle") else 1


def pool_layout(config: ModelConfig) -> KeyValueLayout:
    """Layers of the two pools, and the passes of which the block's pool keeps keys."""
    layout = kv_layout(config)
    if num_passes(config) > 1:
        return layout
    return KeyValueLayout(unshared=layout.unshared + layout.block, block=0, passes=0)


def pool_sizes(config: ModelConfig, kv_bytes: int, bytes_per_number: int, sequences: int) -> tuple[int, int]:
    """The slots of the unshared layers' pool and of the block's that a budget buys, in the proportion of the planned
    capacities, but no more than can be used."""
    layout, layer = pool_layout(config), kv_bytes_per_layer(config, bytes_per_number)
    mean_passes = float(sum(config.capacities)) if layout.passes > 1 else layout.passes
    most = sequences * config.context_length
    # A slot of each pool is nobody's.
    kv_bytes = max(0, kv_bytes - layer * (layout.unshared + layout.block))
    tokens = min(most, int(kv_bytes / (layer * (layout.unshared + layout.block * mean_passes))))
    block = (kv_bytes - tokens * layout.unshared * layer) // (max(1, layout.block) * layer)
    # Without layers a pool's slots take no memory.
    return tokens if layout.unshared else most, min(block, most * layout.passes)


class Entries(NamedTuple):
    """Where tokens of a run read and write."""

    tables: np.ndarray
    """The table that each reads."""
    at: np.ndarray
    """Its own place there: it sees this and all before it."""
    slots: np.ndarray
    """Where its keys and values are written."""
    places: np.ndarray
    """Its own place, counted through all tables, which names that slot from now on."""


class KeyValueCache:
    """The two pools and the tables of all sequences that run. A sequence is known by its row in the tables."""

    def __init__(
        self, config: ModelConfig, sizes: tuple[int, int], sequences: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`sizes` are the slots of the two pools."""
        layout, (unshared, block) = pool_layout(config), sizes
        self.passes = layout.passes
        """Passes of which the block's pool keeps keys: 1 where later ones read those of the first."""
        self.is_hybrid = config.recursion.kv == "hybrid"
        """Whether a pass reads a token's first keys for as long as it has no fresh ones there."""
        self.sequences, self.context_length = sequences, config.context_length
        self.unshared = SlotPool(layout.unshared, unshared, config, dtype, device)
        self.block = SlotPool(layout.block, block, config, dtype, device)
        self.num_bytes = self.unshared.num_bytes + self.block.num_bytes
        """Of keys and values, taken or free."""
        # First every row's table for the unshared layers, then those for each pass. The last is nobody's.
        shape = (sequences * (1 + self.passes) + 1, config.context_length)
        self.tables_PT = torch.zeros(shape, dtype=torch.int64, device=device)
        self._slots_PT = np.full(shape, NO_SLOT, np.int64)
        self._slots = self._slots_PT.reshape(-1)
        self._lengths_P = np.zeros(len(self._slots_PT), np.int64)
        self._free_rows = list(range(sequences))[::-1]

    @property
    def num_free_rows(self) -> int:
        """Sequences that can still be opened."""
        return len(self._free_rows)

    def open(self) -> int:
        """A row for a new sequence."""
        return self._free_rows.pop()

    def close(self, rows_Q: np.ndarray, longest: int) -> None:
        """End sequences of so many tokens at most: their slots are free again."""
        tables_PQ = np.arange(0, len(self._lengths_P) - 1, self.sequences)[:, None] + rows_Q
        slots_PQT = self._slots_PT[tables_PQ, :longest]
        for pool, slots in ((self.unshared, slots_PQT[0]), (self.block, slots_PQT[1:])):
            pool.give_back(slots[slots != NO_SLOT])
        self._slots_PT[tables_PQ, :longest] = NO_SLOT
        self._lengths_P[tables_PQ] = 0
        self._free_rows.extend(rows_Q.tolist())

    def unshared_entries(self, rows_N: np.ndarray, positions_N: np.ndarray) -> Entries:
        """What tokens have at the unshared layers."""
        places_N = rows_N * self.context_length + positions_N
        return Entries(rows_N, positions_N, self._slots[places_N], places_N)

    def add_unshared(self, rows_N: np.ndarray, positions_N: np.ndarray) -> Entries:
        """Slots for tokens at the unshared layers."""
        return self._added(self.unshared, rows_N, positions_N)

    def add_to_block(
        self, rows_N: np.ndarray, recursions_N: np.ndarray, positions_N: np.ndarray, ranks_N: np.ndarray | int = 0
    ) -> Entries:
        """Slots for tokens that enter a pass. Ranks count those of one sequence in this run."""
        if self.passes == 1:
            return self._added_in_first_pass(rows_N + self.sequences, positions_N, recursions_N == 0)
        tables_N = (recursions_N + 1) * self.sequences + rows_N
        if self.is_hybrid:
            return self._added(self.block, tables_N, positions_N)
        at_N = self._lengths_P[tables_N] + ranks_N
        # Of tokens of one table the last is the furthest.
        self._lengths_P[tables_N] = at_N + 1
        return self._added(self.block, tables_N, at_N)

    def _added_in_first_pass(self, tables_N: np.ndarray, at_N: np.ndarray, is_first_N: np.ndarray) -> Entries:
        """Tokens of later passes read what they left in the first; what they write is nobody's."""
        slots_N, places_N = np.full(len(at_N), self.block.num_slots), np.full(len(at_N), len(self._slots) - 1)
        first = self._added(self.block, tables_N[is_first_N], at_N[is_first_N])
        slots_N[is_first_N], places_N[is_first_N] = first.slots, first.places
        return Entries(tables_N, at_N, slots_N, places_N)

    def _added(self, pool: SlotPool, tables_N: np.ndarray, at_N: np.ndarray) -> Entries:
        slots_N, places_N = pool.take(len(at_N)), tables_N * self.context_length + at_N
        self._slots[places_N] = slots_N
        return Entries(tables_N, at_N, slots_N, places_N)

    def name_in_later_passes(self, places_N: Tensor, slots_N: Tensor, recursions_N: Tensor) -> None:
        """On the device: let the tables of all passes name the slots of tokens that make their first."""
        steps_R = torch.arange(self.passes, device=places_N.device) * (self.sequences * self.context_length)
        places_NR = places_N.unsqueeze(1) + (recursions_N == 0).unsqueeze(1) * steps_R
        self.tables_PT.view(-1).index_copy_(0, places_NR.view(-1), slots_N.repeat_interleave(self.passes))
