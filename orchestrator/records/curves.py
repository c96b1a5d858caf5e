"""The training curves of a sweep's cells, from the store alone."""

from typing import Any

import numpy as np

from analysis.runs.curves import CellCurve
from analysis.runs.losses import parse_loss
from orchestrator.planning.cells import Cell
from orchestrator.records.cell_names import cell_name
from orchestrator.records.revisions import Sweep
from orchestrator.records.table import table
from orchestrator.store.losses import LOG_EVERY_STEPS, read_metrics
from orchestrator.store.store import Store


def cell_curves(store: Store, sweep: Sweep, loss_column: str) -> list[CellCurve]:
    """Every cell that has logged a step, with its evaluated loss where it is finished and can stand beside the curve: a
    validation loss in nats/token."""
    shown = parse_loss(loss_column).is_on_curves
    finished = dict(table(store, sweep).select("cell_id", loss_column).iter_rows()) if shown else {}
    curves = []
    for cell in sweep.cells:
        rows = curve(store, sweep, cell)
        if not rows:
            continue
        curves.append(
            CellCurve(
                cell=cell_name(cell),
                arm=cell.arm,
                size=cell.size,
                params=float(cell.unique_params),
                budget=str(cell.budget),
                tokens=np.array([float(row["step"] * cell.tokens_per_step) for row in rows]),
                loss=np.array([float(row["loss"]) for row in rows]),
                cooldown_from=(
                    float(cell.decay_start * cell.tokens_per_step) if cell.decay_start < cell.steps else None
                ),
                final_loss=finished.get(str(cell.cell_id)),
            )
        )
    return curves


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
        rows |= {row["step"]: row for row in read_metrics(store.published(name).metrics)}
    on_grid = (step for step in sorted(rows) if step % LOG_EVERY_STEPS == 0 or step in (1, cell.steps))
    return [rows[step] for step in on_grid]
