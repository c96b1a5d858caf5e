"""On the node: run one segment and publish it. An exception becomes a failed attempt, never a lost sweep.

What a segment computes is in `Segment`; how it is executed here is in `Job` and is recorded as `numerics`, since bits
are promised equal between equal numerics only.
"""

import contextlib
import json
import platform
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import torch
from filelock import FileLock, Timeout

from mor_core.data.shards import TokenReader, load_snapshot, open_tokens
from mor_core.data.spec import DataError
from mor_core.model.transformer import Transformer, build_model
from mor_core.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mor_core.training.evaluate import evaluate
from mor_core.training.loop import Diverged, StepMetrics, train_steps
from mor_core.training.optim import build_optimizer
from orchestrator.identity import Segment, to_jsonable, trunk_id
from orchestrator.store import Store, StoreError, read_metrics, replace_text, write_json

LOG_EVERY_STEPS = 10
KEPT_CHECKPOINTS = 2
LOCK_POLL_SECONDS = 0.5
PROGRESS_SECONDS = 1.0
EVALUATION_BATCH = 32

Status = Literal["finished", "diverged", "failed", "blocked"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """How segments are executed: nothing here changes what they compute beyond rounding."""

    results: Path
    """The results folder."""
    data_folder: Path
    """Folder of the data snapshot."""
    checkpoint_every_steps: int
    """Steps between checkpoints within a segment: the work that a fault can cost."""
    micro_batch: int | None = None
    """Sequences per forward pass; None takes the whole batch."""
    threads: int = 1
    """torch threads of a CPU worker."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a segment."""

    segment_id: str
    """Its id."""
    status: Status
    """finished and diverged are published results; failed stays in its attempt; blocked never started."""
    reason: str = ""
    """One sentence where it is not finished."""


def run_or_block(segment: Segment, job: Job, needed: Sequence[Outcome]) -> Outcome:
    """Run a segment unless one that it needs did not finish."""
    for outcome in needed:
        if outcome.status != "finished":
            cause = outcome.reason if outcome.status == "blocked" else f"{outcome.status}: {outcome.reason}"
            return Outcome(segment_id=segment.id, status="blocked", reason=f"parent {cause}".removesuffix(": "))
    return run_segment(segment, job)


def run_segment(segment: Segment, job: Job) -> Outcome:
    """Compute a segment and publish it, or report what is published already.

    A kernel-released lock keeps two processes of one host from doing the work twice; correctness rests on publication
    alone. A failure is recorded in the attempt's failure.json.
    """
    store = Store(root=job.results)
    store.attempts_folder(segment.id).mkdir(parents=True, exist_ok=True)
    lock = FileLock(store.attempts_folder(segment.id) / "lock")
    while not store.is_done(segment.id):
        try:
            with lock.acquire(timeout=LOCK_POLL_SECONDS):
                if not store.is_done(segment.id):
                    failure = _attempt(segment, job, store)
                    if failure:
                        return Outcome(segment_id=segment.id, status="failed", reason=failure)
        except Timeout:
            continue
    return published_outcome(store, segment.id)


def published_outcome(store: Store, segment_id: str) -> Outcome:
    """The outcome that a published result records. Raises StoreError where the result cannot be read."""
    result = store.result(segment_id)
    if result is None:
        raise StoreError(f"segment {segment_id} has no result in {store.root}")
    return Outcome(segment_id=segment_id, status=result["status"], reason=result.get("reason", ""))


def _attempt(segment: Segment, job: Job, store: Store) -> str | None:
    """One try. Returns the reason of a failure, None where a result is published."""
    folder = store.new_attempt(segment)
    started = time.monotonic()
    try:
        run = _SegmentRun(segment=segment, job=job, store=store, attempt=folder)
        checkpoint, result = run.evaluate() if segment.kind == "evaluate" else run.train()
    except Diverged as error:
        checkpoint, result = None, {"status": "diverged", "reason": str(error), "step": error.step}
    except Exception as error:  # The one boundary where any failure of a segment becomes a record.
        reason = f"{_failure_class(error)}: {str(error).strip().partition(chr(10))[0] or type(error).__name__}"
        write_json(folder / "failure.json", {"reason": reason, "traceback": traceback.format_exc()})
        return reason
    result |= {
        "kind": segment.kind,
        "wall_seconds": time.monotonic() - started,
        "attempts": sum(1 for path in store.attempts_folder(segment.id).iterdir() if path.is_dir()),
        "numerics": numerics(segment, job),
        "peak_memory_bytes": _peak_memory_bytes(),
        "hostname": platform.node(),
    }
    store.publish(segment, folder, checkpoint, result)
    for _, path in store.attempt_checkpoints(segment.id):
        if path.parent == folder:
            _remove_checkpoint(path)
    return None


def _failure_class(error: Exception) -> str:
    """A word for what went wrong, by what can be done about it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, CheckpointError | StoreError):
        return "store"
    if isinstance(error, OSError):
        return "operating system"
    return type(error).__name__


def numerics(segment: Segment, job: Job) -> dict[str, Any]:
    """What bits depend on beside the recipe: results are comparable bit for bit between equal numerics only."""
    device = _device()
    return {
        "precision": segment.trunk.train.precision,
        "micro_batch": job.micro_batch or segment.trunk.train.batch_size,
        "threads": job.threads if device.type == "cpu" else 0,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu {platform.machine()}",
        "torch": torch.__version__,
        "world_size": 1,
        "compile": False,
    }


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint so that it is never seen half deleted: the manifest goes first with its folder's name."""
    gone = path.with_name(f"{path.name}.removed")
    path.rename(gone)
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()


@dataclass(frozen=True, kw_only=True)
class _SegmentRun:
    """One attempt at one segment."""

    segment: Segment
    job: Job
    store: Store
    attempt: Path

    def evaluate(self) -> tuple[None, dict[str, Any]]:
        """Load the decay's weights and measure them."""
        reader = self._open_data()
        recipe, spec = self.segment.trunk, self.segment.evaluation
        assert spec is not None
        model = self._new_model()
        load_checkpoint(self.store.checkpoint_folder(self.segment.needs[0]), model, None)
        batches = reader.valid_batches(spec.num_sequences, recipe.model.context_length, EVALUATION_BATCH)
        evaluation = evaluate(model, recipe.train, batches, reader.token_bytes)
        return None, {"status": "finished", "step": self.segment.stop_step, "evaluation": to_jsonable(evaluation)}

    def train(self) -> tuple[Path, dict[str, Any]]:
        """Train from the best checkpoint there is to the segment's last step."""
        reader = self._open_data()
        recipe, segment = self.segment.trunk, self.segment
        model = self._new_model()
        optimizer = build_optimizer(model, recipe.train)
        start_step = self._restore(model, optimizer)
        cooldown = None if segment.decay_start is None else (segment.decay_start, segment.stop_step)
        steps = train_steps(
            model,
            optimizer,
            recipe.train,
            lambda step: reader.train_batch(recipe.seed, step, recipe.train.batch_size, recipe.model.context_length),
            start_step=start_step,
            stop_step=segment.stop_step,
            cooldown=cooldown,
            micro_batch=self.job.micro_batch,
        )
        started = time.monotonic()
        with (self.attempt / "metrics.jsonl").open("a") as metrics_file:
            self._follow(steps, model, optimizer, metrics_file)
        kept_optimizer = None if segment.kind == "decay" else optimizer
        checkpoint = self.attempt / "final"
        save_checkpoint(checkpoint, model, kept_optimizer, segment.stop_step)
        return checkpoint, {
            "status": "finished",
            "step": segment.stop_step,
            "steps_executed": segment.stop_step - start_step,
            "train_seconds": time.monotonic() - started,
        }

    def _follow(
        self,
        steps: Any,
        model: Transformer,
        optimizer: torch.optim.Optimizer,
        metrics_file: IO[str],
    ) -> None:
        """Take the steps; write metrics on the step grid, progress by the clock and checkpoints every interval."""
        progress_at = 0.0
        for metrics in steps:
            last = metrics.step == self.segment.stop_step
            if metrics.step % LOG_EVERY_STEPS == 0 or metrics.step == 1 or last:
                self._log(metrics, metrics_file)
            if time.monotonic() - progress_at > PROGRESS_SECONDS:
                progress_at = time.monotonic()
                self._report_progress(metrics.step)
            if metrics.step % self.job.checkpoint_every_steps == 0 and not last:
                metrics.to_floats()
                metrics_file.flush()
                save_checkpoint(self.attempt / f"checkpoint-{metrics.step}", model, optimizer, metrics.step)
                self._drop_old_checkpoints()

    def _log(self, metrics: StepMetrics, file: IO[str]) -> None:
        train = self.segment.trunk.train
        tokens = metrics.step * train.batch_size * self.segment.trunk.model.context_length
        file.write(json.dumps({"step": metrics.step, "tokens": tokens, **metrics.to_floats()}) + "\n")

    def _report_progress(self, step: int) -> None:
        replace_text(self.attempt / "progress.json", json.dumps({"step": step, "stop_step": self.segment.stop_step}))

    def _drop_old_checkpoints(self) -> None:
        own = [path for _, path in self.store.attempt_checkpoints(self.segment.id) if path.parent == self.attempt]
        for path in own[KEPT_CHECKPOINTS:]:
            _remove_checkpoint(path)

    def _open_data(self) -> TokenReader:
        snapshot = load_snapshot(self.job.data_folder)
        if snapshot.fingerprint != self.segment.trunk.data_fingerprint:
            raise DataError(
                f"{self.job.data_folder} holds the data snapshot {snapshot.fingerprint[:12]}, but this segment was "
                f"planned on {self.segment.trunk.data_fingerprint[:12]}: run the same command again to plan anew"
            )
        return open_tokens(snapshot)

    def _new_model(self) -> Transformer:
        if _device().type == "cpu":
            torch.set_num_threads(self.job.threads)
        return build_model(self.segment.trunk.model, self.segment.trunk.seed, _device())

    def _restore(self, model: Transformer, optimizer: torch.optim.Optimizer) -> int:
        """Load the furthest state that verifies: any attempt's checkpoint, else the trunk's; returns its step."""
        for step, path in self.store.attempt_checkpoints(self.segment.id):
            if step < self.segment.stop_step and self._load(path, model, optimizer):
                self._adopt_metrics(path.parent, step)
                return step
        return self._restore_from_trunk(model, optimizer)

    def _restore_from_trunk(self, model: Transformer, optimizer: torch.optim.Optimizer) -> int:
        if self.segment.kind == "decay":
            return load_checkpoint(self.store.checkpoint_folder(self.segment.needs[0]), model, optimizer)
        for step, segment_id in self.store.published_trunk_steps(trunk_id(self.segment.trunk)):
            if step < self.segment.stop_step:
                with contextlib.suppress(CheckpointError):  # An earlier one, or step 0, leads to the same weights.
                    return load_checkpoint(self.store.checkpoint_folder(segment_id), model, optimizer)
        return 0

    def _load(self, path: Path, model: Transformer, optimizer: torch.optim.Optimizer) -> bool:
        """Load an attempt's checkpoint; one that does not verify is set aside for good."""
        try:
            load_checkpoint(path, model, optimizer)
        except CheckpointError:
            if path.exists():
                path.rename(path.with_name(f"{path.name}.corrupt"))
            return False
        return True

    def _adopt_metrics(self, attempt: Path, step: int) -> None:
        """Take over the curve up to the checkpoint that this attempt starts from."""
        rows = [row for row in read_metrics(attempt / "metrics.jsonl") if row["step"] <= step]
        (self.attempt / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
