"""Whether a few windows of the validation text decide how the cells of a sweep differ."""

from itertools import pairwise
from statistics import median
from typing import Any

import polars as pl

from analysis.runs.losses import parse_loss
from analysis.statistics.concentration import EVEN_CONCENTRATION, FEW_WINDOWS, concentration
from orchestrator.records.fits.fitted import Fitted
from orchestrator.records.revisions import Sweep
from orchestrator.store.losses import read_sequence_losses
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store

MOST_PAIRS = 50
"""Pairs of cells whose windows are compared, spread over the sweep: at most a hundred small files are read."""


def concentration_note(store: Store, fitted: Fitted) -> str:
    """A sentence where a few windows of the validation text decide how the fitted cells of a sweep differ; empty where
    none do, where no two neighbouring cells have kept the losses of their windows, and where the loss is of other
    text."""
    if fitted.sweep is None or parse_loss(fitted.study.points.loss_column).kind:
        return ""
    pairs = _neighbours(store, fitted.sweep, fitted.study.points.frame)
    number = min(len(pairs), MOST_PAIRS)
    spread = [pairs[index * len(pairs) // number] for index in range(number)]
    shares = [share for pair in spread if (share := _pair_concentration(store, *pair)) is not None]
    if not shares or median(shares) >= FEW_WINDOWS:
        return ""
    return (
        f"a few windows of the validation text decide how cells differ: {median(shares):.1%} of them make half of the "
        f"squared difference between neighbouring cells (median of {len(shares)} pairs; {EVEN_CONCENTRATION:.0%} where "
        "noise is even), so another text may rank them otherwise: set quality = true in [data], or measure more or "
        "other text (num_sequences in [evaluation])"
    )


def _neighbours(store: Store, sweep: Sweep, points: pl.DataFrame) -> list[tuple[str, str]]:
    """Evaluations of neighbouring sizes with one seed, and of one size with neighbouring seeds, at one budget of one
    arm, as far as they have kept the losses of their windows."""
    evaluations = {cell.cell_id: str(cell.evaluate_segment) for cell in sweep.cells}
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in points.sort("params", "seed").iter_rows(named=True):
        segment = evaluations[row["cell_id"]]
        if store.published(segment).sequence_losses.is_file():
            for key in (("seed", row["seed"]), ("size", row["size"])):
                groups.setdefault((row["arm"], row["budget"], *key), []).append(segment)
    return [pair for group in groups.values() for pair in pairwise(group)]


def _pair_concentration(store: Store, one: str, other: str) -> float | None:
    """Of the windows of two evaluations; None where they do not differ, or were not made on the same number of them."""
    try:
        first_S, second_S = (read_sequence_losses(store.published(name).sequence_losses) for name in (one, other))
    except StoreError:  # `fsck` and the sweep's own command name the file.
        return None
    if first_S is None or second_S is None or len(first_S) != len(second_S):
        return None
    return concentration(first_S.astype("f8") - second_S)
