"""A file of anyone's runs -> a table, or one sentence that says why it is none."""

from pathlib import Path

import polars as pl

from analysis.runs.points import TableError
from mor_core.errors import Fix
from mor_core.files import why_unreadable

READERS = {
    # All rows decide the type of a column: a hundred whole numbers may be followed by a fraction.
    ".csv": lambda file: pl.read_csv(file, infer_schema_length=None),
    ".parquet": pl.read_parquet,
}


def read_table(path: Path) -> pl.DataFrame:
    """A CSV or Parquet file with at least one row.

    Raises:
        TableError: there is no such file, it is neither kind, is empty, has no rows or cannot be read.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise TableError(f"there is no file {path}.", fix=Fix(setting="table"))
    if suffix not in READERS:
        raise TableError(f"{path}: expected a .csv or .parquet file, found {path.suffix or 'no suffix'}.")
    if path.stat().st_size == 0:
        raise TableError(f"{path} is empty: expected a table with a header and a row for each run.")
    table = _read(path, suffix)
    if table.is_empty():
        raise TableError(f"{path} has a header and no rows: expected a row for each run.")
    return table


def _read(path: Path, suffix: str) -> pl.DataFrame:
    with path.open("rb") as file:
        try:
            return READERS[suffix](file)
        except pl.exceptions.PolarsError as error:
            reason = (_not_text(path) if suffix == ".csv" else "") or str(error).splitlines()[0].rstrip(".")
            raise TableError(f"{path} cannot be read as {suffix[1:]}: {reason}.") from error


def _not_text(path: Path) -> str:
    """Where a file stops being UTF-8; empty where it is text."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        return why_unreadable(error)
    return ""
