"""How much of the loss is computed at a time, which a plan of memory must know too; no torch."""

from typing import Literal

Device = Literal["cpu", "cuda"]
"""What a choice depends on."""

CHUNK_TOKENS: dict[Device, int] = {"cpu": 1024, "cuda": 4096}
"""Tokens of one matrix product. Each chunk reads and writes the weight's whole gradient, which many tokens repay."""

PIECE_ENTRIES: dict[Device, int] = {"cpu": 2**19, "cuda": 2**24}
"""Logits that are in fp32 at once: 2 MB stay in a processor's cache; 64 MB are enough work for each kernel of a GPU."""
