"""A model with training steps of its own is stopped, resumed and measured as any other, its state with its weights."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mor_core.data.snapshot import DataSnapshot
from mor_core.model.own.counts import counted
from mor_core.model.own.model import build, load_definition
from mor_core.training.distributed import World
from mor_core.training.loop import train_steps
from mor_core.training.optim import build_optimizer
from mor_core.training.rehearsal import VARIABLE
from orchestrator.planning.canonical import from_jsonable, to_jsonable
from orchestrator.planning.identity import EvaluationSpec, Segment, decay_segment, evaluate_segment, stable_segment
from orchestrator.running.outcomes import FailureClass
from orchestrator.running.segment.job import Job
from orchestrator.running.segment.worker import half_micro_batch, run_segment
from orchestrator.store.upstream.upstream import open_store
from tests.helpers.paths import ROOT
from tests.helpers.single_segment import job_for, segment_on

LION = "examples.ngram_lion:ngram"

TRAIN_AND_HANG = """
import json, sys
from pathlib import Path
from mor_core.data.snapshot import load_snapshot
from orchestrator.planning.canonical import from_jsonable
from orchestrator.planning.identity import Segment
from orchestrator.running.segment.worker import run_segment
from tests.helpers.single_segment import job_for
results, folder, segment = sys.argv[1:]
run_segment(from_jsonable(Segment, json.loads(segment)), job_for(Path(results), load_snapshot(Path(folder))))
"""


def segment_of(name: str, data: DataSnapshot, size: str | None = None) -> Segment:
    """Forty steps of an object's model."""
    definition = load_definition(name)
    size = size or next(iter(definition.sizes))
    model = counted(definition, size, vocab_size=data.vocab_size, context_length=32).model
    trunk = segment_on(data).trunk
    train = replace(trunk.train, cosine_steps=40) if model.training == "whole-runs" else trunk.train
    return stable_segment(replace(trunk, model=model, train=train), 40)


@pytest.fixture
def segment(data: DataSnapshot) -> Segment:
    """Forty steps of the n-gram under Lion."""
    return segment_of(LION, data)


def checkpoint(job: Job, segment: Segment) -> dict[str, bytes]:
    folder = open_store(job.results).checkpoint_folder(segment.id)
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("damaged", ["optimizer.safetensors", "weights.safetensors", None])
def test_it_resumes_bit_for_bit_after_a_fault_and_beside_a_damaged_checkpoint(
    segment: Segment, data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str | None
) -> None:
    undisturbed, disturbed = job_for(tmp_path / "one", data), job_for(tmp_path / "other", data)
    assert run_segment(segment, undisturbed).status == "finished"
    monkeypatch.setenv(VARIABLE, "raise step=35")
    assert run_segment(segment, disturbed).status == "failed"
    (attempt,) = open_store(disturbed.results).attempts(segment.id)
    step, newest = attempt.checkpoints()[0]
    assert step == 30
    if damaged:
        (newest / damaged).write_bytes(b"torn")
    monkeypatch.delenv(VARIABLE)
    assert run_segment(segment, disturbed).status == "finished"
    assert checkpoint(disturbed, segment) == checkpoint(undisturbed, segment), "weights and state"
    assert len(checkpoint(disturbed, segment)) == 2
    result = open_store(disturbed.results).result(segment.id)
    assert result is not None
    assert result.steps_executed == (20 if damaged else 10), "it went on from step 20 where 30 was torn"
    assert any("set aside" in note for note in result.notes) == bool(damaged)


def test_a_killed_process_is_gone_on_from_bit_for_bit(
    segment: Segment, data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, killed = job_for(tmp_path / "one", data), job_for(tmp_path / "other", data)
    assert run_segment(segment, undisturbed).status == "finished"
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN_AND_HANG, killed.results, data.folder, json.dumps(to_jsonable(segment))],
        cwd=ROOT,
        env=os.environ | {VARIABLE: "hang step=25", "PYTHONPATH": str(ROOT)},
    )
    store = open_store(killed.results)
    try:
        while store.attempts(segment.id).last_step() < 20:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run_segment(segment, killed).status == "finished"
    assert checkpoint(killed, segment) == checkpoint(undisturbed, segment)
    result = store.result(segment.id)
    assert result is not None
    assert result.steps_executed == 20


def test_its_state_is_in_the_checkpoint_by_the_names_that_it_gives(
    segment: Segment, data: DataSnapshot, tmp_path: Path
) -> None:
    job = job_for(tmp_path / "results", data)
    assert run_segment(segment, job).status == "finished"
    folder = open_store(job.results).checkpoint_folder(segment.id)
    state, weights = (load_file(folder / f"{name}.safetensors") for name in ("optimizer", "weights"))
    assert {f"module.{name}": value.shape for name, value in state.items()} == {
        name: value.shape for name, value in weights.items()
    }
    assert all(value.abs().sum() > 0 for value in state.values())


def test_its_cooldown_ends_lower_and_its_evaluation_has_the_losses_that_it_names(
    segment: Segment, data: DataSnapshot, tmp_path: Path
) -> None:
    job = job_for(tmp_path / "results", data)
    decay = decay_segment(segment.trunk, 40, 60, needs=(segment.id,))
    parts = (segment, decay, evaluate_segment(decay, EvaluationSpec(num_sequences=16)))
    assert [run_segment(part, job).status for part in parts] == ["finished"] * 3
    store = open_store(job.results)
    assert set(checkpoint(job, decay)) == {"weights.safetensors"}, "a cooldown keeps no state"
    result = store.result(parts[2].id)
    assert result is not None
    assert result.evaluation is not None
    assert result.evaluation.own_losses is not None
    (loss,) = (value for name, value in result.evaluation.own_losses.items() if name == "whole_context")
    first, *_, last = [json.loads(line) for line in store.published(decay.id).metrics.read_text().splitlines()]
    assert first["learning_rate"] > last["learning_rate"]
    assert last["weight_norm"] > 0
    assert 0 < loss < 4
    assert loss != result.evaluation.loss
    assert abs(loss - result.evaluation.loss) < 1


def test_a_named_loss_is_the_mean_over_all_sequences_however_they_are_batched(
    segment: Segment, data: DataSnapshot, tmp_path: Path
) -> None:
    losses = []
    for micro_batch in (None, 1):
        job = job_for(tmp_path / f"results-{micro_batch}", data)
        evaluation = evaluate_segment(segment, EvaluationSpec(num_sequences=7))
        assert run_segment(segment, job).status == "finished"
        assert run_segment(evaluation, replace(job, micro_batch=micro_batch)).status == "finished"
        result = open_store(job.results).result(evaluation.id)
        assert result is not None
        assert result.evaluation is not None
        losses.append(result.evaluation.own_losses)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("name", ["whole_runs", "stateless"])
def test_others_are_trained_too(name: str, data: DataSnapshot, tmp_path: Path) -> None:
    segment = segment_of(f"tests.helpers.own_models:{name}", data)
    job = job_for(tmp_path / "results", data)
    assert run_segment(segment, job).status == "finished"
    curve = open_store(job.results).published(segment.id).metrics.read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in curve]
    assert rates == sorted(rates, reverse=True), "a cosine falls from its warm-up of one step on"
    assert rates[-1] < rates[0] / 10


def test_a_state_that_is_not_finite_is_a_divergence(
    segment: Segment, data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "nan step=15")
    job = job_for(tmp_path / "results", data)
    outcome = run_segment(segment, job)
    assert outcome.status == "diverged"
    result = open_store(job.results).result(segment.id)
    assert result is not None
    assert result.last_good_step in (0, 10)


def test_a_named_loss_that_is_no_number_fails_the_evaluation_in_a_sentence(data: DataSnapshot, tmp_path: Path) -> None:
    segment = segment_of("tests.helpers.own_models:names_nan", data)
    job = job_for(tmp_path / "results", data)
    evaluation = evaluate_segment(segment, EvaluationSpec(num_sequences=4))
    assert run_segment(segment, job).status == "finished"
    outcome = run_segment(evaluation, job)
    assert outcome.failure is FailureClass.user
    assert "named_losses gave nan for last" in outcome.reason


def test_an_object_that_is_trained_otherwise_than_planned_fails_its_segments_in_a_sentence(
    segment: Segment, data: DataSnapshot, tmp_path: Path
) -> None:
    other = replace(segment.trunk, model=replace(segment.trunk.model, training="adamw"))
    outcome = run_segment(stable_segment(other, 40), job_for(tmp_path / "results", data))
    assert outcome.failure is FailureClass.user
    assert "no longer what was planned" in outcome.reason


def test_how_it_is_trained_is_part_of_its_id_and_adamw_is_left_out_of_it(segment: Segment) -> None:
    with_adamw = replace(segment.trunk, model=replace(segment.trunk.model, training="adamw"))
    assert stable_segment(with_adamw, 40).id != segment.id
    assert "training" not in to_jsonable(with_adamw.model)
    assert from_jsonable(Segment, to_jsonable(segment)) == segment


def test_several_workers_and_half_a_micro_batch_are_not_for_steps_that_take_the_whole_batch(
    segment: Segment, data: DataSnapshot, tmp_path: Path
) -> None:
    assert half_micro_batch(segment, job_for(tmp_path / "results", data)) is None
    model, train = build(segment.trunk.model, 0), segment.trunk.train
    steps = train_steps(
        model,
        build_optimizer(model, train),
        train,
        lambda _: torch.zeros((4, 33), dtype=torch.int64).numpy(),
        steps=range(1),
        cooldown=None,
        world=World(rank=0, size=2),
    )
    with pytest.raises(ValueError, match="are taken by 1 worker, found 2"):
        next(steps)
