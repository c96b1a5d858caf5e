"""What the MLflow mirror of a sweep has sent, kept beside the sweep, so that a pass with nothing new costs nothing.

This module loads no mlflow. What it keeps is only a shortcut: where it is lost, or where an SQLite store has been
written to since, the mirror asks MLflow which runs it has, and never reads MLflow's own tables.

    sweeps/<name>/mirror.json    tracking URI -> experiment, cell -> run, what was sent of it
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import polars as pl
from pydantic import TypeAdapter, ValidationError

from mor_core.errors import UserError, first_line
from mor_core.files import UnreadableFileError, file_sha256, read_json_object, replace_text
from orchestrator.planning.cells import Cell
from orchestrator.records.revisions import Sweep, package_version
from orchestrator.records.table import table
from orchestrator.store.store import Store

SCHEMA = "mor-sweep.mirror/1"

LAYOUT = 3
"""Raised whenever runs say the same results in other words: every run is then sent anew."""


VARIABLE = "MLFLOW_TRACKING_URI"
SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")
"""Stores that need a driver, which is a package of its own."""

_OR_UNSET = f", or unset {VARIABLE} to use the store in the sweep's own folder"

MOST_SEGMENTS = 60
"""Of a chain that a tag shows, its last: MLflow refuses tags of more than a few thousand characters."""


class TrackingUriError(UserError):
    """MLFLOW_TRACKING_URI names no store that MLflow could use; the message names it without its password."""


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
    database: str = ""
    """`database_state` of an SQLite store after the last whole pass; empty for any other store. Absent in what earlier
    versions wrote: MLflow is then asked once."""


_CURSOR = TypeAdapter(Cursor)


def tracking_uri(store: Store, name: str) -> str:
    """MLFLOW_TRACKING_URI where it is set, else the SQLite file in the sweep's folder. SQLite paths are absolute.

    Raises TrackingUriError.
    """
    uri = os.environ.get(VARIABLE, "")
    check_uri(uri)
    return absolute_uri(uri or sqlite_uri(store.sweep_folder(name).resolve() / "mlflow.db"))


def check_uri(uri: str, source: str = VARIABLE) -> None:
    """Raises TrackingUriError for a URI that is malformed, or names a database whose driver is not installed. `source`
    is where it was given."""
    try:
        parts = urlsplit(uri)
        if parts.scheme in SERVERS and not (parts.hostname and (parts.port is None or parts.port)):
            raise ValueError("it names no host")
    except ValueError as error:
        raise TrackingUriError(
            f"{source}: {public_uri(uri)} is malformed ({error}), expected such as http://HOST:PORT or "
            f"sqlite:///FILE: correct it{_OR_UNSET if source == VARIABLE else ''}"
        ) from error
    if parts.scheme.partition("+")[0] in DATABASES:
        _check_driver(uri, source)


def _check_driver(uri: str, source: str) -> None:
    """Ask SQLAlchemy, which MLflow does too, only later."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except (ImportError, ArgumentError) as error:
        cause = first_line(error).replace(uri, public_uri(uri))
        raise TrackingUriError(
            f"{source}: MLflow cannot use {public_uri(uri)} ({cause}): install that driver beside MLflow"
            f"{_OR_UNSET if source == VARIABLE else ''}"
        ) from error


def absolute_uri(uri: str) -> str:
    """A tracking URI that means the same from any folder: the path of an SQLite store is made absolute."""
    path = sqlite_path(uri)
    if path is None:
        return uri
    _, mark, options = uri.partition("?")
    return f"{sqlite_uri(path)}{mark}{options}"


def sqlite_uri(path: Path) -> str:
    """The tracking URI of an SQLite file. What would end the path, or be decoded within it, is percent-quoted."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of an SQLite store; None for any other kind of store."""
    location = uri.partition("?")[0]
    path = location.removeprefix("sqlite:///")
    return None if path == location else Path(unquote(path)).resolve()


def public_uri(uri: str) -> str:
    """A tracking URI without user name and password: fit for files, logs and messages."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # Malformed: whatever stands before an @ may be a password.
        return re.sub(r"//.*@", "//", uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def store_text(uri: str) -> str:
    """A tracking URI for people: an SQLite store as its file, seen from where the command runs; without a password."""
    path = sqlite_path(uri)
    if path is None:
        return public_uri(uri)
    folder = Path.cwd().resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def read_cursor(store: Store, name: str, uri: str) -> Cursor:
    """What has been sent to this tracking URI; an empty cursor where that is not known."""
    try:
        return _CURSOR.validate_python(_read(_path(store, name)).get(public_uri(uri), {}))
    except ValidationError:
        return Cursor()


def write_cursor(store: Store, name: str, uri: str, cursor: Cursor) -> None:
    """Remember what has been sent to this tracking URI, beside what others were sent."""
    path = _path(store, name)
    stores = _read(path) | {public_uri(uri): asdict(cursor)}
    replace_text(path, json.dumps({"schema": SCHEMA, "stores": stores}))


def is_sent(store: Store, sweep: Sweep, uri: str) -> bool:
    """Whether everything that the results store has of the sweep was sent, whatever became of it in MLflow since."""
    cursor = read_cursor(store, sweep.name, uri)
    sent = {cell_id: run.state for cell_id, run in cursor.runs.items()}
    return sent == cell_states(store, sweep) and cursor.files == summary_sha256(store, sweep.name)


def is_current(store: Store, sweep: Sweep, uri: str) -> bool:
    """Whether MLflow shows the sweep as the results store has it, as far as can be known without asking MLflow.

    An SQLite store counts as current while its file is the one that the last pass left behind. Where anything wrote to
    it since (a run deleted in the UI, another sweep's mirror), the next pass asks MLflow, and finds most often that
    there is nothing to send. A server is not asked.
    """
    if not is_sent(store, sweep, uri):
        return False
    path = sqlite_path(uri)
    return path is None or read_cursor(store, sweep.name, uri).database == database_state(path) != ""


def database_state(path: Path) -> str:
    """Which file an SQLite store is and when it was last written; empty where there is none."""
    try:
        state = path.stat()
    except OSError:
        return ""
    return f"{state.st_ino} {state.st_size} {state.st_mtime_ns}"


def cell_states(store: Store, sweep: Sweep) -> dict[str, str]:
    """cell id -> sha256 of everything that its run shows: its row of the table, the segments behind its curve, and its
    residual from the fitted parabola."""
    trunks = {str(cell.trunk_id) for cell in sweep.cells}
    published = {trunk: store.published_trunk_steps(trunk) for trunk in trunks}
    states: dict[str, str] = {}
    runs = table(store, sweep)
    gaps = parabola_gaps(store, sweep.name, runs)
    for cell, row in zip(sweep.cells, runs.iter_rows(named=True), strict=True):
        sources = [segment for step, segment in published[str(cell.trunk_id)] if step <= cell.decay_start]
        weights = sweep.segments[str(cell.evaluate_segment)].needs[0]
        lineage, gap = lineage_tags(sweep, cell), gaps.get(str(cell.cell_id))
        states[str(cell.cell_id)] = sha256_of([LAYOUT, row, lineage, sources, store.is_done(weights), gap])
    return states


def parabola_gaps(store: Store, name: str, runs: pl.DataFrame) -> dict[str, float]:
    """cell id -> its residual from the parabola that was fitted to it, in units of the loss that the last `fit` was of;
    empty without such a fit."""
    rows = {row["cell_id"]: row for row in runs.iter_rows(named=True)}
    try:
        fits = read_json_object(store.sweep_folder(name) / "fits.json")
        column = fits["loss_column"]
        fitted = [(rows[cell_id], parabola) for cell_id, parabola in _parabolas(fits) if cell_id in rows]
        return {row["cell_id"]: _residual(row, column, parabola) for row, parabola in fitted if row[column] is not None}
    except (FileNotFoundError, UnreadableFileError, KeyError, TypeError, ValueError, AttributeError):
        return {}  # No fit, or one of another version: a mirror shows what it can.


def _residual(row: dict[str, Any], loss_column: str, parabola: dict[str, Any]) -> float:
    """loss - (L* + curvature (ln N - ln N*)^2)."""
    distance = math.log(row["unique_params"] / parabola["optimum"])
    return row[loss_column] - parabola["minimum_loss"] - parabola["curvature"] * distance**2


def _parabolas(fits: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(cell id, the parabola over N that was fitted to it) of every believed minimum."""
    for frontier in fits["frontiers"]:
        for isoflop in frontier["isoflops"]:
            if "optimum" in isoflop["params"]:
                yield from ((cell_id, isoflop["params"]) for cell_id in isoflop["params"]["cell_ids"])


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
    drawn = sorted(figures) + [path for path in (folder / file for file in FINDINGS) if path.is_file()]
    beside = [folder / file for file in ("report.html", "runs.parquet", "sweep.json")]
    return drawn + [path for path in beside if drawn and path.is_file()]


def summary_sha256(store: Store, name: str) -> str:
    """sha256 of what the summary run shows of a sweep beside its points: files, and forecasts as tags; empty for
    nothing."""
    paths = [*summary_files(store, name), *store.forecast_files(name)]
    return sha256_of([[path.name, file_sha256(path)] for path in paths]) if paths else ""


def sha256_of(value: object) -> str:
    """sha256 of plain values, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _path(store: Store, name: str) -> Path:
    return store.sweep_folder(name) / "mirror.json"


def _read(path: Path) -> dict[str, Any]:
    """tracking URI -> cursor; empty where the file is missing, torn or of another version."""
    try:
        document = read_json_object(path)
    except (FileNotFoundError, UnreadableFileError):
        return {}
    stores = document.get("stores")
    return stores if document.get("schema") == SCHEMA and isinstance(stores, dict) else {}
