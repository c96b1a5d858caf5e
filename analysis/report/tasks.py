"""The scores of a sweep's cells on tasks, one row a cell, as Markdown, LaTeX, CSV or JSON."""

import json
from typing import Any

import polars as pl

from analysis.report.tables import Format, as_csv, as_json, as_latex, as_markdown
from analysis.runs.points import TableError
from mor_core.errors import Fix
from mor_core.units import budget_label

SCHEMA = "mor-sweep.task-table/1"
CELL = ("arm", "size", "budget", "seed")


def tabulate_tasks(runs: pl.DataFrame, form: Format) -> str:
    """Cells that were scored on at least one task, sorted by arm, size, budget and seed; ends with a newline.

    Scores are percentages with their standard errors in text, shares in CSV and JSON. `runs` is a sweep's run table.
    Raises TableError where no cell has a score.
    """
    scored = runs.filter(pl.col("tasks").is_not_null())
    rows = [row | {"tasks": json.loads(row["tasks"])} for row in scored.iter_rows(named=True)]
    if not rows:
        raise TableError(
            "no cell of the sweep has a score on a whole task",
            fix=Fix(verb="eval CELL", setting="tasks", value="all", words="score one with {}"),
        )
    rows.sort(key=lambda row: (row["arm"], row["size"], int(row["budget"]), row["seed"]))
    names = list(dict.fromkeys(name for row in rows for name in row["tasks"]))
    if form in (Format.csv, Format.json):
        numbers = [_numbers(row, names) for row in rows]
        return as_csv(numbers) if form is Format.csv else as_json(SCHEMA, numbers)
    head = [*CELL, "loss", *names, "average"]
    texts = [_texts(row, names) for row in rows] + [_chances(rows, names)]
    return as_markdown(head, texts) if form is Format.markdown else as_latex(head, texts)


def _numbers(row: dict[str, Any], names: list[str]) -> dict[str, str | float | None]:
    numbers: dict[str, str | float | None] = {name: row[name] for name in (*CELL, "loss")}
    for name in names:
        score = row["tasks"].get(name, {})
        numbers |= {name: score.get("score"), f"{name}_standard_error": score.get("standard_error")}
    return numbers | {"task_average": row["task_average"]}


def _texts(row: dict[str, Any], names: list[str]) -> list[str]:
    scores = [_score_text(row["tasks"].get(name)) for name in names]
    average = "" if row["task_average"] is None else f"{100 * row['task_average']:.1f}"
    cell = [row["arm"], row["size"], budget_label(row["budget"]), str(row["seed"])]
    return [*cell, f"{row['loss']:.4f}", *scores, average]


def _score_text(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    error = "" if score["standard_error"] is None else f" ± {100 * score['standard_error']:.1f}"
    return f"{100 * score['score']:.1f}{error}"


def _chances(rows: list[dict[str, Any]], names: list[str]) -> list[str]:
    """What chance gets, as a last row."""
    first = {name: next(row["tasks"][name] for row in rows if name in row["tasks"]) for name in names}
    return ["chance", "", "", "", "", *(f"{100 * first[name]['chance']:.1f}" for name in names), ""]
