"""Anyone's run table -> the columns that fits read. What was assumed, and what looks wrong, comes with it in words."""

import difflib
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import count

import polars as pl

from analysis.runs.column_map import MEANINGS, NUMBERS, Column, Reading
from analysis.runs.column_names import CONVENTION_6ND, is_6nd
from analysis.runs.losses import NATS_PER_TOKEN
from analysis.runs.points import TableError, has_fraction
from analysis.runs.quality import Suspicion, find_off_budget, find_reasons, find_suspicions

FACTOR_6ND = 6
SAME_BUDGET = 0.1
"""Largest step of ln C between neighbouring runs of one budget."""
WIDEST_BUDGET = 0.25
"""Largest spread of ln C within a budget."""
MIN_SIZES = 4
ANSWERS_PER_DECADE = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedTable:
    """A table in the columns that `analysis.runs.points.read_points` wants."""

    frame: pl.DataFrame
    """One row a run."""
    reading: Reading
    """What its columns are called, and what no column holds."""
    on_budgets: bool
    """True where most runs that are not left out lie on budgets with enough sizes for a parabola."""
    optima_at: tuple[str, ...]
    """Where else to ask a surface: budgets over the range of the runs, decimal FLOPs; empty if on_budgets."""
    clusters: tuple[str, ...] | None
    """Budgets found as clusters of its FLOPs, decimal FLOPs, ascending; None where the table or the caller has them."""
    notes: tuple[str, ...]
    """What was assumed."""
    suspicions: tuple[Suspicion, ...]
    """What looks like a mistake in a unit or convention."""


def import_table(
    table: pl.DataFrame,
    columns: dict[str, Column],
    *,
    convention: str | None = None,
    budgets: tuple[int, ...] = (),
    unit: str = NATS_PER_TOKEN,
) -> ImportedTable:
    """Bring a table into the columns that fits read, with quality control.

    Args:
        table: one row a run.
        columns: params and loss, and tokens or FLOPs at least; see `analysis.runs.column_names.complete_columns`.
        convention: how its FLOPs are counted, a name; found in the table or "as given" otherwise. "6nd" gives a table
            in which no run has tokens D = C / (6 N).
        budgets: the FLOPs that its runs were meant for; found as clusters of its FLOPs otherwise.
        unit: of its losses.

    Raises:
        TableError: a column is missing or no number, conventions are mixed, or FLOPs cannot be those of N and D.
    """
    rows = _rows(table, columns)
    has_flops = "flops" in columns or "budget" in columns
    has_tokens = any(row["tokens"] is not None for row in rows)
    stated = _convention(rows, has_flops, convention)
    if "flops" not in columns:
        rows = [row | {"flops": row.get("budget") or _six_nd(row)} for row in rows]
    if not has_tokens and has_flops and is_6nd(convention):
        rows = [row | {"tokens": _tokens_of_6nd(row)} for row in rows]
    rows = [row | {"epochs": _epochs(row)} for row in rows]
    reading = _reading(columns, has_flops=has_flops, has_tokens=has_tokens)
    notes = list(reading.assumptions.values())
    suspicions = tuple(
        find_suspicions(rows, columns["loss"].name, has_flops=has_flops, has_tokens=has_tokens, unit=unit)
    )
    impossible = next((suspicion for suspicion in suspicions if suspicion.impossible), None)
    if impossible:
        raise TableError(impossible.sentence)
    rows, clusters = _with_budgets(rows, budgets)
    if "seed" not in columns:
        rows = _with_seeds(rows)
        if any(row["seed"] for row in rows):
            notes.append("the table has no seeds: runs of one arm, size and budget count as seeds of each other")
    reasons = find_reasons(rows) | find_off_budget(rows)
    kept = [row for row in rows if row["cell"] not in reasons]
    on_budgets = 2 * sum(bool(row["on_budget"]) for row in kept) >= max(len(kept), 1)
    return ImportedTable(
        frame=_frame(rows, reasons, stated),
        reading=reading,
        on_budgets=on_budgets,
        optima_at=() if on_budgets else _answers(kept),
        clusters=clusters,
        notes=tuple(notes),
        suspicions=suspicions,
    )


def _rows(table: pl.DataFrame, columns: dict[str, Column]) -> list[dict]:
    missing = [column.name for column in columns.values() if column.name not in table.columns]
    if missing:
        close = difflib.get_close_matches(missing[0], table.columns, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise TableError(f"The table has no column {missing[0]!r}; it has {', '.join(table.columns)}.{hint}")
    chosen = [_values(table, meaning, column).alias(meaning) for meaning, column in columns.items()]
    if "tokens" not in columns:
        chosen.append(pl.Series("tokens", [None] * table.height, pl.Float64))
    names = [f"row {number + 1}" for number in range(table.height)]
    rows = pl.DataFrame(chosen).to_dicts()
    return [{"cell": name, "arm": "all runs"} | row for name, row in zip(names, rows, strict=True)]


def _values(table: pl.DataFrame, meaning: str, column: Column) -> pl.Series:
    """A column, as numbers where numbers are meant. Raises TableError with the row of the first that is none,
    counted from 1 below the header, as rows that are left out are."""
    values = table[column.name]
    if meaning not in (*NUMBERS, "seed"):
        return values
    kind = pl.Int64 if meaning == "seed" else pl.Float64
    try:
        numbers = values.cast(kind, strict=False)
    except pl.exceptions.PolarsError as error:
        raise TableError(f"Column {column.name!r} ({MEANINGS[meaning]}) holds {values.dtype}, not numbers.") from error
    is_wrong = numbers.is_null() & values.is_not_null()
    if meaning == "seed":
        is_wrong = numbers.is_null() | has_fraction(values)
    wrong = is_wrong.arg_true()
    if not wrong.is_empty():
        expected = "whole number" if meaning == "seed" else "number"
        first = wrong[0]
        content = "nothing" if values[first] is None else repr(values[first])
        more = f" ({len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
        raise TableError(
            f"Row {first + 1}, column {column.name!r} ({MEANINGS[meaning]}): found {content}, expected a "
            f"{expected}{more}: correct it, or leave the row out."
        )
    return numbers if meaning == "seed" else numbers * column.factor


def _reading(columns: dict[str, Column], *, has_flops: bool, has_tokens: bool) -> Reading:
    assumptions = {}
    if not has_flops:
        assumptions["flops"] = "the table has no FLOPs: C = 6 N D is assumed for every arm"
    if not has_tokens:
        assumptions["tokens"] = "the table has no tokens: D = C / (6 N), the convention 6nd, is assumed for every run"
        columns = {meaning: column for meaning, column in columns.items() if meaning != "tokens"}
    return Reading(columns=columns, assumptions=assumptions)


def _convention(rows: list[dict], has_flops: bool, convention: str | None) -> str:
    if not has_flops:
        return CONVENTION_6ND
    named = sorted({str(row["convention"]) for row in rows if row.get("convention") is not None})
    if len(named) > 1:
        raise TableError(
            f"The table mixes the FLOP conventions {', '.join(named)}: FLOPs counted differently are not comparable, "
            "so fit one convention at a time."
        )
    if is_6nd(convention):
        return CONVENTION_6ND
    return convention or (named[0] if named else "as given")


def _six_nd(row: dict) -> float | None:
    product = FACTOR_6ND * (row["params"] or math.nan) * (row["tokens"] or math.nan)
    return product if math.isfinite(product) and product > 0 else None


def _tokens_of_6nd(row: dict) -> float | None:
    """D = C / (6 N): C = 6 N D (Kaplan et al. 2020, arXiv:2001.08361, section 2.1) the other way round."""
    if not (_is_positive(row["flops"]) and _is_positive(row["params"])):
        return None
    return row["flops"] / (FACTOR_6ND * row["params"])


def _epochs(row: dict) -> float | None:
    """Passes over the text: as the table says, or tokens seen over those of the corpus."""
    if row.get("epochs") is not None or not (_is_positive(row.get("unique_tokens")) and _is_positive(row["tokens"])):
        return row.get("epochs")
    return row["tokens"] / row["unique_tokens"]


def _with_budgets(rows: list[dict], budgets: tuple[int, ...]) -> tuple[list[dict], tuple[str, ...] | None]:
    """Every row with the budget it was meant for as a decimal string, and whether it is on one; and the budgets that
    had to be found."""
    if budgets:
        return [_nearest(row, budgets) for row in rows], None
    if any(row.get("budget") for row in rows):
        return [
            row | {"budget": str(round(row["budget"] or 1)), "on_budget": bool(row["budget"]), "stated_budget": True}
            for row in rows
        ], None
    budget_of: dict[str, tuple[str, bool]] = {}
    for group in _neighbours(rows):
        spread = math.log(group[-1]["flops"] / group[0]["flops"])
        is_budget = spread <= WIDEST_BUDGET and len({row["params"] for row in group}) >= MIN_SIZES
        middle = _rounded(math.exp(sum(math.log(row["flops"]) for row in group) / len(group)), 3)
        budget_of |= {row["cell"]: (middle if is_budget else str(round(row["flops"])), is_budget) for row in group}
    clusters = sorted({budget for budget, is_budget in budget_of.values() if is_budget}, key=int)
    nowhere = ("1", False)
    return [
        row | dict(zip(("budget", "on_budget"), budget_of.get(row["cell"], nowhere), strict=True)) for row in rows
    ], tuple(clusters)


def _neighbours(rows: list[dict]) -> list[list[dict]]:
    """Rows in order of their FLOPs, in groups without a wide step between them."""
    groups: list[list[dict]] = []
    for row in sorted((row for row in rows if _is_positive(row["flops"])), key=lambda row: row["flops"]):
        if groups and math.log(row["flops"] / groups[-1][-1]["flops"]) <= SAME_BUDGET:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _nearest(row: dict, budgets: tuple[int, ...]) -> dict:
    if not _is_positive(row["flops"]):
        return row | {"budget": str(budgets[0]), "on_budget": False}
    budget = min(budgets, key=lambda flops: abs(math.log(row["flops"] / flops)))
    return row | {"budget": str(budget), "on_budget": True, "stated_budget": True}


def _with_seeds(rows: list[dict]) -> list[dict]:
    """Runs of one arm, size and budget are numbered in the order of the table."""
    seeds: dict[tuple, Iterator[int]] = defaultdict(count)
    return [row | {"seed": next(seeds[row["arm"], row["params"], row["budget"]])} for row in rows]


def _answers(rows: list[dict]) -> tuple[str, ...]:
    """Budgets over the range of the runs, a few per decade."""
    logs = [math.log10(row["flops"]) for row in rows if _is_positive(row["flops"])]
    if not logs:
        return ()
    first, last = math.ceil(min(logs) * ANSWERS_PER_DECADE), math.floor(max(logs) * ANSWERS_PER_DECADE)
    return tuple(_rounded(10 ** (step / ANSWERS_PER_DECADE), 2) for step in range(first, last + 1))


def _rounded(flops: float, digits: int) -> str:
    """Decimal FLOPs of so many digits: as a float, 1e23 is 99999999999999991611392."""
    return str(int(Decimal(f"{flops:.{digits}g}")))


def _architecture(row: dict) -> str:
    """Routed where a mean depth is given, otherwise of fixed depth."""
    if (row.get("recursions") or 1.0) <= 1:
        return "vanilla"
    return "recursive" if row.get("depth") is None else "mor"


def _is_positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _frame(rows: list[dict], reasons: dict[str, str], convention: str) -> pl.DataFrame:
    types = {
        "cell_id": pl.Utf8, "status": pl.Utf8, "reason": pl.Utf8, "arm": pl.Utf8, "size": pl.Utf8, "budget": pl.Utf8,
        "budget_convention": pl.Utf8, "seed": pl.Int64, "unique_params": pl.Float64, "tokens": pl.Float64,
        "flops": pl.Float64, "loss": pl.Float64, "trunk_id": pl.Utf8, "cooled": pl.Boolean,
        "unrolled_params": pl.Float64, "recursions": pl.Float64, "depth_mean": pl.Float64, "architecture": pl.Utf8,
        "epochs": pl.Float64,
    }  # fmt: skip
    of_tasks = [name for name in ("score", "chance") if any(name in row for row in rows)]
    full = []
    for row in rows:
        size = str(row.get("size") or (f"{row['params']:.6g}" if row["params"] else "unknown"))
        default_trunk = f"{row['arm']}/{size}/{row['budget']}/{row['seed']}/{row['cell']}"
        status = str(row.get("status") or "finished")
        full.append(
            {
                "cell_id": str(row["cell"]),
                "status": "left out" if row["cell"] in reasons else status,
                "reason": reasons.get(row["cell"]),
                "arm": str(row["arm"]),
                "size": size,
                "budget": row["budget"],
                "budget_convention": convention,
                "seed": row["seed"],
                "unique_params": row["params"],
                "tokens": row["tokens"],
                "flops": row["flops"],
                "loss": row["loss"],
                "trunk_id": str(row.get("trunk") or default_trunk),
                "cooled": row.get("cooled"),
                "unrolled_params": row.get("unrolled_params"),
                "recursions": row.get("recursions") or 1.0,
                "depth_mean": row.get("depth"),
                "architecture": _architecture(row),
                "epochs": row["epochs"],
                **{name: row[name] for name in of_tasks},
            }
        )
    return pl.DataFrame(full, schema=types | dict.fromkeys(of_tasks, pl.Float64))
