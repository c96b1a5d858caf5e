"""The share of a GPU that each shape of a plan asks for: the smallest part of its memory that holds it. Pure.

Ray counts shares and isolates no memory, so this module decides what fits into a share.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mor_core.units import bytes_text
from orchestrator.planning.costs.estimate import CellCost
from orchestrator.planning.costs.work import Shape, shape_of
from orchestrator.planning.plan import Plan

PARTS = (8, 5, 4, 3, 2, 1)
"""Into how many equal parts a card may be divided, the smallest part first."""

CONTEXT_BYTES = 600 * 2**20
"""What a process holds on a GPU beside its tensors: CUDA's context, kernels that are loaded, workspaces of libraries.
Assumed: half a gigabyte is usual, and no allocator counts it."""

MARGIN = 1.25
"""Of the tensors' memory: blocks that the allocator keeps without using them, and the formula's error of 15 %."""

ASSUMED_CARD_BYTES = 16 * 10**9
"""Of a card of which nothing is known; few that train have less."""

RAY_STEPS = 10_000
"""Ray counts a resource in ten-thousandths: three times a third must not be more than one."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The memory of one GPU; where GPUs differ, of the smallest."""

    memory_bytes: int
    """Bytes in all."""
    basis: str
    """How that is known, in words."""


def card_of(said_gigabytes: float | None, driver_bytes: Sequence[int]) -> Card:
    """The card as the sweep says, else as the driver does for each GPU, else an assumption."""
    if said_gigabytes is not None:
        return Card(memory_bytes=round(said_gigabytes * 1e9), basis="execution.gpu_memory_gigabytes")
    if driver_bytes:
        return Card(memory_bytes=min(driver_bytes), basis="nvidia-smi")
    return Card(memory_bytes=ASSUMED_CARD_BYTES, basis="assumed: set execution.gpu_memory_gigabytes")


def share_of(memory_bytes: int, card: Card) -> float:
    """The share of a card for a peak of so many bytes of tensors. What no part holds gets a whole card: it may fail
    there, and is then tried once with half the micro-batch."""
    needed = MARGIN * memory_bytes + CONTEXT_BYTES
    parts = next((parts for parts in PARTS if needed * parts <= card.memory_bytes), 1)
    return (RAY_STEPS // parts) / RAY_STEPS


def shares_of(plan: Plan, costs: Sequence[CellCost], card: Card) -> dict[Shape, float]:
    """By shape, at the memory that was measured of it, else computed."""
    return {shape_of(cell): share_of(cost.memory_bytes, card) for cell, cost in zip(plan.cells, costs, strict=True)}


def segments_at_a_time(shares: Mapping[Shape, float], devices: float) -> int:
    """The most that the GPUs hold, of the shapes with the smallest share."""
    return max(1, math.floor(devices) * parts_of(min(shares.values())))


def parts_of(share: float) -> int:
    """Into how many parts a card is divided by a share."""
    return round(1 / share)


def share_text(share: float) -> str:
    """Such as "1/3"."""
    return "1" if share >= 1 else f"1/{parts_of(share)}"


def sharing_text(costs: Sequence[CellCost], card: Card) -> str:
    """How many cells get which share, and what that rests on."""
    counts = {share: sum(cost.devices == share for cost in costs) for share in sorted({cost.devices for cost in costs})}
    shares_text = ", ".join(f"{share_text(share)} for {count}" for share, count in counts.items())
    return (
        f"{shares_text} of {len(costs)} cells: of {bytes_text(card.memory_bytes)} a GPU ({card.basis}), {MARGIN:g} x "
        f"their memory and {bytes_text(CONTEXT_BYTES)} for CUDA"
    )
