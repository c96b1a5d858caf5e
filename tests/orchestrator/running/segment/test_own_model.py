"""A user's own model is trained as one of our family: killed, resumed, beside damage, and to its divergence."""

from dataclasses import replace
from pathlib import Path

import pytest

from examples.ngram_mlp import ngram
from mor_core.data.snapshot import DataSnapshot
from mor_core.model.own.counts import counted
from mor_core.model.own.model import load_definition
from mor_core.training.rehearsal import VARIABLE
from orchestrator.planning.canonical import from_jsonable, to_jsonable
from orchestrator.planning.identity import EvaluationSpec, Segment, decay_segment, evaluate_segment, stable_segment
from orchestrator.running.segment.job import Job
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.upstream.upstream import open_store
from tests.helpers.single_segment import job_for, segment_on

NGRAM = "examples.ngram_mlp:ngram"


@pytest.fixture
def segment(data: DataSnapshot) -> Segment:
    """Forty steps of the n-gram."""
    model = counted(load_definition(NGRAM), "w8", vocab_size=data.vocab_size, context_length=32).model
    trunk = replace(segment_on(data).trunk, model=model)
    return stable_segment(trunk, 40)


def weights(job: Job, segment: Segment) -> bytes:
    return (open_store(job.results).checkpoint_folder(segment.id) / "weights.safetensors").read_bytes()


def test_it_resumes_bit_for_bit_after_a_fault_and_beside_a_damaged_checkpoint(
    segment: Segment, data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, disturbed = job_for(tmp_path / "one", data), job_for(tmp_path / "other", data)
    assert run_segment(segment, undisturbed).status == "finished"
    monkeypatch.setenv(VARIABLE, "raise step=35")
    assert run_segment(segment, disturbed).status == "failed"
    (attempt,) = open_store(disturbed.results).attempts(segment.id)
    step, newest = attempt.checkpoints()[0]
    assert step == 30
    (newest / "weights.safetensors").write_bytes(b"torn")
    monkeypatch.delenv(VARIABLE)
    assert run_segment(segment, disturbed).status == "finished"
    assert weights(disturbed, segment) == weights(undisturbed, segment)
    result = open_store(disturbed.results).result(segment.id)
    assert result is not None
    assert result.steps_executed == 20, "it went on from step 20, for 30 was torn"
    assert any("set aside" in note for note in result.notes)


def test_its_cooldown_and_evaluation_are_those_of_any_cell(
    segment: Segment, data: DataSnapshot, tmp_path: Path
) -> None:
    job = job_for(tmp_path / "results", data)
    decay = decay_segment(segment.trunk, 40, 50, needs=(segment.id,))
    evaluation = evaluate_segment(decay, EvaluationSpec(num_sequences=16))
    assert [run_segment(part, job).status for part in (segment, decay, evaluation)] == ["finished"] * 3
    result = open_store(job.results).result(evaluation.id)
    assert result is not None
    assert result.evaluation is not None
    assert 0 < result.evaluation.loss == result.evaluation.loss_topk
    assert result.evaluation.depth_mean == 1
    assert {"own_model", "own_model_versions"} <= result.last_numerics.keys()


def test_a_state_that_is_not_finite_is_a_divergence(
    segment: Segment, data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "nan step=15")
    outcome = run_segment(segment, job_for(tmp_path / "results", data))
    assert outcome.status == "diverged"
    assert "nan" in outcome.reason


def test_an_object_that_is_no_longer_what_was_planned_fails_its_segments_in_a_sentence(
    segment: Segment, data: DataSnapshot, tmp_path: Path
) -> None:
    other = replace(segment.trunk, model=replace(segment.trunk.model, version="0"))
    outcome = run_segment(stable_segment(other, 40), job_for(tmp_path / "results", data))
    assert outcome.status == "failed"
    assert "no longer what was planned" in outcome.reason


def test_a_module_that_is_not_there_fails_its_segments_in_a_sentence(
    segment: Segment, data: DataSnapshot, tmp_path: Path
) -> None:
    other = replace(segment.trunk, model=replace(segment.trunk.model, object="no_such_module:ladder"))
    outcome = run_segment(stable_segment(other, 40), job_for(tmp_path / "results", data))
    assert outcome.status == "failed"
    assert "there is no module no_such_module" in outcome.reason


def test_counts_are_in_its_file_and_in_no_id(segment: Segment) -> None:
    recounted = replace(segment.trunk, model=replace(segment.trunk.model, training_flops=7, unique_params=9))
    assert stable_segment(recounted, 40).id == segment.id
    assert from_jsonable(Segment, to_jsonable(stable_segment(recounted, 40))).trunk == recounted
    again = replace(segment.trunk, model=replace(segment.trunk.model, version="2"))
    assert stable_segment(again, 40).id != segment.id
    assert segment.trunk.model.version == ngram.version
