"""The training curves of a sweep as plain values, for drawing."""

from typing import Any

import numpy as np

from analysis.runs.curves import CellCurve
from orchestrator.planning.cells import Cell
from orchestrator.records.cell_names import cell_name
from orchestrator.records.revisions import Sweep
from orchestrator.records.table import table
from orchestrator.store.published import LOG_EVERY_STEPS, read_metrics
from orchestrator.store.store import Store


def cell_curves(store: Store, sweep: Sweep, loss_column: str) -> list[CellCurve]:
    """Every cell that has logged a step, with its evaluated loss where it is finished."""
    finished = dict(table(store, sweep).select("cell_id", loss_column).iter_rows())
    found = []
    for cell in sweep.cells:
        rows = curve(store, sweep, cell)
        if not rows:
            continue
        found.append(
            CellCurve(
                cell=cell_name(cell),
                arm=cell.arm,
                size=cell.size,
                params=float(cell.unique_params),
                budget=str(cell.budget),
                tokens=np.array([float(row["step"] * cell.tokens_per_step) for row in rows]),
                loss=np.array([float(row["loss"]) for row in rows]),
                final_loss=finished.get(str(cell.cell_id)),
            )
        )
    return found


def curve(store: Store, sweep: Sweep, cell: Cell) -> list[dict[str, Any]]:
    """A cell's training curve from step 1, trunk included: one row per step of the grid, ascending; published work.

    The last step of a stable stretch is left out where it is off the grid: it depends on which budgets branch
    there, and the curve of a cell must not change when another budget is added.
    """
    last = next(segment for segment in reversed(sweep.chain(cell)) if segment.kind != "evaluate")
    published = store.published_trunk_steps(last.trunk_id)
    sources = [name for step, name in sorted(published) if step <= cell.decay_start]
    if last.kind == "decay" and store.is_done(last.id):
        sources.append(last.id)
    rows: dict[int, dict[str, Any]] = {}
    for name in sources:
        rows |= {row["step"]: row for row in read_metrics(store.segment_folder(name) / "metrics.jsonl")}
    on_grid = (step for step in sorted(rows) if step % LOG_EVERY_STEPS == 0 or step in (1, cell.steps))
    return [rows[step] for step in on_grid]
