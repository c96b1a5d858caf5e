"""The MLflow mirror of a sweep: one flat run a cell, rebuilt from the results store where MLflow holds anything else.

Training never talks to MLflow: while a sweep runs, this is called by a process of its own
(`orchestrator.tracking.follower`). MLflow itself is asked through `orchestrator.tracking.connection`.

Every metric point carries a timestamp that depends on its step alone, and MLflow stores equal points once, so sending
twice changes nothing. A run that holds a point or a parameter which the store contradicts is replaced by a new one.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from mor_core.files import file_sha256
from orchestrator.planning.cells import Cell
from orchestrator.records.curves import curve
from orchestrator.records.revisions import Sweep
from orchestrator.records.status.verified_cells import VerifiedCells, fault_lines
from orchestrator.records.table import table
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.tracking.connection import (
    LOCK_SECONDS,
    MirrorError,
    create_experiment,
    log_points,
    log_texts,
    mlflow_errors,
    open_client,
    require_whole,
    runs_of,
    set_experiment_aside,
)
from orchestrator.tracking.content import (
    FIRST,
    GAP,
    NO_STEP,
    MetricPoint,
    RunContent,
    curve_points,
    isoflop_points,
    run_content,
)
from orchestrator.tracking.cursor import (
    Cursor,
    SentRun,
    cell_states,
    database_state,
    lineage_tags,
    parabola_gaps,
    read_cursor,
    sha256_of,
    sqlite_path,
    summary_files,
    summary_sha256,
    write_cursor,
)

if TYPE_CHECKING:
    from orchestrator.tracking.connection import MlflowClient, Run

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a description."""

SUMMARY = "frontier"
"""Name of the run that holds a sweep's figures and fits."""


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What one pass sent."""

    created: int
    """Runs that MLflow did not have, or had wrong."""
    updated: int
    """Runs that were brought up to date."""
    points: int
    """Metric points sent."""
    problems: tuple[str, ...]
    """What could not be read from the results store, or was changed there, one sentence each: what MLflow has of the
    cells that rest on it stays as it is."""


def sync(store: Store, sweep: Sweep, uri: str, *, thorough: bool = False) -> SyncReport:
    """Bring MLflow up to date with the results store; `thorough` compares every run's curve and not only what changed.

    Raises MirrorError where MLflow cannot be reached or refuses. Passes over one sweep take turns.
    """
    require_whole(uri)
    path = sqlite_path(uri)
    try:
        with FileLock(store.sweep_folder(sweep.name) / "mirror.lock", timeout=LOCK_SECONDS), mlflow_errors(uri):
            cursor = read_cursor(store, sweep.name, uri)
            try:
                client = open_client(uri, store)
                report = _Pass(store=store, sweep=sweep, client=client, cursor=cursor, thorough=thorough).run(path)
                cursor.database = "" if path is None else database_state(path)
                return report
            finally:
                write_cursor(store, sweep.name, uri, cursor)
    except Timeout as error:
        raise MirrorError(
            f"another process has been sending the sweep {sweep.name!r} for {LOCK_SECONDS:g} s"
        ) from error


@dataclass(kw_only=True)
class _Pass:
    """One pass over one sweep. The cursor grows as runs are sent, so that a pass cut short is not lost.

    A pass may repeat whatever an earlier one has sent, with its cursor or without: runs are found again by their cell,
    and equal points are one.
    """

    store: Store
    sweep: Sweep
    client: "MlflowClient"
    cursor: Cursor
    thorough: bool
    created: int = 0
    updated: int = 0
    points: int = 0

    def run(self, path: Path | None) -> SyncReport:
        """Send every cell whose run is missing or shows another state, then the figures. `path` is an SQLite store's
        file."""
        self.cursor.experiment_id = self._experiment(path)
        runs = self._held_runs()
        states, faults = cell_states(self.store, self.sweep), dict[Cell, str]()
        verified = VerifiedCells(self.store, self.sweep)
        self._delete_left_out(runs, states)
        rows = table(self.store, self.sweep)
        gaps = parabola_gaps(self.store, self.sweep.name, rows)
        for cell, row in zip(self.sweep.cells, rows.iter_rows(named=True), strict=True):
            run, sent, state = runs.get(row["cell_id"]), self.cursor.runs.get(row["cell_id"]), states[row["cell_id"]]
            is_same_run = run is not None and sent is not None and sent.run_id == run.info.run_id
            if is_same_run and sent is not None and sent.state == state and not self.thorough:
                continue
            if fault := verified.fault(cell):
                faults[cell] = fault
                continue
            try:
                lineage, gap = lineage_tags(self.sweep, cell), gaps.get(row["cell_id"])
                content = run_content(row, curve(self.store, self.sweep, cell), lineage, gap)
            except StoreError as error:
                faults[cell] = str(error)
                continue
            self.cursor.runs[content.cell_id] = self._send(content, run, sent if is_same_run else None, state)
        if not faults:  # The IsoFLOP picture that MLflow has may hold the last good loss of a cell.
            self._send_summary(runs.get(SUMMARY))
            self._describe()
        return SyncReport(
            created=self.created, updated=self.updated, points=self.points, problems=tuple(fault_lines(faults))
        )

    def _experiment(self, path: Path | None) -> str:
        """The sweep's experiment, made or brought back where it is gone; `path` is an SQLite store's file.

        Where the results folder was moved, the experiment in its own store would have MLflow write artifacts to the old
        place, which no call can change: it steps aside for a new one.
        """
        name = self.sweep.name
        folder = self.store.sweep_folder(name).resolve()
        artifacts = (folder / "artifacts").as_uri() if path is not None else None
        experiment = self.client.get_experiment_by_name(name)
        if experiment and path == folder / "mlflow.db" and experiment.artifact_location != artifacts:
            set_experiment_aside(self.client, experiment)
            experiment = None
        if experiment is None:
            if experiment_id := create_experiment(self.client, name, artifacts):
                return experiment_id
            experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            raise MirrorError(f"MLflow neither has nor makes the experiment {name!r}")
        if experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id

    def _held_runs(self) -> "dict[str, Run]":
        """cell id -> the run that MLflow holds; the summary run under its own key. Of doubles the oldest stays."""
        runs: dict[str, Run] = {}
        for run in runs_of(self.client, self.cursor.experiment_id):
            tags = run.data.tags
            key = SUMMARY if tags.get("mor.kind") == "summary" else tags.get("mor.cell")
            if key in runs:
                self.client.delete_run(run.info.run_id)
            elif key:
                runs[key] = run
        return runs

    def _delete_left_out(self, runs: "dict[str, Run]", states: dict[str, str]) -> None:
        """Take away the runs of cells that the sweep no longer has, as far as this results folder sent them."""
        for cell_id in self.cursor.runs.keys() - states.keys():
            sent, run = self.cursor.runs[cell_id], runs.get(cell_id)
            if run is not None and run.info.run_id == sent.run_id:
                self.client.delete_run(sent.run_id)
            del self.cursor.runs[cell_id]

    def _send(self, content: RunContent, run: "Run | None", sent: SentRun | None, state: str) -> SentRun:
        """Create or complete the run of a cell."""
        start = sent.rows if sent and sha256_of(content.rows[: sent.rows]) == sent.rows_sha256 else 0
        if self.thorough:
            start = 0
        if run is not None and (_contradicts(run, content) or (start == 0 and self._has_other_points(run, content))):
            self.client.delete_run(run.info.run_id)
            run, start = None, 0
        if run is None:
            self.created += 1
            run = self.client.create_run(self.cursor.experiment_id, tags=content.tags, run_name=content.name)
        else:
            self.updated += 1
        self._send_content(run, content, start)
        return SentRun(run_id=run.info.run_id, state=state, rows=len(content.rows), rows_sha256=sha256_of(content.rows))

    def _has_other_points(self, run: "Run", content: RunContent) -> bool:
        """Whether the run's loss curve holds a point that the store does not have."""
        expected = {(step, value) for name, value, step in curve_points(content.rows) if name == "train/loss"}
        history = self.client.get_metric_history(run.info.run_id, "train/loss")
        return not {(point.step, point.value) for point in history} <= expected

    def _send_content(self, run: "Run", content: RunContent, start: int) -> None:
        """Points, then tags, then the status, so that a run that looks finished is complete."""
        points = [(point, 1000 * point[2]) for point in (*curve_points(content.rows[start:]), *content.final)]
        if content.gap is not None and run.data.metrics.get(GAP) != content.gap:
            # Of points at one step MLflow shows the one with the latest time: that of the last fit.
            points.append(((GAP, content.gap, NO_STEP), round(1000 * time.time())))
        log_points(self.client, run.info.run_id, points)
        log_texts(self.client, run.info.run_id, content.params, content.tags)
        self.points += len(points)
        if content.status in ("FINISHED", "FAILED"):
            ended = run.info.start_time + round(1000 * content.seconds)
            self.client.set_terminated(run.info.run_id, status=content.status, end_time=ended)
        else:
            self.client.update_run(run.info.run_id, status=content.status)

    def _send_summary(self, run: "Run | None") -> None:
        """Figures, fits, report, plans and the table as artifacts of one more run, named after what they show; the
        IsoFLOP picture as its metrics, and forecasts as its tags."""
        paths = summary_files(self.store, self.sweep.name)
        digest = summary_sha256(self.store, self.sweep.name)
        is_sent = run is not None and run.data.tags.get("mor.files") == digest
        if digest and (self.thorough or not is_sent):
            points = set(isoflop_points(table(self.store, self.sweep).iter_rows(named=True)))
            if run is not None and not self._summary_points(run) <= points:
                self.client.delete_run(run.info.run_id)  # Points of a metric cannot be taken back.
                run = None
            tags = {"mor.kind": "summary", "mor.sweep": self.sweep.name, "mlflow.source.name": "mor-sweep"}
            tags["mor.order"] = FIRST
            run = run or self.client.create_run(self.cursor.experiment_id, tags=tags, run_name=SUMMARY)
            log_points(self.client, run.info.run_id, [(point, point[2]) for point in sorted(points)])
            for path in paths:
                self.client.log_artifact(run.info.run_id, str(path))
            for name, text in self._forecast_tags():
                self.client.set_tag(run.info.run_id, name, text)
            self.client.set_tag(run.info.run_id, "mor.files", digest)
            self.client.set_terminated(run.info.run_id, status="FINISHED", end_time=run.info.start_time)
        if run is not None and run.data.tags.get("mor.order") != FIRST:  # Of a mirror of an earlier version.
            self.client.set_tag(run.info.run_id, "mor.order", FIRST)
        self.cursor.files = digest
        self.cursor.summary = run.info.run_id if run is not None else ""

    def _describe(self) -> None:
        """Links to figures and report in the experiment's description, unless somebody wrote another there."""
        if not self.cursor.summary:
            return
        experiment = self.client.get_experiment(self.cursor.experiment_id)
        artifacts = f"#/experiments/{self.cursor.experiment_id}/runs/{self.cursor.summary}/artifacts"
        names = [path.name for path in summary_files(self.store, self.sweep.name)]
        shown = [name for name in ("report.html", "frontier.png", "isoflop.png", "fits.json") if name in names]
        pages = {name: f"{artifacts}/{name}" for name in shown} | {"all files": artifacts}
        links = [f"[{name}]({page}?workflowType=machine_learning)" for name, page in pages.items()]
        note = f"Sweep {self.sweep.name}: {' · '.join(links)}"
        if experiment.tags.get(NOTE, "") in ("", experiment.tags.get("mor.note")) and experiment.tags.get(NOTE) != note:
            for name in ("mor.note", NOTE):  # The first says that the second is ours.
                self.client.set_experiment_tag(self.cursor.experiment_id, name, note)

    def _forecast_tags(self) -> Iterator[tuple[str, str]]:
        """mor.forecast.KEY -> what a forecast says, when it was frozen, and the sha256 of its file: a second witness.
        `fsck` names those that cannot be read."""
        paths = self.store.forecast_files(self.sweep.name)
        if not paths:
            return
        from analysis.report.forecasts import forecast_sentence
        from orchestrator.records.fits.forecasts import read_forecast

        for path in paths:
            with contextlib.suppress(StoreError):
                text = f"{forecast_sentence(read_forecast(path))}, sha256 {file_sha256(path)}"
                yield f"mor.forecast.{path.stem[:12]}", text

    def _summary_points(self, run: "Run") -> set[MetricPoint]:
        """The IsoFLOP points that the summary run holds."""
        metrics: dict[str, float] = run.data.metrics
        histories = {name: self.client.get_metric_history(run.info.run_id, name) for name in metrics}
        return {(name, point.value, point.step) for name, history in histories.items() for point in history}


def _contradicts(run: "Run", content: RunContent) -> bool:
    """Whether a run holds a parameter or a final metric that the store has otherwise: neither can be taken back."""
    params: dict[str, str] = run.data.params
    metrics: dict[str, float] = run.data.metrics
    final = {name: value for name, value, _ in content.final}
    other_params = any(content.params.get(name) != value for name, value in params.items())
    measured = [name for name in metrics if not name.startswith("train/") and name != GAP]
    return other_params or any(final.get(name) != metrics[name] for name in measured)
