"""What one attempt at a segment does: start from the furthest state that verifies, take the steps, keep checkpoints.

What a segment computes is in `Segment`; how it is executed here is in `Job` and is recorded as `numerics`, since bits
are promised equal between equal numerics only.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch

from mor_core.data.remote import fetch_folder
from mor_core.data.shards import TokenReader, load_snapshot, open_tokens
from mor_core.data.snapshot import MANIFEST
from mor_core.data.spec import DataError
from mor_core.data.verified import ShardCheck
from mor_core.interop.hugging_face import initialise
from mor_core.interop.llama_folder import read_llama
from mor_core.model.device import default_device, keep_freed_memory
from mor_core.model.transformer import Transformer, build_model
from mor_core.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, verify_checkpoint
from mor_core.training.distributed import current_world
from mor_core.training.evaluate import evaluate
from mor_core.training.loop import Diverged, StepMetrics, train_steps
from mor_core.training.optim import build_optimizer
from mor_core.training.rehearsal import rehearse
from orchestrator.curves import curve_until, loss_spikes
from orchestrator.identity import Segment, TaskEvaluation, to_jsonable, trunk_id
from orchestrator.pruned import is_pruned, pruned_step
from orchestrator.stopping import Interrupted, StopFile, StopWatch
from orchestrator.store import (
    LOG_EVERY_STEPS,
    Store,
    StoreError,
    move_away,
    read_metrics,
    remove_folder,
    replace_text,
    write_json,
)
from orchestrator.task_run import TaskRun

KEPT_CHECKPOINTS = 2
PROGRESS_SECONDS = 1.0
EVALUATION_BATCH = 32
"""Most sequences of a training batch that an evaluation takes at once."""
EVALUATION_TOKENS = 2048
"""An evaluation takes at least so many tokens at once, however small the batches of training: without gradients they
need less memory than a training step, and tiny models spend half of a smaller pass on calls."""
NOTES = "notes.txt"
STALL_SECONDS = 600.0

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Job:
    """How segments are executed: nothing here changes what they compute beyond rounding."""

    results: Path
    """The results folder."""
    data_folder: Path
    """Folder of the data snapshot."""
    data_url: str | None = None
    """Where a machine that has no such folder fetches it from."""
    checkpoint_every_steps: int
    """Steps between checkpoints within a segment: the work that a fault can cost."""
    micro_batch: int | None = None
    """Sequences per forward pass; None takes the whole batch."""
    threads: int = 1
    """torch threads of a CPU worker."""
    init_folder: Path | None = None
    """Folder of the pretrained weights that trunks start from, if they do."""
    task_folder: Path | None = None
    """Folder of the task files, where tasks are scored."""
    compile: bool = False
    """Whether the model goes through torch.compile: up to a minute on a CPU core, for cells that take far longer."""
    checkpoint_activations: bool = False
    """Whether layers keep their inputs only and compute the rest again in the backward pass: less memory, more time."""
    deterministic: bool = True
    """Whether a GPU must use operations with a fixed order of sums; a CPU worker always does."""
    stall_seconds: float = STALL_SECONDS
    """Without a step for so long, or for 20 times the slowest step where that is longer, an attempt is ended."""
    stop: StopFile | None = None
    """What its driver writes to make the segments stop; None for work that has no driver."""
    run: str = ""
    """Names the run of a command that this work belongs to: retries are counted within one run."""
    remote: str = ""
    """s3:// address of the results, where `results` is only this host's folder for them; each host has its own."""

    def sequences(self, segment: Segment, workers: int = 1) -> int:
        """Sequences in one forward pass of a segment, whose batches so many workers share."""
        share = segment.trunk.train.batch_size // workers
        sequences = min(self.micro_batch or share, share)
        if segment.kind != "evaluate":
            return sequences
        at_least = EVALUATION_TOKENS // segment.trunk.model.context_length if self.micro_batch is None else 0
        return max(at_least, min(EVALUATION_BATCH, sequences))


@dataclass(frozen=True, kw_only=True)
class SegmentRun:
    """One attempt at one segment."""

    segment: Segment
    job: Job
    store: Store
    attempt: Path
    """Its private folder."""
    on_step: Callable[[], None] = lambda: None
    """Told of every step, and of other work that took as long."""
    on_checkpoint: Callable[[int], None] = lambda _: None
    """Told of the step of every checkpoint that was kept."""

    def numerics_so_far(self) -> list[dict[str, Any]]:
        """The distinct numerics of this attempt and of those whose state it took over; more than one is a mix."""
        return json.loads((self.attempt / "numerics.json").read_text())

    def notes_so_far(self) -> list[str]:
        """What happened on the way that the result is to say."""
        path = self.attempt / NOTES
        return path.read_text().splitlines() if path.exists() else []

    def evaluate(self) -> tuple[None, dict[str, Any]]:
        """Load the decay's weights and measure them."""
        reader, shards = self._open_data()
        recipe, spec = self.segment.trunk, self.segment.evaluation
        assert spec is not None
        weights = self.segment.needs[0]
        if is_pruned(self.store, weights):
            folder = self.store.segment_folder(weights)
            raise StoreError(f"gc --weights removed the weights that are to be measured; {move_away(folder)}")
        model = self._new_model()
        load_checkpoint(self.store.checkpoint_folder(weights), model, None)
        if isinstance(spec, TaskEvaluation):
            return None, self._task_run(model).result(model)
        sequences = self.job.sequences(self.segment)
        batches = reader.valid_batches(spec.num_sequences, recipe.model.context_length, sequences)
        evaluation = evaluate(model, recipe.train, self._followed(batches, model), reader.token_bytes)
        shards.check()
        if not math.isfinite(evaluation.loss):
            raise Diverged(self.segment.stop_step, evaluation.loss)
        return None, {"status": "finished", "step": self.segment.stop_step, "evaluation": to_jsonable(evaluation)}

    def _task_run(self, model: Transformer) -> TaskRun:
        assert self.job.task_folder is not None
        stop = StopWatch(stop=self.job.stop)

        def before_batch(step: int) -> None:
            rehearse(model, lambda: self._where(step))
            if cause := stop.check():
                raise Interrupted(step - 1, cause)

        return TaskRun(
            segment=self.segment,
            store=self.store,
            attempt=self.attempt,
            data_folder=self.job.data_folder,
            task_folder=self.job.task_folder,
            before_batch=before_batch,
            after_batch=self.on_step,
        )

    def first_step(self) -> int:
        """The step of the published state that the segment starts from where no attempt has kept a later one."""
        return max((step for step, _ in self._trunk_states() if step <= self.segment.stop_step), default=0)

    def train(self) -> tuple[Path, dict[str, Any]]:
        """Train from the best checkpoint there is to the segment's last step."""
        segment = self.segment
        model, optimizer, shards, start_step, steps = self._start()
        started = time.monotonic()
        with (self.attempt / "metrics.jsonl").open("a") as metrics_file:
            self._follow(steps, model, optimizer, shards, metrics_file)
        shards.check()
        kept_optimizer = None if segment.kind == "decay" else optimizer
        checkpoint = self.attempt / "final"
        save_checkpoint(checkpoint, model, kept_optimizer, segment.stop_step)
        return checkpoint, {
            "status": "finished",
            "step": segment.stop_step,
            "steps_executed": segment.stop_step - start_step,
            "train_seconds": time.monotonic() - started,
            "loss_spikes": loss_spikes(read_metrics(self.attempt / "metrics.jsonl")),
        }

    def follow(self) -> None:
        """Take the steps of a rank that writes nothing. Raises Diverged, where rank 0 does, and PeerLost."""
        _, _, shards, _, steps = self._start()
        for metrics in steps:
            if self._is_logged(metrics.step):
                metrics.to_floats()
            if metrics.step % self.job.checkpoint_every_steps == 0 or metrics.step == self.segment.stop_step:
                shards.check()

    def _start(self) -> tuple[Transformer, torch.optim.AdamW, ShardCheck, int, Iterator[StepMetrics]]:
        """The state that rank 0 restores, given to every rank; the data's check; its step; and the steps from there."""
        (reader, shards), world = self._open_data(), current_world()
        recipe, segment = self.segment.trunk, self.segment
        model = self._new_model()
        if self.job.compile:
            model.compile_for_training()
        optimizer = build_optimizer(model, recipe.train)
        start_step = 0
        if world.rank == 0:
            start_step = self._restore(model, optimizer)
            again = pruned_step(self.store, segment) - start_step
            if again > 0:
                self._note(
                    f"{again} steps after step {start_step} were taken again: gc had pruned the state they led to"
                )
            if start_step == 0:
                self._initialise(model)
        start_step = world.share_state(model, optimizer, start_step)

        read = reader.read_ahead(recipe.seed, recipe.train.batch_size, recipe.model.context_length)

        def batch_of_step(step: int) -> np.ndarray:
            rehearse(model, lambda: self._where(step))
            return read(step)

        steps = train_steps(
            model,
            optimizer,
            recipe.train,
            batch_of_step,
            start_step=start_step,
            stop_step=segment.stop_step,
            cooldown=None if segment.decay_start is None else (segment.decay_start, segment.stop_step),
            micro_batch=self.job.micro_batch,
            world=world,
        )
        return model, optimizer, shards, start_step, steps

    def _is_logged(self, step: int) -> bool:
        return step % LOG_EVERY_STEPS == 0 or step in (1, self.segment.stop_step)

    def _follow(
        self,
        steps: Iterator[StepMetrics],
        model: Transformer,
        optimizer: torch.optim.Optimizer,
        shards: ShardCheck,
        metrics_file: IO[str],
    ) -> None:
        """Take the steps; write metrics on the step grid, progress by the clock and checkpoints every interval."""
        progress_at, stop = 0.0, StopWatch(stop=self.job.stop)
        for metrics in steps:
            self.on_step()
            last = metrics.step == self.segment.stop_step
            if self._is_logged(metrics.step):
                self._log(metrics, metrics_file)
            if time.monotonic() - progress_at > PROGRESS_SECONDS:
                progress_at = time.monotonic()
                self._report_progress(metrics.step)
            cause = None if last else stop.check()
            if cause:
                metrics.to_floats()  # A state that is not finite is no state to go on from.
            if cause or (metrics.step % self.job.checkpoint_every_steps == 0 and not last and metrics.is_finite()):
                shards.check()  # No state that came from changed data is kept.
                metrics_file.flush()
                os.fsync(metrics_file.fileno())  # A checkpoint without the curve that leads to it is of no use.
                save_checkpoint(self.attempt / f"checkpoint-{metrics.step}", model, optimizer, metrics.step)
                self._drop_old_checkpoints()
                self.on_checkpoint(metrics.step)
                self.on_step()
            if cause:
                self._report_progress(metrics.step)
                raise Interrupted(metrics.step, cause)

    def _followed(self, batches: Iterator[Item], model: Transformer) -> Iterator[Item]:
        """The batches of an evaluation, as long as nobody asks to stop: there is no state to keep."""
        stop = StopWatch(stop=self.job.stop)
        for batch in batches:
            rehearse(model, lambda: self._where(self.segment.stop_step))
            if cause := stop.check():
                raise Interrupted(self.segment.stop_step, cause)
            yield batch
            self.on_step()

    def _where(self, step: int) -> dict[str, str | int]:
        """What a rehearsed fault can ask for."""
        return {
            "segment": self.segment.id,
            "kind": self.segment.kind,
            "step": step,
            "attempt": self.store.num_attempts(self.segment.id),
            "rank": current_world().rank,
            "micro_batch": self.job.sequences(self.segment, current_world().size),
        }

    def _log(self, metrics: StepMetrics, file: IO[str]) -> None:
        train = self.segment.trunk.train
        tokens = metrics.step * train.batch_size * self.segment.trunk.model.context_length
        file.write(json.dumps({"step": metrics.step, "tokens": tokens, **metrics.to_floats()}) + "\n")

    def _report_progress(self, step: int) -> None:
        progress = json.dumps({"step": step, "stop_step": self.segment.stop_step})
        replace_text(self.attempt / "progress.json", progress, durable=False)

    def _drop_old_checkpoints(self) -> None:
        own = [path for _, path in self.store.attempt_checkpoints(self.segment.id) if path.parent == self.attempt]
        for path in own[KEPT_CHECKPOINTS:]:
            remove_folder(path)

    def _open_data(self) -> tuple[TokenReader, ShardCheck]:
        if self.job.data_url and not (self.job.data_folder / MANIFEST).is_file():
            fetch_folder(self.job.data_url, self.job.data_folder)
        snapshot = load_snapshot(self.job.data_folder)
        if snapshot.fingerprint != self.segment.trunk.data_fingerprint:
            raise DataError(
                f"{self.job.data_folder} holds the data snapshot {snapshot.fingerprint[:12]}, but this segment was "
                f"planned on {self.segment.trunk.data_fingerprint[:12]}: run the same command again to plan anew"
            )
        reader = open_tokens(snapshot)
        shards = ShardCheck(folder=self.job.data_folder, shards=(*reader.train, *reader.valid))
        shards.check()
        return reader, shards

    def _new_model(self) -> Transformer:
        device = default_device()
        if device.type == "cpu":
            torch.set_num_threads(self.job.threads)
            keep_freed_memory()
        else:
            # cuBLAS reads this when its context is made. Attention's and gather's gradients are sums whose order is
            # otherwise left to chance. Only warned of it, attention would stay with chance.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(self.job.deterministic)
        write_json(self.attempt / "numerics.json", [numerics(self.segment, self.job)])
        model = build_model(self.segment.trunk.model, self.segment.trunk.seed, device)
        model.checkpoint_activations = self.job.checkpoint_activations
        return model

    def _initialise(self, model: Transformer) -> None:
        """Fill a trunk's first model from pretrained weights, where its recipe says so."""
        recipe = self.segment.trunk
        if recipe.init is None:
            return
        assert self.job.init_folder is not None
        weights = read_llama(self.job.init_folder)
        if weights.fingerprint != recipe.init.fingerprint:
            raise DataError(
                f"{self.job.init_folder} holds other weights ({weights.fingerprint[:12]}) than this segment was "
                f"planned with ({recipe.init.fingerprint[:12]}): run the same command again to plan anew"
            )
        initialise(model, weights, recipe.init.selection, recipe.seed)

    def _restore(self, model: Transformer, optimizer: torch.optim.Optimizer) -> int:
        """Load the furthest state that verifies, of any attempt or of the trunk; returns its step."""
        states = [(step, path, True) for step, path in self.store.attempt_checkpoints(self.segment.id)]
        states += [(step, path, False) for step, path in self._trunk_states()]
        for step, path, of_attempt in sorted(states, reverse=True):
            if step >= self.segment.stop_step:
                continue
            rows = self._curve_until(step, path) if of_attempt else []
            if rows is not None and self._load(path, model, optimizer, set_aside=of_attempt):
                if of_attempt:
                    self._adopt(path.parent, rows)
                return step
        if self.segment.kind == "decay" and not is_pruned(self.store, self.segment.needs[0]):
            self._refuse_branch_point()
        return 0

    def _refuse_branch_point(self) -> None:
        """Say what is wrong with the checkpoint that a cooldown branches from."""
        parent = self.store.segment_folder(self.segment.needs[0])
        try:
            verify_checkpoint(parent / "checkpoint")
        except CheckpointError as error:
            raise StoreError(f"{error}; move {parent} away and run the same command again") from error
        raise StoreError(f"{parent} holds a checkpoint of another model; move it away and run the same command again")

    def _trunk_states(self) -> list[tuple[int, Path]]:
        """Published states that this segment may start from."""
        published = self.store.published_trunk_steps(trunk_id(self.segment.trunk))
        states = [(step, self.store.checkpoint_folder(segment_id)) for step, segment_id in published]
        branch = self.segment.decay_start
        if branch is None:
            return states
        parent = self.segment.needs[0]
        if not is_pruned(self.store, parent):
            return [(branch, self.store.checkpoint_folder(parent))]
        return [(step, path) for step, path in states if step < branch]  # Before its cooldown it is its trunk.

    def _load(self, path: Path, model: Transformer, optimizer: torch.optim.Optimizer, *, set_aside: bool) -> bool:
        """Load a checkpoint; an attempt's that does not verify is set aside for good."""
        try:
            load_checkpoint(path, model, optimizer)
        except CheckpointError as error:
            if set_aside:
                self._set_aside(path, str(error))
            return False
        return True

    def _set_aside(self, checkpoint: Path, why: str) -> None:
        """An attempt's checkpoint that must not be used again; the one before it is."""
        if checkpoint.exists():
            checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.corrupt"))
        self._note(f"{checkpoint.name} was set aside: {why}")

    def _note(self, text: str) -> None:
        """Something that the result is to say, beside its numbers."""
        with (self.attempt / NOTES).open("a") as file:
            file.write(text + "\n")

    def _curve_until(self, step: int, checkpoint: Path) -> list[dict[str, Any]] | None:
        """The curve that leads to an attempt's checkpoint; None, and the checkpoint set aside, where it is damaged."""
        try:
            curve = curve_until(checkpoint.parent / "metrics.jsonl", step)
        except StoreError as error:
            self._set_aside(checkpoint, str(error).partition(": ")[0])
            return None
        for note in curve.notes:
            self._note(note)
        return curve.rows

    def _adopt(self, attempt: Path, rows: list[dict[str, Any]]) -> None:
        """Take over the curve up to the checkpoint that this attempt starts from, and how it was computed."""
        (self.attempt / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        earlier = json.loads((attempt / "numerics.json").read_text())
        distinct = {json.dumps(each, sort_keys=True): each for each in (*earlier, *self.numerics_so_far())}
        write_json(self.attempt / "numerics.json", list(distinct.values()))


def numerics(segment: Segment, job: Job) -> dict[str, Any]:
    """What bits depend on beside the recipe: results are comparable bit for bit between equal numerics only."""
    device = default_device()
    return {
        "precision": segment.trunk.train.precision,
        "micro_batch": job.micro_batch or segment.trunk.train.batch_size,
        "threads": job.threads if device.type == "cpu" else 0,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu {platform.machine()}",
        "torch": torch.__version__,
        "world_size": current_world().size,
        "compile": job.compile,
        "deterministic": job.deterministic or device.type == "cpu",
    }
