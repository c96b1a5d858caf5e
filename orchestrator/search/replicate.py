"""More seeds where they count: of the sizes nearest to each budget's minimum, as one more revision of the sweep's plan.

The variance of seeds is pooled over an arm (`analysis.statistics.trunk_noise`, `analysis.statistics.bootstrap`), so a
few replicates near the minima sharpen every interval of that arm.
"""

import math

import polars as pl

from analysis.frontier.study import FitSettings, fit_study
from analysis.statistics.answers import Estimate
from mor_core.data.snapshot import DataSnapshot
from orchestrator.planning.plan import Plan, plan, plan_of_cells
from orchestrator.planning.spec.sweep_spec import SweepSpec

NEAREST = 3
"""Sizes of each arm and budget that are trained again."""


def replicate_plan(spec: SweepSpec, data: DataSnapshot, runs: pl.DataFrame, count: int) -> Plan | None:
    """`count` seeds after those of `spec` of the NEAREST sizes; None where no budget has a finished cell.

    `runs` is the sweep's run table. Only the seeds of `spec` choose the sizes, so that the same call after the
    replicates are trained asks for the same cells.
    """
    first_runs = runs.filter(pl.col("seed").is_in(spec.seeds))
    nearest = _nearest_sizes(first_runs)
    if not nearest:
        return None
    more = tuple(range(spec.seeds[-1] + 1, spec.seeds[-1] + 1 + count))
    wide = plan(spec.model_copy(update={"seeds": more}), data)
    cells = [cell for cell in wide.cells if (cell.arm, str(cell.budget), cell.size) in nearest]
    return plan_of_cells(spec, data, cells) if cells else None


def _nearest_sizes(runs: pl.DataFrame) -> set[tuple[str, str, str]]:
    """(arm, budget, size) of the sizes nearest to N*, or to the lowest loss where N* is refused."""
    study = fit_study(runs, FitSettings())
    sizes: set[tuple[str, str, str]] = set()
    for frontier in study.frontiers:
        for optimum in frontier.optima:
            of_budget = (pl.col("arm") == frontier.arm) & (pl.col("budget") == optimum.budget)
            means = study.points.frame.filter(of_budget).group_by("size").agg(pl.col("params", "loss").mean())
            rows = means.sort("loss", "size").to_dicts()
            if not rows:
                continue
            best = optimum.params.value if isinstance(optimum.params, Estimate) else rows[0]["params"]
            rows.sort(key=lambda row: abs(math.log(row["params"] / best)))
            sizes |= {(frontier.arm, optimum.budget, row["size"]) for row in rows[:NEAREST]}
    return sizes
