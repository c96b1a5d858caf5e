"""What the columns of anyone's table mean.

A column map is written as `params=N,tokens=D*1e9,loss=val_loss,flops=C,arm=model`: on the left what a column means, on
the right its name in the table, with a factor where its unit is not parameters, tokens, nats/token or FLOPs.
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
    "steps": "optimiser steps",
    "warmup_steps": "steps of warm-up",
    "cooled": "whether the learning rate had come down",
    "unrolled_params": "parameters, each layer counted once per application",
    "recursions": "how often the shared block is applied",
    "depth": "mean recursions of a token, for routed models",
    "total_params": "parameters, embedding included: what lies in memory when serving",
    "kv": "numbers of keys and values that a token keeps over all layers when serving",
    "kv_read": "numbers of keys and values that a generated token reads for each token of its sequence, if not those",
}
REQUIRED = ("params", "tokens", "loss")
COLUMNS = Fix(setting="columns")
NUMBERS = (
    "params", "tokens", "loss", "flops", "budget", "epochs", "steps", "warmup_steps", "unrolled_params",
    "recursions", "depth", "total_params", "kv", "kv_read",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Column:
    """Where a quantity stands in a table."""

    name: str
    """The column."""
    factor: float = 1.0
    """What its numbers are multiplied by."""


def parse_columns(text: str) -> dict[str, Column]:
    """`params=N,tokens=D*1e9` -> what stands where.

    Raises:
        TableError: a meaning is unknown, missing or given twice, or a factor is no positive number.
    """
    found: dict[str, Column] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        meaning, equals, where = (each.strip() for each in part.partition("="))
        if not equals or not where:
            raise TableError(f"found {part!r}, expected MEANING=COLUMN, such as params=N or tokens=D*1e9.", fix=COLUMNS)
        if meaning not in MEANINGS:
            close = difflib.get_close_matches(meaning, MEANINGS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise TableError(f"unknown meaning {meaning!r}: choose from {', '.join(MEANINGS)}.{hint}", fix=COLUMNS)
        if meaning in found:
            raise TableError(f"{meaning} is given twice.", fix=COLUMNS)
        name, star, factor = (each.strip() for each in where.rpartition("*"))
        found[meaning] = Column(name=name, factor=_factor(factor)) if star else Column(name=where)
    missing = [meaning for meaning in REQUIRED if meaning not in found]
    if missing:
        raise TableError(f"no column for {', '.join(missing)}: a fit needs params, tokens and loss.", fix=COLUMNS)
    return found


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise TableError(f"factor {text!r} is not a positive number.", fix=COLUMNS)
    return factor
