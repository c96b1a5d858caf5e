"""Whether MLflow equals the results store, asked without writing anything."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.records.curves import curve
from orchestrator.records.revisions import Sweep
from orchestrator.records.status.verified_cells import VerifiedCells
from orchestrator.records.table import table
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.tracking.connection import reading, runs_of
from orchestrator.tracking.content import GAP, RunContent, curve_points, run_content
from orchestrator.tracking.cursor import lineage_tags, parabola_gaps, public_uri, summary_sha256
from orchestrator.tracking.mirror import SUMMARY

if TYPE_CHECKING:
    from orchestrator.tracking.connection import MlflowClient

SHOWN_PER_RUN = 3

RunsByCell = dict[str, list[Any]]
"""Cell id -> the runs of it that MLflow has; the summary run under its own name."""


def differences(store: Store, sweep: Sweep, uri: str) -> list[str]:
    """Where MLflow says something else than the store, one sentence each; empty where they are equal.

    Cells that rest on a file which was changed (`VerifiedCells.faults`) are not compared: of them MLflow may hold what
    the store has lost.

    Raises MirrorError where MLflow does not answer.
    """
    with reading(uri) as client:
        if client is None:
            return [f"{public_uri(uri)} does not exist"]
        experiment = client.get_experiment_by_name(sweep.name)
        if experiment is None or experiment.lifecycle_stage == "deleted":
            return [f"MLflow has no experiment {sweep.name!r}"]
        return list(_differences(store, sweep, client, _runs_by_cell(client, experiment.experiment_id)))


def _differences(store: Store, sweep: Sweep, client: "MlflowClient", runs_by_cell: RunsByCell) -> Iterator[str]:
    verified, all_verify, rows = VerifiedCells(store, sweep), True, table(store, sweep)
    gaps = parabola_gaps(store, sweep.name, rows)
    for cell, row in zip(sweep.cells, rows.iter_rows(named=True), strict=True):
        runs = runs_by_cell.pop(row["cell_id"], [])
        if verified.fault(cell):
            all_verify = False
            continue
        try:
            lineage, gap = lineage_tags(sweep, cell), gaps.get(row["cell_id"])
            content = run_content(row, curve(store, sweep, cell), lineage, gap)
        except StoreError as error:
            yield str(error)
            continue
        if len(runs) != 1:
            yield f"{content.name}: MLflow has {len(runs)} runs of it, expected 1"
            continue
        lines = [*_run_differences(runs[0], content), *_curve_differences(client, runs[0], content)]
        yield from (f"{content.name}: {line}" for line in lines[:SHOWN_PER_RUN])
        if len(lines) > SHOWN_PER_RUN:
            yield f"{content.name}: and {len(lines) - SHOWN_PER_RUN} more"
    summaries = runs_by_cell.pop(SUMMARY, [])
    recorded = [run.data.tags.get("mor.files", "") for run in summaries]
    expected = summary_sha256(store, sweep.name)
    if all_verify and recorded != ([expected] if expected or summaries else []):
        yield "MLflow does not have the sweep's fits and figures as they are"
    yield from (f"MLflow has a run of a cell that the sweep does not have ({name[:12]})" for name in runs_by_cell)


def _run_differences(run: Any, content: RunContent) -> Iterator[str]:
    if run.info.status != content.status:
        yield f"status {run.info.status}, expected {content.status}"
    final = {name: value for name, value, _ in content.final}
    metrics = {name: value for name, value in run.data.metrics.items() if not name.startswith("train/")}
    if content.gap is None:  # What an earlier fit left: no metric can be taken back.
        metrics.pop(GAP, None)
    else:
        final[GAP] = content.gap
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("mor.")}
    expected_tags = {name: value for name, value in content.tags.items() if name.startswith("mor.")}
    for kind, actual, expected in (
        ("parameter", run.data.params, content.params),
        ("metric", metrics, final),
        ("tag", tags, expected_tags),
    ):
        for name in sorted(actual.keys() | expected.keys()):
            if actual.get(name) != expected.get(name):
                yield f"{kind} {name} is {actual.get(name)}, expected {expected.get(name)}"


def _curve_differences(client: "MlflowClient", run: Any, content: RunContent) -> Iterator[str]:
    """Each step of each curve stands once, with the store's value."""
    points: dict[str, list[tuple[int, float]]] = {}
    for name, value, step in curve_points(content.rows):
        points.setdefault(name, []).append((step, value))
    names = {name for name in run.data.metrics if name.startswith("train/")} | points.keys()
    for name in sorted(names):
        actual = sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        expected = sorted(points.get(name, []))
        if actual != expected:
            odd = min(set(actual) ^ set(expected), default=None)
            where = f"first at step {odd[0]}" if odd else "some steps stand more than once"
            yield f"curve {name} has {len(actual)} points, expected {len(expected)}; they differ, {where}"


def _runs_by_cell(client: "MlflowClient", experiment_id: str) -> RunsByCell:
    runs_by_cell: RunsByCell = {}
    for run in runs_of(client, experiment_id):
        summary = run.data.tags.get("mor.kind") == "summary"
        runs_by_cell.setdefault(SUMMARY if summary else run.data.tags.get("mor.cell", "another"), []).append(run)
    return runs_by_cell
