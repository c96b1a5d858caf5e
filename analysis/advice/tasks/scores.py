"""A run table -> the cells of each arm that have a score on a task and the bits per byte of its right answers."""

import json
import math
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.runs.losses import LossError
from analysis.runs.points import Points
from mor_core.errors import Fix


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskCells:
    """The cells of one arm."""

    arm: str
    """The architecture."""
    task: str
    """The task's name."""
    chance: float
    """What picking at random gets, a share."""
    frame: pl.DataFrame
    """One row a cell: cell_id, size, budget, params, tokens, flops, trunk_key, bits_per_byte and score (a share)."""


def task_cells(runs: pl.DataFrame, points: Points, task: str, chance: float | None = None) -> tuple[TaskCells, ...]:
    """The cells of `points`, whose losses are the task's bits per byte, with their scores; one value an arm.

    Scores stand in the column `tasks` of a sweep's table, in `score` and perhaps `chance` of another one. Cells without
    a score are left out. `chance` is for tables that do not say it.

    Raises LossError where no cell has a score, or chance is unknown, not a share, or differs between cells.
    """
    rows = dict(zip(runs["cell_id"].cast(pl.Utf8).to_list(), _scores(runs, task), strict=True))
    chance = _chance([row for row in rows.values() if row], task, chance)
    scores = pl.Series("score", [_share(rows.get(cell), task) for cell in points.frame["cell_id"]], dtype=pl.Float64)
    frame = points.frame.rename({"loss": "bits_per_byte"}).with_columns(scores).drop_nulls("score")
    if frame.is_empty():
        raise LossError(
            f"no cell has a score on {task} beside its bits per byte",
            fix=Fix(verb="eval", setting="tasks", value=task, words="score it with {}"),
        )
    columns = ("cell_id", "size", "budget", "params", "tokens", "flops", "trunk_key", "bits_per_byte", "score")
    return tuple(
        TaskCells(arm=arm, task=task, chance=chance, frame=frame.filter(pl.col("arm") == arm).select(columns))
        for arm in points.arms
    )


def _scores(runs: pl.DataFrame, task: str) -> list[dict[str, Any] | None]:
    """Score and chance of every row, None where a row has none."""
    if "tasks" in runs.columns:
        return [json.loads(text or "{}").get(task) for text in runs["tasks"]]
    if "score" not in runs.columns:
        raise LossError(
            f"the table has no scores on {task}",
            fix=Fix(setting="columns", value="score=COLUMN", words="name its column with {}"),
        )
    chances = runs["chance"].to_list() if "chance" in runs.columns else [None] * runs.height
    pairs = zip(runs["score"].to_list(), chances, strict=True)
    return [None if score is None else {"score": score, "chance": chance} for score, chance in pairs]


def _chance(rows: list[dict[str, Any]], task: str, stated: float | None) -> float:
    values = sorted({float(row["chance"]) for row in rows if row.get("chance") is not None})
    if stated is not None:
        values = [stated]
    if not values:
        raise LossError(
            f"the table does not say what picking at random gets on {task}",
            fix=Fix(setting="chance", value="SHARE", words="say it with {}"),
        )
    if len(values) > 1 or not 0 <= values[0] < 1:
        shares = ", ".join(f"{value:g}" for value in values)
        raise LossError(f"chance on {task} is {shares}: expected one share from 0 to below 1")
    return values[0]


def _share(row: dict[str, Any] | None, task: str) -> float | None:
    if row is None:
        return None
    score = float(row["score"])
    if not (math.isfinite(score) and 0 <= score <= 1):
        raise LossError(f"a score on {task} is {score:g}: expected a share from 0 to 1")
    return score
