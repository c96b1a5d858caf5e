"""Run table -> clean points, with a reason for every row that is left out.

Any table with the required columns can enter here; nothing below this file sees a raw row.
"""

import hashlib
import math
from dataclasses import dataclass

import polars as pl

from analysis.runs.losses import OF_VALIDATION, Loss, loss_values, no_cell_has, parse_loss
from mor_core.errors import UserError

REQUIRED_COLUMNS = (
    "cell_id",
    "status",
    "arm",
    "size",
    "budget",
    "budget_convention",
    "seed",
    "unique_params",
    "tokens",
    "trunk_id",
)
CELL_KEY = ("arm", "size", "budget", "seed")
SAME_CORPUS = 0.01
"""Step of ln U within which two corpora are of one size."""


class TableError(UserError):
    """A run table that cannot be read as one: a column is missing, a budget is no integer, conventions are mixed."""


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """One row of the run table that no fit uses."""

    cell_id: str
    """The row's cell."""
    arm: str
    """Its architecture."""
    size: str
    """Its base shape."""
    budget: str
    """Its budget in FLOPs, an exact decimal integer."""
    seed: int
    """Its seed."""
    reason: str
    """Why it is left out, one sentence."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """The rows that fits use, and the rows that they do not."""

    frame: pl.DataFrame
    """One row a point, sorted by arm, budget, size and seed: cell_id, arm, size, budget (decimal string), flops (those
    of the run where the table has them, otherwise the budget), seed, params (unique, non-embedding), tokens, loss
    (in `loss_unit`), trunk_id, trunk_key, cooled (null where the table does not say)."""
    exclusions: tuple[Exclusion, ...]
    """Every other row of the table, with its reason, sorted by cell."""
    loss_column: str
    """The column that became `loss`: its name."""
    loss_unit: str
    """Its unit (see `analysis.runs.losses`)."""
    budget_convention: str
    """The FLOP convention of the budgets; empty for an empty table."""
    inputs_sha256: str
    """Hash of the points and exclusions, independent of the order of rows: what a fit was made from."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms of the table in alphabetical order, those with no usable point included."""
        named = {exclusion.arm for exclusion in self.exclusions} | set(self.frame["arm"].to_list())
        return tuple(sorted(named))

    def of_arm(self, arm: str) -> pl.DataFrame:
        """The rows of `frame` that are of `arm`."""
        return self.frame.filter(pl.col("arm") == arm)

    def budgets_of(self, arm: str) -> tuple[str, ...]:
        """Budgets at which the table has a row of `arm`, usable or not, in ascending order."""
        budgets = {exclusion.budget for exclusion in self.exclusions if exclusion.arm == arm}
        budgets |= set(self.of_arm(arm)["budget"].to_list())
        return tuple(sorted(budgets, key=int))


def read_points(
    table: pl.DataFrame,
    *,
    loss_column: str = "loss",
    leave_out_flags: tuple[str, ...] = (),
    leave_out_cells: tuple[str, ...] = (),
) -> Points:
    """Keep the finished cells of `table` whose numbers are usable; say why for the others.

    Seeds are kept as separate points. Two rows of one (arm, size, budget, seed) that agree count once; two that
    disagree are both left out, because choosing between them would be a guess. Rows whose `epochs` say that they drew
    from corpora of different sizes are different runs.

    Raises:
        TableError: a column is missing, a budget is not a decimal integer, a seed has a fraction, or budget conventions
            are mixed.
        LossError: the loss is unknown, no finished cell has it, or it is of different items.
    """
    loss = parse_loss(loss_column)
    _check_table(table, loss)
    rows = _plain_rows(table.with_columns(_losses(table, loss)))
    judged = {row["cell_id"]: _row_reason(row, loss, leave_out_flags, leave_out_cells) for row in rows}
    reasons = {cell_id: reason for cell_id, reason in judged.items() if reason}
    reasons |= _duplicate_reasons([row for row in rows if row["cell_id"] not in reasons])
    kept = [row for row in rows if row["cell_id"] not in reasons]
    exclusions = tuple(
        Exclusion(reason=reasons[row["cell_id"]], **{name: row[name] for name in ("cell_id", *CELL_KEY)})
        for row in rows
        if row["cell_id"] in reasons
    )
    conventions = table["budget_convention"].unique().to_list()
    return Points(
        frame=_frame(kept),
        exclusions=exclusions,
        loss_column=loss.name,
        loss_unit=loss.unit,
        budget_convention=str(conventions[0]) if conventions else "",
        inputs_sha256=_sha256(kept, exclusions, loss.name),
    )


def _check_table(table: pl.DataFrame, loss: Loss) -> None:
    needed = (*REQUIRED_COLUMNS, loss.name) if loss.name in OF_VALIDATION else REQUIRED_COLUMNS
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise TableError(
            f"The run table has no column {', '.join(map(repr, missing))}: a fit needs {', '.join(needed)}."
        )
    conventions = sorted(map(str, table["budget_convention"].unique().to_list()))
    if len(conventions) > 1:
        raise TableError(
            f"The run table mixes the budget conventions {', '.join(conventions)}: budgets counted differently are "
            "not comparable, so fit one convention at a time."
        )
    for budget in table["budget"].unique().to_list():
        if not (isinstance(budget, str) and budget.isascii() and budget.isdigit() and int(budget) > 0):
            raise TableError(
                f"Budget {budget!r} is not a positive decimal integer string: 16.5e18 is '16500000000000000000'."
            )
    if (cut := table.filter(has_fraction(table["seed"]))).height:
        cell, seed = cut.row(0, named=True)["cell_id"], cut["seed"][0]
        raise TableError(
            f"Cell {cell!r} has the seed {seed:g}, expected a whole number: correct it, or leave the row out."
        )
    if table["cell_id"].n_unique() != table.height:
        twice = table.filter(pl.col("cell_id").is_duplicated())["cell_id"].sort().item(0)
        raise TableError(f"Cell {twice!r} has more than one row in the run table: one row a cell is expected.")


def has_fraction(values: pl.Series) -> pl.Series:
    """Where numbers are not whole, which a cast to integers would cut in silence."""
    if not values.dtype.is_float():
        return pl.repeat(False, len(values), eager=True)
    return (values != values.floor()).fill_null(False)


def _losses(table: pl.DataFrame, loss: Loss) -> pl.Series:
    """The loss of every row, as the column `loss`. Raises LossError where no finished cell has one."""
    values = loss_values(table, loss)
    finished = table["status"] == "finished"
    is_always_there = loss.name in ("loss", "loss_topk")
    if values is None or (finished.any() and not is_always_there and values.filter(finished).is_null().all()):
        raise no_cell_has(table, loss)
    return values.alias("loss")


def _plain_rows(table: pl.DataFrame) -> list[dict]:
    optional = [
        pl.col(name).cast(pl.Utf8) if name in table.columns else pl.lit(None, dtype=pl.Utf8).alias(name)
        for name in ("reason", "flags")
    ]
    numbers = [
        pl.col(name).cast(pl.Float64, strict=name == "flops")
        if name in table.columns
        else pl.lit(None, dtype=pl.Float64).alias(name)
        for name in ("flops", "epochs")
    ]
    columns = table.select(
        pl.col("cell_id", "status", "arm", "size", "budget", "trunk_id").cast(pl.Utf8),
        pl.col("seed").cast(pl.Int64),
        pl.col("unique_params").cast(pl.Float64).alias("params"),
        pl.col("tokens").cast(pl.Float64),
        pl.col("loss").cast(pl.Float64),
        *optional,
        *numbers,
        _cooled(table),
    )
    return sorted((row | {"corpus": _corpus(row)} for row in columns.to_dicts()), key=_row_order)


def _corpus(row: dict) -> str:
    """A name for the size of the corpus that a run drew from, the same within `SAME_CORPUS`; empty where the table does
    not say it."""
    tokens, epochs = row["tokens"], row["epochs"]
    if not (tokens and epochs and tokens > 0 and epochs > 0 and math.isfinite(tokens / epochs)):
        return ""
    return f"{math.exp(round(math.log(tokens / epochs) / SAME_CORPUS) * SAME_CORPUS):.0f}"


def _cooled(table: pl.DataFrame) -> pl.Expr:
    """Whether a run's learning rate had come down at its end: said outright, or by its schedule; null if unknown."""
    if "cooled" in table.columns:
        return pl.col("cooled").cast(pl.Boolean)
    if not {"schedule", "steps", "decay_start"} <= set(table.columns):
        return pl.lit(None, dtype=pl.Boolean).alias("cooled")
    return ((pl.col("schedule") == "cosine") | (pl.col("decay_start") < pl.col("steps"))).alias("cooled")


def _row_order(row: dict) -> tuple:
    return row["arm"], int(row["budget"]), row["params"] or 0.0, row["size"], row["seed"], row["cell_id"]


def _row_reason(row: dict, loss: Loss, flags: tuple[str, ...], cells: tuple[str, ...]) -> str:
    if row["status"] != "finished":
        return f"{row['status']}: {row['reason']}" if row["reason"] else f"{row['status']}"
    if row["cell_id"] in cells:
        return "left out by request"
    carried = [flag for flag in (row["flags"] or "").split(";") if flag in flags]
    if carried:
        return f"flagged {', '.join(carried)}"
    if loss.kind and row["loss"] is None:
        return f"{loss.name} was not measured"
    for name in ("loss", "params", "tokens"):
        value = row[name]
        if value is None or not math.isfinite(value) or value <= 0:
            return f"its {name} is {value}, not a positive finite number"
    return ""


def _duplicate_reasons(rows: list[dict]) -> dict[str, str]:
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((*(row[name] for name in CELL_KEY), row["corpus"]), []).append(row)
    reasons: dict[str, str] = {}
    for group in groups.values():
        first, *others = sorted(group, key=lambda row: row["cell_id"])
        if len({(row["params"], row["tokens"], row["loss"]) for row in group}) == 1:
            reasons |= {row["cell_id"]: f"the same run as cell {first['cell_id']}" for row in others}
            continue
        names = ", ".join(row["cell_id"] for row in (first, *others))
        reason = f"cells {names} disagree on one arm, size, budget and seed; choosing one would be a guess"
        reasons |= {row["cell_id"]: reason for row in group}
    return reasons


def _frame(rows: list[dict]) -> pl.DataFrame:
    columns = {
        "cell_id": pl.Utf8,
        "arm": pl.Utf8,
        "size": pl.Utf8,
        "budget": pl.Utf8,
        "flops": pl.Float64,
        "seed": pl.Int64,
        "params": pl.Float64,
        "tokens": pl.Float64,
        "loss": pl.Float64,
        "trunk_id": pl.Utf8,
        "trunk_key": pl.Utf8,
        "cooled": pl.Boolean,
    }
    keys = _trunk_keys(rows)
    full = [
        row | {"flops": row["flops"] or float(row["budget"]), "trunk_key": keys[row["arm"], row["trunk_id"]]}
        for row in rows
    ]
    return pl.DataFrame([{name: row[name] for name in columns} for row in full], schema=columns)


def _trunk_keys(rows: list[dict]) -> dict[tuple[str, str], str]:
    """A name for each trunk that two arms share when they trained the same size with the same seed (the same data in
    the same order), so that resampling can pair them. Where an (arm, size, seed) has several trunks, they are numbered
    by budget. Where cells differ in their corpus alone, it is part of the name: numbers would pair different ones."""
    cells = {tuple(row[name] for name in CELL_KEY) for row in rows}
    has_corpora = len(cells) < len(rows)
    trunks: dict[tuple[str, str, int, str], dict[str, None]] = {}  # keys in order, each once
    for row in rows:
        corpus = row["corpus"] if has_corpora else ""
        trunks.setdefault((row["arm"], row["size"], row["seed"], corpus), {})[row["trunk_id"]] = None
    return {
        (arm, trunk): f"{size}/{seed}/{number}{'/' if corpus else ''}{corpus}"
        for (arm, size, seed, corpus), trunk_ids in trunks.items()
        for number, trunk in enumerate(trunk_ids)
    }


def _sha256(rows: list[dict], exclusions: tuple[Exclusion, ...], loss_column: str) -> str:
    digest = hashlib.sha256(loss_column.encode())
    for row in rows:
        digest.update(
            repr([row[name] for name in ("cell_id", *CELL_KEY, "params", "tokens", "loss", "trunk_id")]).encode()
        )
        if row["flops"] is not None:
            digest.update(repr(row["flops"]).encode())
    for exclusion in exclusions:
        digest.update(repr(exclusion).encode())
    return digest.hexdigest()
