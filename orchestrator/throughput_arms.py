"""Which cells a sweep's arms are measured by, at which batches, and the losses that stand beside their speeds."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mor_core.errors import UserError
from orchestrator.planning.cells import Cell
from orchestrator.records.revisions import Sweep
from orchestrator.store.store import Store
from orchestrator.throughput import LARGEST, Speed
from orchestrator.trained_cell import NotTrained, TrainedCell

if TYPE_CHECKING:
    import polars as pl


class BadBatches(UserError):
    """A list of batch sizes that is none."""


def parse_batches(text: str) -> list[int | None]:
    """Such as "1,32,max"; None is the largest that memory allows. Raises BadBatches."""
    batches: list[int | None] = []
    for item in text.split(","):
        if item.strip() != LARGEST and not (item.strip().isdecimal() and int(item) > 0):
            raise BadBatches(f"--batches: found {item.strip()!r}, expected whole numbers of at least 1, or {LARGEST}")
        batches.append(None if item.strip() == LARGEST else int(item))
    return batches


def arms_to_measure(store: Store, sweep: Sweep, size: str | None) -> list[Cell]:
    """One finished cell of each arm, vanilla first, of one size and one budget: of those at which all arms of the sweep
    are finished the largest. Raises NotTrained where there is none."""
    arms = {cell.arm for cell in sweep.cells}
    groups: dict[tuple[str, int], dict[str, Cell]] = {}
    for cell in sweep.cells:
        if store.is_done(str(cell.evaluate_segment)) and size in (None, cell.size):
            groups.setdefault((cell.size, cell.budget), {}).setdefault(cell.arm, cell)
    whole = [group for group in groups.values() if group.keys() == arms and "vanilla" in group]
    if not whole:
        at = f" at size {size}" if size else ""
        raise NotTrained(
            f"sweep {sweep.name} has no size and budget{at} at which vanilla and all other arms are finished: finish "
            "it, or name a size that is"
        )
    best = max(whole, key=lambda group: (group["vanilla"].unrolled_params, group["vanilla"].budget))
    return [best["vanilla"], *(cell for arm, cell in best.items() if arm != "vanilla")]


def with_losses(store: Store, cells: Sequence[TrainedCell], speeds: Sequence[Speed]) -> "pl.DataFrame":
    """The speeds as a frame, each with its arm's causal loss."""
    import polars as pl

    losses = {trained.cell.arm: _loss(store, trained.cell) for trained in cells}
    return pl.DataFrame([asdict(speed) | {"loss": losses[speed.arm]} for speed in speeds])


def _loss(store: Store, cell: Cell) -> float | None:
    """A cell's causal loss; None where its weights have not been measured."""
    result = store.result(str(cell.evaluate_segment))
    return result.evaluation.loss if result is not None and result.evaluation is not None else None
