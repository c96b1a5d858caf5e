"""Trained cells × tasks to published scores: each pair is a segment, computed where it is missing."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mor_core.config import CausalRule, ExpertChoice
from mor_core.data.remote import origin_of
from mor_core.interop.tasks import read_task
from orchestrator.inference.trained_cell import data_of, finished_weights
from orchestrator.planning.cells import Cell
from orchestrator.planning.costs.limits import NO_LIMIT, HourLimit
from orchestrator.planning.identity import Segment, TaskEvaluation, evaluate_segment
from orchestrator.planning.spec.sections import ExecutionSection
from orchestrator.records.cell_names import cell_name
from orchestrator.records.revisions import Sweep
from orchestrator.records.table import write_tables
from orchestrator.running.executor import Executor
from orchestrator.running.outcomes import Outcome, published_outcome
from orchestrator.running.run_loop import run_segments
from orchestrator.running.segment.job import Job
from orchestrator.store.drivers import driving
from orchestrator.store.folder import holding
from orchestrator.store.published import PublishedScore
from orchestrator.store.store import Store, read_spec
from orchestrator.tracking.cursor import is_current, tracking_uri
from orchestrator.tracking.process import following

SCORING = ExecutionSection(checkpoint_every_steps=1)
"""How tasks are scored: they keep no checkpoints."""

PROGRESS_SECONDS = 10.0
"""Between two lines about how far segments are."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One cell on one task."""

    cell: Cell
    """Which."""
    task: str
    """Its name."""
    segment: Segment
    """The unit of work."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be scored."""

    pairs: tuple[Scored, ...]
    """Every task for every cell, cell by cell."""
    data_folder: Path
    """The snapshot that the cells were trained on."""
    task_folder: Path
    """Where the task files are."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What became of it."""

    outcomes: dict[str, Outcome]
    """By segment id."""
    computed: int
    """Segments that were not published before."""
    warning: str
    """One line where MLflow could not be brought up to date; else empty."""


def ask(
    store: Store,
    sweep: Sweep,
    cells: Sequence[Cell],
    tasks: Sequence[str],
    task_folder: Path,
    *,
    limit: int | None,
    rule: CausalRule,
) -> Asked:
    """The segments that score cells on tasks. Raises NotTrained, and TaskError for a task that cannot be read."""
    weights = [finished_weights(store, sweep, cell) for cell in cells]
    read = {name: read_task(name, task_folder, limit) for name in tasks}
    planned = {
        name: TaskEvaluation(task=name, fingerprint=task.fingerprint(), limit=limit, rule="threshold")
        for name, task in read.items()
    }
    pairs: list[Scored] = []
    for cell, segment_id in zip(cells, weights, strict=True):
        segment = read_spec(store.published(segment_id).spec)
        own_rule: CausalRule = rule if isinstance(cell.model.routing, ExpertChoice) else "threshold"
        for name, evaluation in planned.items():
            segment_of_task = evaluate_segment(segment, replace(evaluation, rule=own_rule))
            pairs.append(Scored(cell=cell, task=name, segment=segment_of_task))
    return Asked(pairs=tuple(pairs), data_folder=data_of(store, weights[0]).folder, task_folder=task_folder.absolute())


def evaluate_all(
    store: Store,
    sweep: Sweep,
    asked: Asked,
    executor: Executor,
    report: Callable[[str], None],
    *,
    on_this_host: bool,
    hours: HourLimit = NO_LIMIT,
) -> Evaluated:
    """Compute what is not published, write the sweep's tables, mirror them. Raises what stops a sweep's run.

    Nothing more is started once the segments have taken their `hours`.
    `on_this_host` says whether the executor's workers see this process's folder and locks."""
    segments = {pair.segment.id: pair.segment for pair in asked.pairs}
    outcomes = {name: published_outcome(store, name) for name in segments if store.is_done(name)}
    pending = tuple(segment for name, segment in segments.items() if name not in outcomes)
    if not pending:
        write_tables(store, sweep.name)
        if is_current(store, sweep, tracking_uri(store, sweep.name)):
            return Evaluated(outcomes=outcomes, computed=0, warning="")
    with holding(store.root), driving(store, sweep.name), following(store, sweep.name) as mirror:
        if pending:
            outcomes |= _run(store, sweep, asked, pending, executor, report, hours, on_this_host=on_this_host)
        write_tables(store, sweep.name)
    return Evaluated(outcomes=outcomes, computed=len(pending), warning=mirror.warning)


def _run(
    store: Store,
    sweep: Sweep,
    asked: Asked,
    pending: tuple[Segment, ...],
    executor: Executor,
    report: Callable[[str], None],
    hours: HourLimit,
    *,
    on_this_host: bool,
) -> dict[str, Outcome]:
    """Outcomes of the pending segments. Raises KeyboardInterrupt or SystemExit where it was told to stop, and
    ResultsGone."""
    job = Job(
        results=store.location,
        data_folder=asked.data_folder,
        data_url=origin_of(asked.data_folder),
        task_folder=asked.task_folder,
        checkpoint_every_steps=SCORING.checkpoint_every_steps,
        stop=store.new_stop_file(sweep.name, on_this_host=on_this_host),
        run=secrets.token_hex(4),
    )
    needed = {need: published_outcome(store, need) for segment in pending for need in segment.needs}
    lines = _Lines(store=store, asked=asked, pending=pending, report=report)
    run_segments(executor, store, pending, job, needed, lines.add, report, hours=hours, on_this_host=on_this_host)
    return lines.outcomes


@dataclass(kw_only=True)
class _Lines:
    """Tells a reader how a run of evaluations goes, a line at a time."""

    store: Store
    """Where results and progress are."""
    asked: Asked
    """What the segments score."""
    pending: tuple[Segment, ...]
    """The segments of this run."""
    report: Callable[[str], None]
    """Gets the lines."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By segment id; one that was stopped is still to do."""
    progress_at: float = field(default_factory=time.monotonic)
    """time.monotonic() of the last line about progress."""

    def add(self, outcome: Outcome | None) -> None:
        """An event of the run."""
        if outcome is None:
            self._tell_progress()
        elif outcome.status != "interrupted":
            self.outcomes[outcome.segment_id] = outcome
            line = outcome_line(self.store, self.asked, outcome)
            self.report(f"[{len(self.outcomes)}/{len(self.pending)}] {line}")

    def _tell_progress(self) -> None:
        if time.monotonic() - self.progress_at > PROGRESS_SECONDS:
            self.progress_at = time.monotonic()
            self.report(_progress_line(self.store, self.asked, self.pending, self.outcomes))


def outcome_line(store: Store, asked: Asked, outcome: Outcome) -> str:
    """What became of a segment, for a reader."""
    pair = next(pair for pair in asked.pairs if pair.segment.id == outcome.segment_id)
    name = f"{cell_name(pair.cell)} {pair.task}"
    if outcome.status != "finished":
        return f"{name}: {outcome.status}, {outcome.reason}"
    score = score_of(store, pair)
    return f"{name}: {score.metric} {score.score:.4f}"


def score_of(store: Store, pair: Scored) -> PublishedScore:
    """The published score of a cell on a task, which is finished."""
    result = store.result(pair.segment.id)
    assert result is not None
    assert result.task is not None
    return result.task


def score_rows(store: Store, asked: Asked, done: Evaluated) -> list[dict[str, Any]]:
    """One row a cell and task: its score where it is finished, else why not."""
    return [_score_row(store, pair, done.outcomes.get(pair.segment.id)) for pair in asked.pairs]


def _score_row(store: Store, pair: Scored, outcome: Outcome | None) -> dict[str, Any]:
    status = outcome.status if outcome else "not run"
    row: dict[str, Any] = {"cell": cell_name(pair.cell), "task": pair.task, "status": status}
    if outcome and status == "finished":
        row |= {name: value for name, value in vars(score_of(store, pair)).items() if name != "task"}
    else:
        row["reason"] = outcome.reason if outcome else ""
    return row | {"segment": pair.segment.id}


def _progress_line(store: Store, asked: Asked, pending: Sequence[Segment], outcomes: dict[str, Outcome]) -> str:
    """How far the segments under way are."""
    names = {pair.segment.id: f"{cell_name(pair.cell)} {pair.task}" for pair in asked.pairs}
    waiting = [segment.id for segment in pending if segment.id not in outcomes]
    there = [(name, store.attempts(name).progress()) for name in waiting]
    return ", ".join(f"{names[name]}: batch {said.step} of {said.stop_step}" for name, said in there if said)
