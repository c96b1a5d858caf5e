"""Check what is derived from published segments against them: the cells, tables, fits, forecasts and MLflow runs of a
sweep."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import polars as pl

from analysis.runs.losses import OWN, TEXT
from analysis.runs.points import TableError, read_points
from orchestrator.maintenance.check_segment import CheckedSegment
from orchestrator.maintenance.findings import Finding, note, problem
from orchestrator.planning.canonical import OtherVersion
from orchestrator.planning.plan import cell_identity
from orchestrator.records.cell_names import cell_name
from orchestrator.records.fits.forecasts import MOVE_AWAY, UnreadableForecast, read_forecast
from orchestrator.records.revisions import Sweep, load_sweep
from orchestrator.records.status.states import CellStatus
from orchestrator.records.status.verified_cells import VerifiedCells
from orchestrator.records.table import segment_table, table
from orchestrator.records.terminal import command_line
from orchestrator.store.drivers import running_drivers
from orchestrator.store.pruned import is_pruned
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import PlannedSegment
from orchestrator.tracking.check import differences
from orchestrator.tracking.connection import DamagedStore, MirrorError
from orchestrator.tracking.cursor import is_sent, public_uri, sqlite_path, tracking_uri
from orchestrator.tracking.server import TrackingServerUnreachable, check_answers

EXECUTION = ["reason", "flags", "train_seconds", "attempts"]
"""Columns that may change after a cell is finished: another budget can divide the stretches that lead to it."""

Checked = dict[str, CheckedSegment]


def sweep_findings(store: Store, name: str, segments: Checked, *, ask_mlflow: bool) -> Iterator[Finding]:
    """Everything about one sweep."""
    path = store.sweep_folder(name) / "sweep.json"
    try:
        sweep = load_sweep(store, name)
    except (StoreError, OtherVersion) as error:
        yield problem(path, str(error), "move it away and run the sweep's command again")
        return
    runs = table(store, sweep)
    yield from _cell_findings(store, sweep, runs, segments)
    yield from _start_findings(store, sweep)
    yield from forecast_findings(store, name)
    if running_drivers(store, name):
        yield note(path, "the sweep is running: its tables, fits and MLflow are not compared", "ask again at its end")
        return
    yield from _table_findings(store, sweep, runs)
    yield from fit_findings(store, sweep, runs)
    if ask_mlflow:
        yield from _mlflow_findings(store, sweep)


def _cell_findings(store: Store, sweep: Sweep, runs: pl.DataFrame, segments: Checked) -> Iterator[Finding]:
    """I1: every planned cell is in one state, and a finished one rests on verified segments alone."""
    path = store.sweep_folder(sweep.name) / "sweep.json"
    for cell, row in zip(sweep.cells, runs.iter_rows(named=True), strict=True):
        if cell_identity(cell, str(cell.evaluate_segment)) != cell.cell_id:
            yield problem(path, f"cell {cell_name(cell)} is not what its id says", "move it away and run the command")
        if row["status"] not in get_args(CellStatus):
            yield problem(path, f"cell {cell_name(cell)} has the state {row['status']!r}", "report it as a defect")
        if row["status"] != "finished":
            continue
        evaluated = sweep.segments[str(cell.evaluate_segment)]
        for segment_id in (evaluated.id, *evaluated.needs):
            checked, folder = segments.get(segment_id), store.segment_folder(segment_id)
            if checked is None:
                fault = f"is gone, though {cell_name(cell)}, which rests on it, is finished"
                again = f"move {store.segment_folder(evaluated.id)} away and run the command again"
                yield problem(folder, fault, again)
            elif not checked.verified:
                yield problem(folder, f"does not verify, and {cell_name(cell)} rests on it", "as said of the segment")
    double = [name for name, count in Counter(cell.cell_id for cell in sweep.cells).items() if count > 1]
    for name in double:
        yield problem(path, f"plans the cell {name} more than once", "move it away and run the command again")


def _start_findings(store: Store, sweep: Sweep) -> Iterator[Finding]:
    """What unfinished cooldowns and evaluations start from is there."""
    for segment in sweep.segments.values():
        if segment.kind == "stable" or store.is_done(segment.id):
            continue
        for need in segment.needs:
            if store.is_done(need) and not store.checkpoint_folder(need).is_dir() and store.has_finished(need):
                use = f"a planned {segment.kind} to step {segment.stop_step} starts from it"
                yield _start_finding(store, sweep.segments[need], use)


def _start_finding(store: Store, need: PlannedSegment, use: str) -> Finding:
    """A state that is gone: a trunk's is made again where gc says that it took it, weights are not."""
    checkpoint, folder = store.checkpoint_folder(need.id), store.segment_folder(need.id)
    if need.kind == "stable" and is_pruned(store, need.id):
        return note(checkpoint, f"was pruned, and {use}", "nothing: the sweep's command takes its steps again")
    return problem(checkpoint, f"is gone, and {use}", f"move {folder} away and run the command again")


def _table_findings(store: Store, sweep: Sweep, runs: pl.DataFrame) -> Iterator[Finding]:
    """runs.parquet and segments.parquet are what the store says."""
    for name, current, key in (("runs", runs, "cell_id"), ("segments", segment_table(store, sweep), "segment_id")):
        path = store.sweep_folder(sweep.name) / f"{name}.parquet"
        if not path.exists():
            yield note(path, "is not written yet", "run the sweep's command to its end")
            continue
        try:
            written = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            yield problem(path, f"cannot be read ({error})", "run the sweep's command again: it writes it anew")
            continue
        if not written.equals(current):
            yield _table_finding(path, written, current, key)


def _table_finding(path: Path, written: pl.DataFrame, current: pl.DataFrame, key: str) -> Finding:
    """Older than the store, or wrong about something finished, which cannot change."""
    again = "run the sweep's command again: it writes it anew"
    if _planned_columns(written) != _planned_columns(current):
        return problem(path, "has other columns than this version writes", again)
    fixed = [name for name in written.columns if name not in EXECUTION and name in current.columns]
    finished = written.filter(pl.col("status") == "finished").select(fixed)
    wrong = finished.join(current.select(fixed), on=fixed, how="anti", nulls_equal=True)
    if wrong.height:
        return problem(path, f"{wrong.height} finished rows are not what the store says ({wrong[key][0][:12]})", again)
    return note(path, "is older than the store", again)


def _planned_columns(frame: pl.DataFrame) -> dict[str, pl.DataType]:
    """Names and types of the columns that every table has: those of texts and of own models' losses come as they are
    measured."""
    return {name: kind for name, kind in frame.schema.items() if not name.startswith((f"{TEXT}:", f"{OWN}:"))}


def fit_findings(store: Store, sweep: Sweep, runs: pl.DataFrame) -> Iterator[Finding]:
    """I9: fits.json was made from exactly the finished cells of the store."""
    path = store.sweep_folder(sweep.name) / "fits.json"
    again = command_line("fit", sweep.name, results=store.root)
    try:
        fits = json.loads(path.read_text())
        settings = fits["settings"]
        points = read_points(
            runs,
            loss_column=fits["loss_column"],
            leave_out_flags=tuple(settings["leave_out_flags"]),
            leave_out_cells=tuple(settings["leave_out_cells"]),
        )
        inputs_sha256, used = fits["inputs_sha256"], int(fits["num_points"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, TableError) as error:
        yield problem(path, f"cannot be read ({error!r})", again)
        return
    if inputs_sha256 == points.inputs_sha256:
        return
    if used < points.frame.height:
        yield note(path, f"was made from {used} cells, and {points.frame.height} can be used now", again)
    else:
        yield problem(path, "was made from other cells or losses than the store's finished ones", again)


def forecast_findings(store: Store, name: str) -> Iterator[Finding]:
    """Every forecast is as it was frozen, and says of its shape what its law says."""
    for path in store.forecast_files(name):
        try:
            read_forecast(path)
        except UnreadableForecast as error:
            yield problem(path, str(error).removeprefix(f"{path} ").removesuffix(f": {MOVE_AWAY}"), MOVE_AWAY)
    for path in sorted(store.forecasts_folder(name).glob("*.writing")):
        yield note(path, "is a forecast whose command is at work, or was killed", "delete it once none is")


def _mlflow_findings(store: Store, sweep: Sweep) -> Iterator[Finding]:
    """I7: MLflow equals the store where it was brought up to date, and there is one to ask."""
    uri = tracking_uri(store, sweep.name)
    location = sqlite_path(uri) or Path(public_uri(uri))
    again = command_line("mlflow", "sync", sweep.name, results=store.root)
    if sqlite_path(uri) is not None and not location.exists():
        yield note(location, "there is no MLflow store yet", again)
        return
    try:
        check_answers(uri)
        if left_out := VerifiedCells(store, sweep).faults():
            # Whatever brings MLflow up to date must not be advised for these: it may hold the only true loss.
            cells = f"{len(left_out)} cells are not compared and keep what it has of them"
            yield note(location, f"{cells}: their segments do not verify", "as said of the segments")
        sentences = differences(store, sweep, uri)
        if is_sent(store, sweep, uri):
            yield from (problem(location, line, again) for line in sentences)
        elif sentences:
            yield note(location, f"is behind the store: {sentences[0]}" + (" ..." if len(sentences) > 1 else ""), again)
    except DamagedStore as error:
        yield problem(location, str(error).removeprefix(f"{location} "), again)
    except (TrackingServerUnreachable, MirrorError) as error:
        yield note(location, f"is not compared: {error}", again)
