"""The results table: one row a cell, derived from the store alone. Every column is explained in results/README.md."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from analysis.runs.losses import OWN, TEXT
from mor_core.config.model import ModelConfig
from mor_core.config.own_model import Model
from mor_core.files import replacing
from mor_core.flops import Convention, kv_bytes_per_token, kv_bytes_read_per_token
from mor_core.interop.tasks import task_average
from orchestrator.planning.cells import Cell
from orchestrator.planning.plan import flops_between
from orchestrator.records.revisions import Sweep, load_sweep, plans_locked
from orchestrator.records.status.states import SegmentState, SegmentStates, cell_status
from orchestrator.records.terminal import printable_label
from orchestrator.store.published import PublishedEvaluation, SegmentResult, StoreError
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import PlannedSegment, sweep_texts

CAPACITY_TOLERANCE = 0.1
"""A realised capacity further from the plan than this share is flagged (capacity-off)."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One row of the table. Counts that can pass 2^63 are decimal text."""

    sweep: str
    cell_id: str
    status: str
    reason: str
    arm: str
    architecture: str
    recursions: int
    sharing: str
    kv: str
    routing: str
    size: str
    budget: str
    budget_convention: str
    seed: int
    unique_params: int
    unrolled_params: int
    total_params: int
    d_model: int | None
    num_layers: int | None
    tokens: int
    steps: int
    schedule: str
    warmup_steps: int
    decay_start: int
    batch_size: int
    context_length: int
    peak_learning_rate: float
    weight_decay: float
    epochs: float | None
    flops_exact: str
    flops_paper: str
    flops_6nd: str
    loss: float | None = None
    loss_half: float | None = None
    loss_topk: float | None = None
    bits_per_byte: float | None = None
    evaluated_tokens: int | None = None
    depth_mean: float | None = None
    depth_histogram: str | None = None
    last_capacity: float | None = None
    realised_capacity: str | None = None
    realised_capacity_half: str | None = None
    forward_flops_per_token: float | None = None
    kv_numbers_kept: float | None = None
    kv_numbers_read: float | None = None
    tasks: str | None
    task_average: float | None
    flags: str
    trunk_id: str
    evaluate_segment: str
    train_seconds: float | None
    attempts: int
    device: str | None
    torch: str | None
    peak_memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """One row of segments.parquet: what a unit of work took. Shared segments stand once."""

    segment_id: str
    kind: str
    trunk_id: str
    stop_step: int
    status: str
    reason: str
    steps_executed: int
    train_seconds: float
    wall_seconds: float
    attempts: int
    numerics: str
    loss_spikes: str


def table(store: Store, sweep: Sweep) -> pl.DataFrame:
    """The run table of a sweep as it stands."""
    states = _states(store, sweep)
    chains = {name: _segment(sweep.segments[name], state) for name, state in states.items()}
    rows = [
        vars(_record(store, sweep, cell, chains, states[str(cell.evaluate_segment)].result)) for cell in sweep.cells
    ]
    losses = [*_text_losses(store, sweep), *_own_losses(sweep, states)]
    return pl.DataFrame(rows, schema=_schema(RunRecord), orient="row").with_columns(losses)


def _text_losses(store: Store, sweep: Sweep) -> list[pl.Series]:
    """A column for each text that the sweep names; null where a cell was not measured on it."""
    weights = [sweep.segments[str(cell.evaluate_segment)].needs[0] for cell in sweep.cells]
    columns = []
    for name, text in sweep_texts(store, sweep.name).items():
        ids = [text.segment_id(weights_id) for weights_id in weights]
        results = store.readable_results(ids)
        measured = [results[segment_id].text if segment_id in results else None for segment_id in ids]
        losses = [text_loss.loss if text_loss else None for text_loss in measured]
        columns.append(pl.Series(f"{TEXT}:{name}", losses, dtype=pl.Float64))
    return columns


def _own_losses(sweep: Sweep, states: dict[str, SegmentState]) -> list[pl.Series]:
    """A column for each loss that a user's own model names; null where a cell was not measured by it."""
    results = [states[str(cell.evaluate_segment)].result for cell in sweep.cells]
    measured = [(result.evaluation.own_losses or {}) if result and result.evaluation else {} for result in results]
    names = sorted({name for losses in measured for name in losses})
    return [pl.Series(f"{OWN}:{name}", [losses.get(name) for losses in measured], dtype=pl.Float64) for name in names]


def segment_table(store: Store, sweep: Sweep) -> pl.DataFrame:
    """What every segment of a sweep took, each once."""
    rows = [vars(_segment(sweep.segments[name], state)) for name, state in _states(store, sweep).items()]
    return pl.DataFrame(rows, schema=_schema(SegmentRecord), orient="row")


def write_tables(store: Store, name: str) -> pl.DataFrame:
    """Write runs.parquet and segments.parquet of a sweep, as its plans stand now; returns the run table."""
    folder = store.sweep_folder(name)
    # Another command may have added cells since this one began. Held while both files are written, the lock makes the
    # last writer the one that has read the most.
    with plans_locked(store, name):
        sweep = load_sweep(store, name)
        runs = table(store, sweep)
        for stem, frame in (("runs", runs), ("segments", segment_table(store, sweep))):
            _write_parquet(folder / f"{stem}.parquet", frame)
    return runs


def _write_parquet(path: Path, frame: pl.DataFrame) -> None:
    if path.is_dir():
        raise StoreError(f"{path} is a folder, expected a file: move it away and run the same command again")
    with replacing(path) as temporary:
        temporary.write_bytes(parquet_bytes(frame))


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """What a Parquet file of the frame holds, for Python to write: of a full disk polars makes an error of its own, and
    the system's names what to do."""
    content = io.BytesIO()
    frame.write_parquet(content)
    return content.getvalue()


def _states(store: Store, sweep: Sweep) -> dict[str, SegmentState]:
    states = SegmentStates(store)
    return {name: states.of(name, segment.kind, segment.stop_step) for name, segment in sweep.segments.items()}


def _segment(segment: PlannedSegment, state: SegmentState) -> SegmentRecord:
    result = state.result
    return SegmentRecord(
        segment_id=segment.id,
        kind=segment.kind,
        trunk_id=segment.trunk_id,
        stop_step=segment.stop_step,
        status=state.status,
        reason=state.reason,
        steps_executed=result.steps_executed if result else 0,
        train_seconds=result.train_seconds if result else 0.0,
        wall_seconds=result.wall_seconds if result else 0.0,
        attempts=result.attempts if result else 0,
        numerics=json.dumps([json.dumps(numerics, sort_keys=True) for numerics in result.numerics] if result else []),
        loss_spikes=json.dumps(result.loss_spikes if result else []),
    )


def _record(
    store: Store, sweep: Sweep, cell: Cell, state: dict[str, SegmentRecord], evaluated: SegmentResult | None
) -> RunRecord:
    chain = [state[segment.id] for segment in sweep.chain(cell)]
    status, reason = cell_status(chain)
    result = evaluated if status == "finished" else None
    evaluation, numerics = (result.evaluation, result.last_numerics) if result else (None, {})
    tasks = task_scores(store, sweep.segments[str(cell.evaluate_segment)].needs[0]) if evaluation else {}
    return RunRecord(
        sweep=sweep.name,
        status=status,
        reason=reason,
        **_planned(cell),
        **(_measured(evaluation, cell.model) if evaluation else {}),
        tasks=json.dumps(tasks) if tasks else None,
        task_average=average(tasks),
        flags=";".join((*cell.flags, *_measured_flags(evaluation, chain))),
        train_seconds=sum(segment.train_seconds for segment in chain) if evaluation else None,
        attempts=sum(segment.attempts for segment in chain),
        device=_text(numerics.get("device")),
        torch=_text(numerics.get("torch")),
        peak_memory_bytes=result.peak_memory_bytes if result else None,
    )


def _planned(cell: Cell) -> dict[str, Any]:
    """The columns that follow from the plan."""
    model, train = cell.model, cell.train
    family = model if isinstance(model, ModelConfig) else None
    return {
        "cell_id": str(cell.cell_id),
        "arm": printable_label(cell.arm),
        "architecture": cell.architecture,
        "recursions": cell.recursions,
        "sharing": model.recursion.sharing if cell.recursions > 1 else "",
        "kv": model.recursion.kv if cell.recursions > 1 else "",
        "routing": routing_text(model),
        "size": printable_label(cell.size),
        "budget": str(cell.budget),
        "budget_convention": cell.budget_convention,
        "seed": cell.seed,
        "unique_params": cell.unique_params,
        "unrolled_params": cell.unrolled_params,
        "total_params": cell.total_params,
        "d_model": family.d_model if family else None,
        "num_layers": family.num_layers if family else None,
        "tokens": cell.tokens,
        "steps": cell.steps,
        "schedule": "trapezoid" if train.cosine_steps is None else "cosine",
        "warmup_steps": train.warmup_steps,
        "decay_start": cell.decay_start,
        "batch_size": train.batch_size,
        "context_length": model.context_length,
        "peak_learning_rate": train.peak_learning_rate,
        "weight_decay": train.weight_decay,
        "epochs": cell.epochs,
        "flops_exact": _flops(cell, "exact"),
        "flops_paper": _flops(cell, "paper"),
        "flops_6nd": _flops(cell, "6nd"),
        "trunk_id": str(cell.trunk_id),
        "evaluate_segment": str(cell.evaluate_segment),
    }


def _measured(evaluation: PublishedEvaluation, model: Model) -> dict[str, Any]:
    """The columns that only a finished cell has."""
    capacity = evaluation.realised_capacity
    columns = {
        "loss": evaluation.loss,
        "loss_half": evaluation.loss_half,
        "loss_topk": evaluation.loss_topk,
        "bits_per_byte": evaluation.bits_per_byte,
        "evaluated_tokens": evaluation.tokens,
        "depth_mean": evaluation.depth_mean,
        "depth_histogram": _json(evaluation.depth_histogram),
        "last_capacity": capacity[-1],
        "realised_capacity": _json(capacity),
        "realised_capacity_half": _json(evaluation.realised_capacity_half),
        "forward_flops_per_token": evaluation.forward_flops_per_token,
    }
    if isinstance(model, ModelConfig):
        columns["kv_numbers_kept"] = kv_bytes_per_token(model, 1, evaluation.depth_mean)
        columns["kv_numbers_read"] = kv_bytes_read_per_token(model, 1, capacity)
    return columns


def routing_text(model: Model) -> str:
    """Who chooses, which router, which activation: "expert linear sigmoid"; empty without routing."""
    routing = model.routing
    return "" if routing is None else f"{routing.choice} {routing.router} {routing.activation}"


def _flops(cell: Cell, convention: Convention) -> str:
    """Recomputed from what was trained, so that a corrected convention needs no new training."""
    return str(flops_between(cell.model, cell.train.batch_size, 0, cell.steps, convention))


def _json(values: Sequence[float] | None) -> str | None:
    return None if values is None else json.dumps(values)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _measured_flags(evaluation: PublishedEvaluation | None, chain: list[SegmentRecord]) -> tuple[str, ...]:
    """capacity-off: under causal routing a recursion computed over 10 % more or fewer tokens than planned.
    mixed-numerics: the segments that lead to the cell were not all computed in one way.
    loss-spike: the training loss of one of them jumped to ten times that of the logged step before."""
    pairs = zip(evaluation.realised_capacity, evaluation.planned_capacity, strict=True) if evaluation else ()
    off = any(abs(realised - planned) > CAPACITY_TOLERANCE * planned for realised, planned in pairs)
    spiked = any(json.loads(segment.loss_spikes) for segment in chain)
    flags = {"capacity-off": off, "mixed-numerics": _is_mixed(chain), "loss-spike": spiked}
    return tuple(flag for flag, holds in flags.items() if holds)


def _is_mixed(chain: list[SegmentRecord]) -> bool:
    """Whether segments differ in their numerics; one process evaluates what several may have trained."""
    numerics = [(segment.kind, json.loads(text)) for segment in chain for text in json.loads(segment.numerics)]
    sizes = {way.get("world_size") for kind, way in numerics if kind != "evaluate"}
    others = {json.dumps(way | {"world_size": None}, sort_keys=True) for _, way in numerics}
    return len(sizes) > 1 or len(others) > 1


def _schema(record: type) -> dict[str, Any]:
    """Column types of a record, so that an empty or unfinished sweep has the same table."""
    types = {"str": pl.Utf8, "int": pl.Int64, "float": pl.Float64}
    return {
        name: types[str(getattr(kind, "__name__", kind)).split(" ")[0]] for name, kind in record.__annotations__.items()
    }


SHOWN = ("metric", "score", "standard_error", "items", "chance", "longest", "cut", "fingerprint", "bits_per_byte")
"""Fields of a score that the table keeps; the segment has all."""


def task_scores(store: Store, weights_id: str) -> dict[str, dict[str, Any]]:
    """By task: the scores over all of its items under the calibrated threshold, where they are published.

    Of two versions of a task's files the one with more items counts, then the one whose fingerprint comes first; of two
    evaluations of one the one with bits per byte.
    """
    results = store.readable_results(store.published_task_scores(weights_id))
    published = [result.task for result in results.values() if result.task is not None]
    whole = [score for score in published if score.limit is None and score.rule == "threshold"]
    scores: dict[str, dict[str, Any]] = {}
    for score in sorted(
        whole, key=lambda score: (score.task, -score.items, score.fingerprint, score.bits_per_byte is None)
    ):
        scores.setdefault(score.task, {name: getattr(score, name) for name in SHOWN})
    return scores


def average(scores: dict[str, dict[str, Any]]) -> float | None:
    """The paper's average over its tasks; None unless each of them is there."""
    return task_average({name: score["score"] for name, score in scores.items()})
