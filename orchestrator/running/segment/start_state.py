"""What an attempt starts from: its data, a fresh model, and the furthest checkpoint that verifies."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mor_core.data.batches import TokenReader
from mor_core.data.prepare import open_tokens
from mor_core.data.remote import fetch_folder
from mor_core.data.snapshot import MANIFEST, load_snapshot
from mor_core.data.spec import DataError
from mor_core.data.verified import ShardCheck
from mor_core.interop.hugging_face import initialise
from mor_core.interop.llama_folder import read_llama
from mor_core.model.device import default_device, keep_freed_memory
from mor_core.model.language_model import LanguageModel
from mor_core.model.own.code import import_from
from mor_core.model.own.model import build
from mor_core.model.transformer import Transformer
from mor_core.training.checkpoint import load_checkpoint
from mor_core.training.distributed import current_world
from mor_core.training.manifest import CheckpointError, verify_checkpoint
from mor_core.training.optim import Optimizer, OwnSteps, build_optimizer
from orchestrator.planning.identity import trunk_id
from orchestrator.running.segment.job import SegmentRun, numerics
from orchestrator.store.attempts import Attempt
from orchestrator.store.losses import curve_until
from orchestrator.store.pruned import is_pruned, pruned_step
from orchestrator.store.published import StoreError


@dataclass(frozen=True, kw_only=True)
class StartState:
    """What training goes on from, the same on every rank. Steps change the model and the optimizer in place."""

    model: LanguageModel
    """With the weights of `step`."""
    optimizer: Optimizer
    """With the moments of `step`, or what an own model's steps keep."""
    step: int
    """Steps that led to it; 0 where training begins."""


def open_data(run: SegmentRun) -> tuple[TokenReader, ShardCheck]:
    """The tokens of a segment, and the check that they are still those it was planned on. Raises DataError."""
    segment, job = run.segment, run.job
    if job.data_url and not (job.data_folder / MANIFEST).is_file():
        fetch_folder(job.data_url, job.data_folder)
    snapshot = load_snapshot(job.data_folder)
    if snapshot.fingerprint != segment.trunk.data_fingerprint:
        raise DataError(
            f"{job.data_folder} holds the data snapshot {snapshot.fingerprint[:12]}, but this segment was "
            f"planned on {segment.trunk.data_fingerprint[:12]}: run the same command again to plan anew"
        )
    reader = replace(open_tokens(snapshot), unique_tokens=segment.trunk.unique_tokens)
    shards = ShardCheck(folder=job.data_folder, shards=(*reader.train, *reader.valid))
    shards.check()
    return reader, shards


def new_model(run: SegmentRun) -> LanguageModel:
    """A segment's model with the weights of its seed, on this machine's device. Records this attempt's numerics."""
    device = default_device()
    if device.type == "cpu":
        torch.set_num_threads(run.job.threads)
        keep_freed_memory()
    else:
        # cuBLAS reads this when its context is made. Attention's and gather's gradients are sums whose order is
        # otherwise left to chance. Only warned of it, attention would stay with chance.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(run.job.deterministic)
    if run.job.import_from is not None:
        import_from(run.job.import_from)
    run.attempt.record_numerics([numerics(run.segment, run.job)])
    model = build(run.segment.trunk.model, run.segment.trunk.seed, device)
    if run.job.checkpoint_activations:
        model.checkpoint_in_backward()
    if run.job.compile and run.segment.kind != "evaluate":
        model.compile_for_training()
    return model


def start_state(run: SegmentRun, model: LanguageModel) -> StartState:
    """The state that rank 0 finds, given to every rank: in `model`, and in a new optimizer of it."""
    optimizer, step, world = build_optimizer(model, run.segment.trunk.train), 0, current_world()
    if world.rank == 0:
        step = _restore(run, model, optimizer)
        again = pruned_step(run.store, run.segment) - step
        if again > 0:
            run.attempt.note(f"{again} steps after step {step} were taken again: gc had pruned the state they led to")
        if step == 0:
            _initialise(run, model)
    if not isinstance(optimizer, OwnSteps):  # Which one worker takes.
        step = world.share_state(model, optimizer, step)
    return StartState(model=model, optimizer=optimizer, step=step)


def first_step(run: SegmentRun) -> int:
    """The step of the published state that the segment starts from where no attempt has kept a later one."""
    return max((step for step, _ in _trunk_states(run) if step <= run.segment.stop_step), default=0)


def _restore(run: SegmentRun, model: LanguageModel, optimizer: Optimizer) -> int:
    """Load the furthest state that verifies, of any attempt or of the trunk; returns its step."""
    states: list[tuple[int, Path, Attempt | None]] = [(step, path, None) for step, path in _trunk_states(run)]
    for attempt in run.store.attempts(run.segment.id):
        states += [(step, path, attempt) for step, path in attempt.checkpoints()]
    # Newest first: all of them lead to the same state, and the furthest one leaves the fewest steps to take again. An
    # attempt's that does not verify is set aside, so that no later attempt tries it and no bucket brings it back, and
    # not deleted, so that one can still see what damaged it; `gc` does that. A published one stays as it is: it is not
    # this segment's, and `fsck` says what is wrong with it.
    for step, path, attempt in sorted(states, key=lambda state: state[:2], reverse=True):
        if step >= run.segment.stop_step:
            continue
        rows = _curve_until(run, step, attempt) if attempt else []
        if rows is None:
            continue
        try:
            load_checkpoint(path, model, optimizer)
        except CheckpointError as error:
            if attempt:
                _set_aside(run, step, attempt, str(error))
            continue
        if attempt:
            _adopt(run, attempt, rows)
        return step
    if run.segment.kind == "decay" and not is_pruned(run.store, run.segment.needs[0]):
        _refuse_branch_point(run)
    return 0


def _trunk_states(run: SegmentRun) -> list[tuple[int, Path]]:
    """Published states that this segment may start from."""
    published = run.store.published_trunk_steps(trunk_id(run.segment.trunk))
    states = [(step, run.store.checkpoint_folder(segment_id)) for step, segment_id in published]
    branch = run.segment.decay_start
    if branch is None:
        return states
    parent = run.segment.needs[0]
    if not is_pruned(run.store, parent):
        return [(branch, run.store.checkpoint_folder(parent))]
    return [(step, path) for step, path in states if step < branch]  # Before its cooldown it is its trunk.


def _curve_until(run: SegmentRun, step: int, attempt: Attempt) -> list[dict[str, Any]] | None:
    """The curve that leads to an attempt's checkpoint; None, and the checkpoint set aside, where it is damaged."""
    try:
        curve = curve_until(attempt.metrics, step)
    except StoreError as error:
        _set_aside(run, step, attempt, str(error).partition(": ")[0])
        return None
    for note in curve.notes:
        run.attempt.note(note)
    return curve.rows


def _set_aside(run: SegmentRun, step: int, attempt: Attempt, why: str) -> None:
    """An attempt's checkpoint that must not be used again; the one before it is."""
    attempt.set_aside(step)
    run.attempt.note(f"{attempt.checkpoint(step).name} was set aside: {why}")


def _adopt(run: SegmentRun, earlier: Attempt, rows: list[dict[str, Any]]) -> None:
    """Take over the curve up to the checkpoint that this attempt starts from, and how it was computed."""
    run.attempt.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    numerics_of_both = (*earlier.read_numerics(), *run.attempt.read_numerics())
    distinct = {json.dumps(entry, sort_keys=True): entry for entry in numerics_of_both}
    run.attempt.record_numerics(list(distinct.values()))


def _refuse_branch_point(run: SegmentRun) -> None:
    """Say what is wrong with the checkpoint that a cooldown branches from."""
    parent = run.store.segment_folder(run.segment.needs[0])
    try:
        verify_checkpoint(run.store.checkpoint_folder(run.segment.needs[0]))
    except CheckpointError as error:
        raise StoreError(f"{error}; move {parent} away and run the same command again") from error
    raise StoreError(f"{parent} holds a checkpoint of another model; move it away and run the same command again")


def _initialise(run: SegmentRun, model: LanguageModel) -> None:
    """Fill a trunk's first model from pretrained weights, where its recipe says so."""
    recipe = run.segment.trunk
    if recipe.init is None:
        return
    assert run.job.init_folder is not None
    assert isinstance(model, Transformer)
    weights = read_llama(run.job.init_folder)
    if weights.fingerprint != recipe.init.fingerprint:
        raise DataError(
            f"{run.job.init_folder} holds other weights ({weights.fingerprint[:12]}) than this segment was "
            f"planned with ({recipe.init.fingerprint[:12]}): run the same command again to plan anew"
        )
    initialise(model, weights, recipe.init.selection, recipe.seed)
