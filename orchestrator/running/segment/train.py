"""What an attempt at training does: go on from the furthest state that verifies, take the steps, keep checkpoints.

open_data     the tokens that the segment was planned on
new_model     its model on this machine's device
start_state   the furthest state that verifies, of any attempt or of the trunk, on every rank
train_steps   the steps from there; metrics, progress and checkpoints on the way
the end       the final checkpoint and what is published beside it: publishing is the worker's
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mor_core.data.batches import TokenReader
from mor_core.data.verified import ShardCheck
from mor_core.files import remove_folder
from mor_core.training.checkpoint import save_checkpoint
from mor_core.training.distributed import current_world
from mor_core.training.loop import StepMetrics, train_steps
from mor_core.training.rehearsal import rehearse
from orchestrator.planning.identity import Segment
from orchestrator.running.segment.job import SegmentRun
from orchestrator.running.segment.start_state import StartState, new_model, open_data, start_state
from orchestrator.running.stopping import Interrupted, StopWatch
from orchestrator.store.losses import LOG_EVERY_STEPS, loss_spikes, read_metrics

KEPT_CHECKPOINTS = 2
PROGRESS_SECONDS = 1.0


def train(run: SegmentRun) -> tuple[Path, dict[str, Any]]:
    """Train from the best checkpoint there is to the segment's last step: its checkpoint, and what is published."""
    segment = run.segment
    reader, shards = open_data(run)
    start = start_state(run, new_model(run))
    steps = _steps(run, reader, start)
    started = time.monotonic()
    with run.attempt.metrics.open("a") as metrics_file:
        _take(run, steps, start, shards, metrics_file)
    shards.check()
    kept_optimizer = None if segment.kind == "decay" else start.optimizer
    checkpoint = run.attempt.final
    save_checkpoint(checkpoint, start.model, kept_optimizer, segment.stop_step)
    return checkpoint, {
        "status": "finished",
        "step": segment.stop_step,
        "steps_executed": segment.stop_step - start.step,
        "train_seconds": time.monotonic() - started,
        "loss_spikes": loss_spikes(read_metrics(run.attempt.metrics)),
    }


def run_as_peer(run: SegmentRun) -> None:
    """Take the steps of a rank that writes nothing. Raises Diverged, where rank 0 does, and PeerLost."""
    reader, shards = open_data(run)
    start = start_state(run, new_model(run))
    for metrics in _steps(run, reader, start):
        if _is_logged(run, metrics.step):
            metrics.to_floats()
        if metrics.step % run.job.checkpoint_every_steps == 0 or metrics.step == run.segment.stop_step:
            shards.check()


def _steps(run: SegmentRun, reader: TokenReader, start: StartState) -> Iterator[StepMetrics]:
    """The segment's steps after `start`, each taken when it is asked for."""
    segment, recipe = run.segment, run.segment.trunk
    read = reader.read_ahead(recipe.seed, recipe.train.batch_size, recipe.model.context_length)

    def batch_of_step(step: int) -> np.ndarray:
        rehearse(start.model, lambda: run.where(step))
        return read(step)

    return train_steps(
        start.model,
        start.optimizer,
        recipe.train,
        batch_of_step,
        steps=range(start.step, segment.stop_step),
        cooldown=None if segment.decay_start is None else (segment.decay_start, segment.stop_step),
        micro_batch=run.job.micro_batch,
        world=current_world(),
    )


def _take(
    run: SegmentRun, steps: Iterator[StepMetrics], start: StartState, shards: ShardCheck, metrics_file: IO[str]
) -> None:
    """Take the steps; write metrics on the step grid, progress by the clock and checkpoints every interval."""
    progress_at, stop = 0.0, StopWatch(stop=run.job.stop)
    for metrics in steps:
        run.on_step()
        last = metrics.step == run.segment.stop_step
        if _is_logged(run, metrics.step):
            _log(run.segment, metrics, metrics_file)
        if time.monotonic() - progress_at > PROGRESS_SECONDS:
            progress_at = time.monotonic()
            run.attempt.record_progress(metrics.step, run.segment.stop_step)
        cause = None if last else stop.check()
        if cause:
            metrics.to_floats()  # A state that is not finite is no state to go on from.
        if cause or (metrics.step % run.job.checkpoint_every_steps == 0 and not last and metrics.is_finite()):
            shards.check()  # No state that came from changed data is kept.
            metrics_file.flush()
            os.fsync(metrics_file.fileno())  # A checkpoint without the curve that leads to it is of no use.
            save_checkpoint(run.attempt.checkpoint(metrics.step), start.model, start.optimizer, metrics.step)
            for _, path in run.attempt.checkpoints()[KEPT_CHECKPOINTS:]:
                remove_folder(path)
            run.on_checkpoint(metrics.step)
            run.on_step()
        if cause:
            run.attempt.record_progress(metrics.step, run.segment.stop_step)
            raise Interrupted(metrics.step, cause)


def _is_logged(run: SegmentRun, step: int) -> bool:
    return step % LOG_EVERY_STEPS == 0 or step in (1, run.segment.stop_step)


def _log(segment: Segment, metrics: StepMetrics, file: IO[str]) -> None:
    tokens = metrics.step * segment.trunk.train.batch_size * segment.trunk.model.context_length
    file.write(json.dumps({"step": metrics.step, "tokens": tokens, **metrics.to_floats()}) + "\n")
