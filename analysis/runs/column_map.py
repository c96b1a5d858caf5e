"""What the columns of anyone's table mean.

A column map is written as `params=N,tokens=D*1e9,loss=val_loss,flops=C,arm=model`: on the left what a column means, on
the right its name in the table, with a factor where its unit is not parameters, tokens, nats/token or FLOPs. `arm=`
says that no column means this, whatever its name.
"""

import difflib
import math
from dataclasses import dataclass

from analysis.runs.points import TableError
from mor_core.errors import Fix

MEANINGS = {
    "params": "N, parameters",
    "tokens": "D, training tokens",
    "loss": "nats/token",
    "flops": "C, training FLOPs of the run",
    "budget": "the FLOPs that the run was planned for",
    "arm": "the architecture",
    "seed": "the seed",
    "size": "the name of the base shape",
    "trunk": "runs that share a trunk share this",
    "cell": "the name of the run",
    "status": "finished, or why not",
    "convention": "how FLOPs are counted",
    "epochs": "passes over the data",
    "unique_tokens": "tokens of the corpus that a run drew from",
    "steps": "optimiser steps",
    "warmup_steps": "steps of warm-up",
    "cooled": "whether the learning rate had come down",
    "unrolled_params": "parameters, each layer counted once per application",
    "recursions": "how often the shared block is applied",
    "depth": "mean recursions of a token, for routed models",
    "score": "the share of a task's items that are right",
    "chance": "the share that picking at random gets right",
}
REQUIRED = ("params", "tokens", "loss")
COLUMNS = Fix(setting="columns")
NUMBERS = (
    "params", "tokens", "loss", "flops", "budget", "epochs", "unique_tokens", "steps", "warmup_steps",
    "unrolled_params", "recursions", "depth", "score", "chance",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Column:
    """Where a quantity stands in a table."""

    name: str
    """The column; empty where the table is said to have none."""
    factor: float = 1.0
    """What its numbers are multiplied by."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What someone else's table calls its quantities: all that is known of how they were counted."""

    columns: dict[str, Column]
    """By meaning, of `MEANINGS`, where it stands in the table."""
    assumptions: dict[str, str]
    """By meaning that no column has, a sentence on how it was worked out."""

    @property
    def sentence(self) -> str:
        """Everything that was assumed, ended with a full stop; empty where nothing was."""
        text = "; ".join(self.assumptions.values())
        return f"{text[0].upper()}{text[1:]}." if text else ""


def parse_columns(text: str) -> dict[str, Column]:
    """`params=N,tokens=D*1e9` -> what stands where.

    Raises:
        TableError: a meaning is unknown or given twice, or a factor is no positive number.
    """
    columns: dict[str, Column] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        meaning, equals, where = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise TableError(f"found {part!r}, expected MEANING=COLUMN, such as params=N or tokens=D*1e9.", fix=COLUMNS)
        if meaning not in MEANINGS:
            close = difflib.get_close_matches(meaning, MEANINGS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise TableError(f"unknown meaning {meaning!r}: choose from {', '.join(MEANINGS)}.{hint}", fix=COLUMNS)
        if meaning in columns:
            raise TableError(f"{meaning} is given twice.", fix=COLUMNS)
        name, star, factor = (piece.strip() for piece in where.rpartition("*"))
        columns[meaning] = Column(name=name, factor=_factor(factor)) if star else Column(name=where)
    return columns


def columns_text(columns: dict[str, Column]) -> str:
    """The map as `parse_columns` reads it."""
    return ",".join(f"{meaning}={column_text(column)}" for meaning, column in columns.items())


def column_text(column: Column) -> str:
    """A column, with its factor where it has one: `D*1e+09`."""
    if column.factor == 1:
        return column.name
    short = f"{column.factor:g}"
    return f"{column.name}*{short if float(short) == column.factor else repr(column.factor)}"


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise TableError(f"factor {text!r} is not a positive number.", fix=COLUMNS)
    return factor
