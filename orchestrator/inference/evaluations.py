"""Measure trained cells on tasks or texts: which cells, on what, by which rule.

Each pair is a segment, computed only where it is missing.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from analysis.runs.losses import NATS_PER_TOKEN, text_name
from mor_core.config.model import CausalRule, ExpertChoice
from mor_core.data.remote import origin_of
from mor_core.data.snapshot import TOKENIZER_FILE
from mor_core.data.tokens.text_tokens import read_tokens, tokens_sha256
from mor_core.errors import UserError
from mor_core.interop.tasks import read_task
from orchestrator.inference.trained_cell import (
    NotTrained,
    cells_of_family,
    data_of,
    family_model,
    finished_weights,
    weights_id,
)
from orchestrator.planning.cells import Cell
from orchestrator.planning.costs.limits import NO_LIMIT, HourLimit
from orchestrator.planning.identity import Evaluation, Segment, TaskEvaluation, evaluate_segment, evaluation_id
from orchestrator.planning.spec.sections import ExecutionSection
from orchestrator.records.cell_names import cell_name
from orchestrator.records.revisions import Sweep, plans_locked
from orchestrator.records.table import write_tables
from orchestrator.running.executor import Executor
from orchestrator.running.outcomes import Outcome, published_outcome
from orchestrator.running.run_loop import run_segments
from orchestrator.running.segment.job import Job
from orchestrator.store.drivers import driving
from orchestrator.store.folder import holding
from orchestrator.store.published import PublishedScore, PublishedTextLoss, read_spec
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import SweepText, sweep_texts, write_sweep_texts
from orchestrator.tracking.cursor import is_current, tracking_uri
from orchestrator.tracking.process import following

MEASURING = ExecutionSection(checkpoint_every_steps=1)
"""How cells are measured: that keeps no checkpoints."""

MEASURES = 2
"""What is measured of a task today (`TaskEvaluation.measures`)."""

PROGRESS_SECONDS = 10.0
"""Between two lines about how far segments are."""


class OtherText(UserError):
    """A name that the sweep has for another text."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One cell on one task or text."""

    cell: Cell
    """Which."""
    subject: str
    """The task's or the text's name."""
    segment: Segment
    """The unit of work."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be measured."""

    kind: Literal["task", "text"]
    """What cells are measured on."""
    pairs: tuple[Pair, ...]
    """Every task or text for every cell, cell by cell."""
    left_out: tuple[str, ...]
    """Names of cells that nobody named and that have no weights here: not finished, or removed by gc."""
    data_folder: Path
    """The snapshot that the cells were trained on."""
    task_folder: Path | None = None
    """Where the task files are."""
    text_file: Path | None = None
    """Where the text is."""


def paired(
    store: Store, sweep: Sweep, cells: Sequence[Cell], evaluations: Callable[[Cell], Mapping[str, Evaluation]]
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """A pair for every evaluation, by its subject, of every cell named, or else of every cell of our family that has
    weights here or needs none any more; and the names of the family's other cells.

    Raises NotTrained for a named cell without weights or of an own model, and where no cell of the sweep has any.
    """
    pairs: list[Pair] = []
    left_out: list[str] = []
    for cell in cells or cells_of_family(sweep):
        specs_by_subject, weights = evaluations(cell), weights_id(sweep, cell)
        if not all(store.is_done(evaluation_id(weights, evaluation)) for evaluation in specs_by_subject.values()):
            try:
                family_model(cell)
                finished_weights(store, sweep, cell)
            except NotTrained:
                if cells:
                    raise
                left_out.append(cell_name(cell))
                continue
        decay = read_spec(store.published(weights).spec)
        pairs += [
            Pair(cell=cell, subject=subject, segment=evaluate_segment(decay, evaluation))
            for subject, evaluation in specs_by_subject.items()
        ]
    if not pairs:
        raise NotTrained(f"no cell of sweep {sweep.name} has weights here: train it, or name another sweep")
    return tuple(pairs), tuple(left_out)


def first_trained(store: Store, sweep: Sweep, cells: Sequence[Cell]) -> str:
    """Id of the segment that ends with the weights of the first of these cells, or else of the sweep's, that is
    trained. Raises NotTrained."""
    trained = (weights_id(sweep, cell) for cell in cells or sweep.cells)
    segment_id = next((name for name in trained if store.is_done(name)), None)
    if segment_id is None:
        raise NotTrained(f"no cell of sweep {sweep.name} is trained: `mor-sweep status` shows what is")
    return segment_id


def ask_tasks(
    store: Store,
    sweep: Sweep,
    cells: Sequence[Cell],
    tasks: Sequence[str],
    task_folder: Path,
    *,
    limit: int | None,
    rule: CausalRule,
) -> Asked:
    """The segments that score cells on tasks; without cells all of the sweep's that have weights here.

    Raises NotTrained, and TaskError for a task that cannot be read.
    """
    read = {name: read_task(name, task_folder, limit) for name in tasks}
    planned = {
        name: TaskEvaluation(
            task=name, fingerprint=task.fingerprint(), limit=limit, rule="threshold", measures=MEASURES
        )
        for name, task in read.items()
    }

    def evaluations(cell: Cell) -> dict[str, TaskEvaluation]:
        own_rule: CausalRule = rule if isinstance(cell.model.routing, ExpertChoice) else "threshold"
        return {name: replace(evaluation, rule=own_rule) for name, evaluation in planned.items()}

    pairs, left_out = paired(store, sweep, cells, evaluations)
    return Asked(
        kind="task",
        pairs=pairs,
        left_out=left_out,
        data_folder=data_of(store, first_trained(store, sweep, cells)).folder,
        task_folder=task_folder.absolute(),
    )


def ask_text(store: Store, sweep: Sweep, cells: Sequence[Cell], name: str, path: Path) -> Asked:
    """The segments that measure cells on a text; without cells all of the sweep's that have weights here. The sweep
    knows the text by this name from now on.

    Raises NotTrained, LossError for a name that is none, DataError for a text that cannot be read or has nothing to
    predict, and OtherText where cells of the sweep were measured on another text of that name.
    """
    text_name(name)
    weights = first_trained(store, sweep, cells)
    data, model = data_of(store, weights), read_spec(store.published(weights).spec).trunk.model
    tokens = read_tokens(path, data.folder / TOKENIZER_FILE, model.vocab_size)
    text = SweepText(sha256=tokens_sha256(tokens), tokens=len(tokens) - 1, file=str(path))
    pairs, left_out = paired(store, sweep, cells, lambda _: {name: text.evaluation})
    _name_text(store, sweep, name, text)
    return Asked(kind="text", pairs=pairs, left_out=left_out, data_folder=data.folder, text_file=path.absolute())


def _name_text(store: Store, sweep: Sweep, name: str, text: SweepText) -> None:
    """Record what the sweep calls a text. A name under which nothing was measured is free. Raises OtherText."""
    with plans_locked(store, sweep.name):
        texts = sweep_texts(store, sweep.name)
        entry = texts.get(name)
        if entry is not None and entry.sha256 == text.sha256:
            return
        if entry is not None and any(store.is_done(entry.segment_id(weights_id(sweep, cell))) for cell in sweep.cells):
            raise OtherText(
                f"text {name!r} of sweep {sweep.name} is another one ({entry.file}, {entry.tokens:,} tokens, "
                f"{entry.sha256[:12]}) than {text.file} ({text.tokens:,} tokens, {text.sha256[:12]}): give this one "
                "another name"
            )
        write_sweep_texts(store, sweep.name, texts | {name: text})


def evaluate_all(
    store: Store,
    sweep: Sweep,
    request: Asked,
    executor: Executor,
    report: Callable[[str], None],
    *,
    hours: HourLimit = NO_LIMIT,
) -> tuple[dict[str, Outcome], str]:
    """Compute what is not published, write the sweep's tables, mirror them. Returns what became of the segments, by
    id, and a line where MLflow could not be brought up to date, else nothing. Raises what stops a sweep's run.

    Nothing more is started once the segments have taken their `hours`.
    """
    segments = {pair.segment.id: pair.segment for pair in request.pairs}
    outcomes = {name: published_outcome(store, name) for name in segments if store.is_done(name)}
    pending = tuple(segment for name, segment in segments.items() if name not in outcomes)
    if not pending:
        write_tables(store, sweep.name)
        if is_current(store, sweep, tracking_uri(store, sweep.name)):
            return outcomes, ""
    with holding(store.root), driving(store, sweep.name), following(store, sweep.name) as mirror:
        if pending:
            outcomes |= _run(store, sweep, request, pending, executor, report, hours)
        write_tables(store, sweep.name)
    return outcomes, mirror.warning


def _run(
    store: Store,
    sweep: Sweep,
    request: Asked,
    pending: tuple[Segment, ...],
    executor: Executor,
    report: Callable[[str], None],
    hours: HourLimit,
) -> dict[str, Outcome]:
    """Outcomes of the pending segments. Raises KeyboardInterrupt or SystemExit where it was told to stop, and
    ResultsGone."""
    job = Job(
        results=store.location,
        data_folder=request.data_folder,
        data_url=origin_of(request.data_folder),
        task_folder=request.task_folder,
        text_file=request.text_file,
        checkpoint_every_steps=MEASURING.checkpoint_every_steps,
        stop=store.new_stop_file(sweep.name, on_this_host=executor.on_this_host),
        run=secrets.token_hex(4),
    )
    needed = {need: published_outcome(store, need) for segment in pending for need in segment.needs}
    lines = _Lines(store=store, request=request, pending=pending, report=report)
    run_segments(executor, store, pending, job, needed, lines.add, report, hours)
    return lines.outcomes


@dataclass(kw_only=True)
class _Lines:
    """Tells a reader how a run of evaluations goes, a line at a time."""

    store: Store
    """Where results and progress are."""
    request: Asked
    """What the segments measure."""
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
            line = outcome_line(self.store, self.request, outcome)
            self.report(f"[{len(self.outcomes)}/{len(self.pending)}] {line}")

    def _tell_progress(self) -> None:
        if time.monotonic() - self.progress_at > PROGRESS_SECONDS:
            self.progress_at = time.monotonic()
            if line := _progress_line(self.store, self.request, self.pending, self.outcomes):
                self.report(line)


def outcome_line(store: Store, request: Asked, outcome: Outcome) -> str:
    """What became of a segment, for a reader."""
    pair = next(pair for pair in request.pairs if pair.segment.id == outcome.segment_id)
    name = f"{cell_name(pair.cell)} {pair.subject}"
    if outcome.status != "finished":
        return f"{name}: {outcome.status}, {outcome.reason}"
    measured = measurement(store, pair)
    if isinstance(measured, PublishedScore):
        return f"{name}: {measured.metric} {measured.score:.4f}"
    return f"{name}: {measured.loss:.4f} {NATS_PER_TOKEN}"


def measurement(store: Store, pair: Pair) -> PublishedScore | PublishedTextLoss:
    """What is published of a cell on a task or text, which is finished."""
    result = store.result(pair.segment.id)
    assert result is not None
    measured = result.task or result.text
    assert measured is not None
    return measured


def rows(store: Store, request: Asked, outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """One row a cell and task or text: what it measured where it is finished, else why not."""
    return [_row(store, request.kind, pair, outcomes.get(pair.segment.id)) for pair in request.pairs]


def _row(store: Store, kind: str, pair: Pair, outcome: Outcome | None) -> dict[str, Any]:
    status = outcome.status if outcome else "not run"
    row: dict[str, Any] = {"cell": cell_name(pair.cell), kind: pair.subject, "status": status}
    if outcome and status == "finished":
        row |= {name: value for name, value in vars(measurement(store, pair)).items() if name != "task"}
    else:
        row["reason"] = outcome.reason if outcome else ""
    return row | {"segment": pair.segment.id}


def _progress_line(store: Store, request: Asked, pending: Sequence[Segment], outcomes: dict[str, Outcome]) -> str:
    """How far the segments under way are."""
    names = {pair.segment.id: f"{cell_name(pair.cell)} {pair.subject}" for pair in request.pairs}
    waiting = [segment.id for segment in pending if segment.id not in outcomes]
    reports = [(name, store.attempts(name).progress()) for name in waiting]
    return ", ".join(
        f"{names[name]}: batch {progress.step} of {progress.stop_step}" for name, progress in reports if progress
    )
