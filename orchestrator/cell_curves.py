"""The training curves of a sweep as plain values, for drawing."""

import numpy as np

from analysis.runs.curves import CellCurve
from orchestrator.cell_names import cell_name
from orchestrator.records import curve, table
from orchestrator.revisions import Sweep
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
