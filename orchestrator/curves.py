"""What a segment's own curve says: whether it is whole up to a checkpoint, and where the loss jumped."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator.store import LOG_EVERY_STEPS, Curve, StoreError, read_curve

SPIKE_FACTOR = 10.0
"""A loss so many times the one logged before it is a spike: flagged, never a reason to stop."""


def curve_until(path: Path, step: int) -> Curve:
    """The rows of a metrics.jsonl up to a step, each step once and in order.

    Raises StoreError where a line in the middle cannot be read, or one of the step grid is not there.
    """
    curve = read_curve(path)
    rows = {row["step"]: row for row in curve.rows if row["step"] <= step}
    first = min(rows, default=step)
    for each in range(first, step + 1):
        if each % LOG_EVERY_STEPS == 0 and each not in rows:
            raise StoreError(f"{path} has no line of step {each}")
    return Curve(rows=[rows[each] for each in sorted(rows)], notes=curve.notes)


def loss_spikes(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The logged steps at which the loss was ten times that of the logged step before."""
    return [after["step"] for before, after in pairwise(rows) if after["loss"] > SPIKE_FACTOR * before["loss"]]
