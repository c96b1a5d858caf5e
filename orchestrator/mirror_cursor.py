"""What the MLflow mirror of a sweep has sent, kept beside the sweep, so that a pass with nothing new costs nothing.

Light: no mlflow. The memory is only a shortcut. Where it is lost, the mirror asks MLflow what it holds.

    sweeps/<name>/mirror.json    tracking URI -> experiment, cell -> run, what was sent of it
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from orchestrator.cells import Cell
from orchestrator.origin import package_version
from orchestrator.records import table
from orchestrator.revisions import Sweep
from orchestrator.store import Store, replace_text

SCHEMA = "mor-sweep.mirror/1"

LAYOUT = 2
"""Raised whenever runs say the same results in other words: every run is then sent anew."""


MOST_SEGMENTS = 60
"""Of a chain that a tag shows, its last: MLflow refuses tags of more than a few thousand characters."""


@dataclass(frozen=True, kw_only=True)
class SentRun:
    """What has been sent of one cell."""

    run_id: str
    """Its MLflow run."""
    state: str
    """sha256 of the state of the cell that the run shows."""
    rows: int
    """Rows of the (thinned) curve that were sent."""
    rows_sha256: str
    """Of those rows."""


@dataclass(kw_only=True)
class Cursor:
    """What has been sent of a sweep to one MLflow store."""

    experiment_id: str = ""
    """The sweep's experiment; empty before the first pass."""
    runs: dict[str, SentRun] = field(default_factory=dict)
    """By cell id."""
    files: str = ""
    """sha256 of the figures and fits that were sent; empty where none were."""
    summary: str = ""
    """The run that holds them; empty where there is none."""


def tracking_uri(store: Store, name: str) -> str:
    """MLFLOW_TRACKING_URI where it is set, else the SQLite file in the sweep's folder. SQLite paths are absolute."""
    return absolute_uri(
        os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.sweep_folder(name).resolve() / 'mlflow.db'}"
    )


def absolute_uri(uri: str) -> str:
    """A tracking URI that means the same from any folder: the path of an SQLite store is made absolute."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of an SQLite store; None for any other kind of store."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri else Path(path).resolve()


def public_uri(uri: str) -> str:
    """A tracking URI without user name and password: fit for files, logs and messages."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def read_cursor(store: Store, name: str, uri: str) -> Cursor:
    """What has been sent to this tracking URI; an empty cursor where that is not known."""
    known = _read(_path(store, name)).get(public_uri(uri))
    if known is None:
        return Cursor()
    runs = {cell_id: SentRun(**sent) for cell_id, sent in known["runs"].items()}
    return Cursor(
        experiment_id=known["experiment_id"], runs=runs, files=known["files"], summary=known.get("summary", "")
    )


def write_cursor(store: Store, name: str, uri: str, cursor: Cursor) -> None:
    """Remember what has been sent to this tracking URI, beside what others were sent."""
    path = _path(store, name)
    stores = _read(path) | {public_uri(uri): asdict(cursor)}
    replace_text(path, json.dumps({"schema": SCHEMA, "stores": stores}))


def is_current(store: Store, sweep: Sweep, uri: str) -> bool:
    """Whether MLflow shows the sweep as the results store has it, as far as can be known without asking a server."""
    cursor = read_cursor(store, sweep.name, uri)
    sent = {cell_id: run.state for cell_id, run in cursor.runs.items()}
    if sent != cell_states(store, sweep) or cursor.files != files_sha256(summary_files(store, sweep.name)):
        return False
    path = sqlite_path(uri)
    return path is None or {run.run_id for run in cursor.runs.values()} <= _active_runs(path)


def cell_states(store: Store, sweep: Sweep) -> dict[str, str]:
    """cell id -> sha256 of everything that its run shows: its row of the table and the segments behind its curve."""
    trunks = {str(cell.trunk_id) for cell in sweep.cells}
    published = {trunk: store.published_trunk_steps(trunk) for trunk in trunks}
    states: dict[str, str] = {}
    for cell, row in zip(sweep.cells, table(store, sweep).iter_rows(named=True), strict=True):
        sources = [segment for step, segment in published[str(cell.trunk_id)] if step <= cell.decay_start]
        done = store.is_done(_decay_id(sweep, cell))
        states[str(cell.cell_id)] = sha256_of([LAYOUT, row, lineage_tags(sweep, cell), sources, done])
    return states


def lineage_tags(sweep: Sweep, cell: Cell) -> dict[str, str]:
    """What a cell's run was made of: plan, data, this program's version, the segments from its start to its loss."""
    chain = [f"{segment.kind} {segment.id}" for segment in sweep.chain(cell)]
    return {
        "mor.plan_revisions": str(sweep.revisions),
        "mor.settings": sweep.settings_id,
        "mor.data": Path(sweep.data_folder).name,
        "mor.version": package_version(),
        "mor.segments": "\n".join(chain[-MOST_SEGMENTS:]),
    }


FINDINGS = ("fits.json", "tuned.json", "recipe.toml", "pilot.json", "advised.toml")
"""What a fit, a tuning or a pilot writes beside a sweep's plans."""


def summary_files(store: Store, name: str) -> list[Path]:
    """A sweep's fits, findings, figures and pages of coloured text, as far as there are any; with them its plans, table
    and report."""
    folder = store.sweep_folder(name)
    figures = [path for path in (folder / "figures").glob("*") if path.suffix in (".png", ".svg", ".html")]
    drawn = sorted(figures) + [path for path in (folder / each for each in FINDINGS) if path.is_file()]
    beside = [folder / each for each in ("report.html", "runs.parquet", "sweep.json")]
    return drawn + [path for path in beside if drawn and path.is_file()]


def files_sha256(paths: list[Path]) -> str:
    """sha256 of the names and contents of files; empty for none."""
    return sha256_of([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in paths]) if paths else ""


def sha256_of(value: object) -> str:
    """sha256 of plain values, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _decay_id(sweep: Sweep, cell: Cell) -> str:
    return sweep.segments[str(cell.evaluate_segment)].needs[0]


def _active_runs(path: Path) -> set[str]:
    """Runs that an MLflow SQLite file holds and nobody has deleted; empty where it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            return {run for (run,) in database.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")}
    except sqlite3.Error:
        return set()


def _path(store: Store, name: str) -> Path:
    return store.sweep_folder(name) / "mirror.json"


def _read(path: Path) -> dict[str, Any]:
    """tracking URI -> cursor; empty where the file is missing, torn or of another version."""
    try:
        document = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return document["stores"] if isinstance(document, dict) and document.get("schema") == SCHEMA else {}
