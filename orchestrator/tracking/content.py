"""What the MLflow run of a cell says: pure functions of the cell's row of the results table and its training curve."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mor_core.units import budget_text

MOST_POINTS = 2000
"""Points of a curve beyond which it is thinned: the MLflow UI samples longer ones itself, and slowly."""

LONGEST_TAG = 1000
"""Characters of a reason that are shown; MLflow refuses tags of more than a few thousand."""

RUN_STATUS = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED", "pending": "SCHEDULED"}
"""The store's word -> MLflow's. A pending cell is never RUNNING: nobody would correct that after a crash."""

PARAMS = [
    "arm",
    "architecture",
    "recursions",
    "size",
    "budget",
    "budget_convention",
    "seed",
    "unique_params",
    "unrolled_params",
    "total_params",
    "d_model",
    "num_layers",
    "sharing",
    "kv",
    "routing",
    "schedule",
    "tokens",
    "steps",
    "warmup_steps",
    "decay_start",
    "batch_size",
    "context_length",
    "peak_learning_rate",
    "weight_decay",
]
"""Columns of the results table that are planned, and so never change. The budget is an exact integer here; its tag and
the run's name have it as it is typed."""

METRICS = [
    "loss",
    "loss_half",
    "loss_topk",
    "bits_per_byte",
    "evaluated_tokens",
    "depth_mean",
    "last_capacity",
    "forward_flops_per_token",
    "task_average",
    "epochs",
    "flops_exact",
    "flops_paper",
    "flops_6nd",
    "train_seconds",
    "peak_memory_bytes",
]
"""Columns that a finished cell has as final metrics."""

TAGS = [
    "sweep",
    "arm",
    "size",
    "budget",
    "budget_convention",
    "recursions",
    "seed",
    "status",
    "reason",
    "flags",
    "trunk_id",
    "evaluate_segment",
    "device",
    "torch",
]
"""Columns that are shown as tags mor.<column>, beside mor.cell and mor.kind."""

GAP = "parabola_gap"
"""The metric that a later fit changes: the loss fitted last over the parabola of the cell's arm and budget."""

NO_STEP = 0
"""The step of what belongs to none: MLflow draws metrics without another step as bars, and others against steps."""

FIRST = "0"
"""The tag mor.order of the run that stands before all cells."""

MetricPoint = tuple[str, float, int]
"""(name, value, step)."""


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """One MLflow run, resolved."""

    cell_id: str
    """Tag mor.cell: the key by which the run is found again."""
    name: str
    """For people."""
    status: str
    """In MLflow's words."""
    seconds: float
    """Training time, shown as the run's duration."""
    tags: dict[str, str]
    """Filters and groups; may change."""
    params: dict[str, str]
    """What was planned; MLflow never lets it change."""
    final: tuple[MetricPoint, ...]
    """N, D and C, and what a finished cell measured."""
    gap: float | None
    """Its residual from the parabola, units of loss; None where no parabola was fitted to it."""
    rows: tuple[dict[str, Any], ...]
    """The thinned curve: step and measurements."""


def run_content(
    row: dict[str, Any], curve: Sequence[dict[str, Any]], lineage: dict[str, str], gap: float | None
) -> RunContent:
    """The run of a cell from its row of the results table, its curve (`orchestrator.records.curves.curve`), the tags
    that say what it was made of, and its residual from a fitted parabola."""
    shown = {f"mor.{name}": str(row[name]) for name in TAGS if row[name] not in (None, "")}
    shown |= {"mor.budget": budget_text(int(row["budget"])), "mor.order": _order(row)}
    reason = {"mor.reason": row["reason"][:LONGEST_TAG]}
    finished = row["status"] == "finished"
    values = (
        {name: row[name] for name in METRICS if row[name] is not None} | _task_values(row) | _text_values(row)
        if finished
        else {}
    )
    routed = row["architecture"] == "mor"
    # The axes of every chart: N and D, and C counted as the budget is.
    axes = {"N": row["unique_params"], "D": row["tokens"], "C": row[f"flops_{row['budget_convention']}"]}
    return RunContent(
        cell_id=row["cell_id"],
        name=f"{row['arm']} {row['size']} {budget_text(int(row['budget']))} seed {row['seed']}",
        status=RUN_STATUS[row["status"]],
        seconds=row["train_seconds"] or 0.0,
        tags=shown
        | lineage
        | reason
        | {"mor.cell": row["cell_id"], "mor.kind": "cell", "mlflow.source.name": "mor-sweep"},
        params={name: str(row[name]) for name in PARAMS},
        final=(
            *_finite({name: float(value) for name, value in axes.items()}, NO_STEP),
            *_finite({name: float(value) for name, value in values.items()}, row["steps"]),
        ),
        gap=gap,
        rows=tuple(
            {name: value for name, value in point.items() if routed or name != "aux_loss"}
            for point in thinned(curve, row["steps"])
        ),
    )


def _order(row: dict[str, Any]) -> str:
    """What sorts runs by arm, size, budget and seed, as text: MLflow sorts by one column."""
    return f"{row['arm']} {row['unique_params']:015d} {int(row['budget']):040d} {row['seed']:06d}"


def _task_values(row: dict[str, Any]) -> dict[str, float]:
    """task/NAME and its standard error, of every task that the cell was scored on."""
    values: dict[str, float] = {}
    for name, score in json.loads(row["tasks"] or "{}").items():
        values[f"task/{name}"] = score["score"]
        if score["standard_error"] is not None:
            values[f"task/{name}_standard_error"] = score["standard_error"]
    return values


def _text_values(row: dict[str, Any]) -> dict[str, float]:
    """text/NAME of every text that the cell was measured on, and own/NAME of every loss that its own model names."""
    losses = {name: value for name, value in row.items() if name.startswith(("text:", "own:")) and value is not None}
    return {name.replace(":", "/", 1): value for name, value in losses.items()}


def thinned(curve: Sequence[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """At most MOST_POINTS rows of a curve that will have `steps` steps: the first of each stretch, and the last step.

    Which rows are kept does not depend on how far training has come, so a longer curve only adds rows.
    """
    kept: dict[int, dict[str, Any]] = {}
    for row in curve:
        last = row["step"] == steps
        kept.setdefault(MOST_POINTS if last else (row["step"] - 1) * (MOST_POINTS - 1) // steps, row)
    return list(kept.values())


def isoflop_points(rows: Iterable[dict[str, Any]]) -> Iterator[MetricPoint]:
    """Loss against N, one curve per arm and budget: metric isoflop/ARM/BUDGET at the step N, the mean over the seeds
    that are finished at that size.

    MLflow's charts draw metrics against steps, so this is the IsoFLOP picture in its own charts. They join all points
    of a metric: two seeds at one step would make the curve a zigzag.
    """
    losses: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["status"] == "finished" and math.isfinite(row["loss"]):
            name = f"isoflop/{row['arm']}/{budget_text(int(row['budget']))}"
            losses.setdefault((name, row["unique_params"]), []).append(row["loss"])
    for (name, params), seeds in losses.items():
        yield name, fmean(seeds), params


def curve_points(rows: Sequence[dict[str, Any]]) -> Iterator[MetricPoint]:
    """The points train/loss, train/learning_rate and so on of curve rows."""
    for row in rows:
        values = {f"train/{name}": float(value) for name, value in row.items() if name != "step"}
        yield from _finite(values, row["step"])


def _finite(values: dict[str, float], step: int) -> Iterator[MetricPoint]:
    """MLflow would store an infinity as 1.8e308 and a NaN as 0: neither is sent."""
    return ((name, value, step) for name, value in values.items() if math.isfinite(value))
