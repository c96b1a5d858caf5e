"""Whether an SQLite file is whole, asked of SQLite itself before MLflow is: that would try again for minutes.

No table is read: what MLflow keeps in the file is asked through MLflow alone.
"""

import contextlib
import sqlite3
from pathlib import Path

from mor_core.errors import Unreachable

MAGIC = b"SQLite format 3\0"


class DamagedDatabase(Unreachable):
    """A file is no whole SQLite database; the message names it and what to do."""


def require_whole(path: Path) -> None:
    """Raises DamagedDatabase where a file is there and is no whole database. An empty file is one without tables."""
    if damage := _damage(path):
        raise DamagedDatabase(
            f"{path} {damage}: move it away, and `mor-sweep mlflow sync` builds it anew from the results"
        )


def _damage(path: Path) -> str:
    """What is wrong with a file; empty where nothing is, or where it is being written to."""
    if path.is_dir():
        return "is a folder, expected an SQLite database"
    if not path.is_file() or path.stat().st_size == 0:
        return ""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return "is not an SQLite database"
    try:
        return _complaint(path)
    except sqlite3.OperationalError:  # Another process writes, so it can read; or SQLite cannot, and MLflow says why.
        return ""
    except sqlite3.DatabaseError as error:
        return f"is damaged ({error})"


def _complaint(path: Path) -> str:
    """What SQLite's own check says first; empty where it finds nothing."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)) as database:
        (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    return "" if answer == "ok" else f"is damaged ({str(answer).splitlines()[-1]})"
