"""Publication, hints and resume, one rule at a time."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from mor_core.files import replace_text
from mor_core.model.transformer import Transformer, build_model
from orchestrator.planning.identity import Segment, stable_segment, trunk_id
from orchestrator.records.revisions import load_sweep
from orchestrator.records.table import table
from orchestrator.running.segment.job import Job, SegmentRun
from orchestrator.running.segment.start_state import start_state
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.losses import read_metrics
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from tests.helpers.hand_made import TRUNK, left_behind, published
from tests.helpers.toy_sweep import ToySweep


def test_the_first_publication_wins_and_a_late_one_changes_nothing(tmp_path: Path):
    store, segment = Store(root=tmp_path), stable_segment(TRUNK, 10)
    assert published(store, segment, 10, by="first")
    before = {path: path.read_bytes() for path in store.segment_folder(segment.id).rglob("*") if path.is_file()}
    assert not published(store, segment, 10, by="second")
    assert before == {p: p.read_bytes() for p in store.segment_folder(segment.id).rglob("*") if p.is_file()}


def test_a_folder_without_a_result_is_named_before_any_work_is_done(tmp_path: Path):
    store, segment = Store(root=tmp_path), stable_segment(TRUNK, 10)
    store.segment_folder(segment.id).mkdir(parents=True)
    outcome = run_segment(segment, Job(results=tmp_path, data_folder=tmp_path, checkpoint_every_steps=5))
    assert outcome.status == "failed"
    assert f"{store.segment_folder(segment.id)} is in the way" in outcome.reason
    assert "move" in outcome.reason


def test_a_failed_attempt_says_why_and_is_found_by_the_table(tmp_path: Path):
    store, segment = Store(root=tmp_path), stable_segment(TRUNK, 10)
    outcome = run_segment(segment, Job(results=tmp_path, data_folder=tmp_path / "gone", checkpoint_every_steps=5))
    assert outcome.status == "failed"
    assert outcome.reason.startswith("data: ")
    failure = next(store.attempts_folder(segment.id).glob("*/failure.json"))
    assert json.loads(failure.read_text())["reason"] == outcome.reason


def test_a_stable_segment_starts_from_the_trunks_latest_published_step_below_its_own(tmp_path: Path):
    store = Store(root=tmp_path)
    for step in (3, 7, 20):
        published(store, stable_segment(TRUNK, step), step)
    assert [step for step, _ in store.published_trunk_steps(trunk_id(TRUNK))] == [20, 7, 3]
    segment = stable_segment(TRUNK, 10)
    assert restored_step(store, segment) == 7


def test_the_furthest_state_wins_whether_it_is_an_attempts_or_the_trunks(tmp_path: Path):
    store, segment = Store(root=tmp_path), stable_segment(TRUNK, 10)
    published(store, stable_segment(TRUNK, 3), 3)
    left_behind(store, segment, step=5)
    assert restored_step(store, segment) == 5
    published(store, stable_segment(TRUNK, 8), 8)
    assert restored_step(store, segment) == 8


def test_a_hint_to_a_segment_that_is_not_published_is_not_followed(tmp_path: Path):
    store = Store(root=tmp_path)
    early, late = stable_segment(TRUNK, 3), stable_segment(TRUNK, 7)
    published(store, early, 3)
    published(store, late, 7)
    shutil.rmtree(store.segment_folder(late.id))
    assert store.published_trunk_steps(trunk_id(TRUNK)) == [(3, early.id)]


def test_a_refused_checkpoint_leaves_the_model_as_it_was(tmp_path: Path):
    """Weights that fit beside an optimiser that does not: nothing of it may be copied."""
    store, segment = Store(root=tmp_path), stable_segment(TRUNK, 10)
    attempt = left_behind(store, segment, step=5, weights_only=True)
    model = build_model(TRUNK.model, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert restored_step(store, segment, model) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (attempt.folder / "checkpoint-5.corrupt").exists()


def test_what_killed_attempts_left_half_written_goes_when_the_next_one_starts_and_checkpoints_stay(tmp_path: Path):
    store, segment = Store(root=tmp_path), stable_segment(TRUNK, 10)
    killed = left_behind(store, segment, step=5).folder
    elsewhere = killed.with_name("002-another-host-17")
    half = ["checkpoint-10.writing.17", "checkpoint-5.writing.17.removed", "checkpoint-1.removed", "final", "publish"]
    for attempt in (killed, elsewhere):
        for name in half:
            (attempt / name).mkdir(parents=True)
            (attempt / name / "weights.safetensors").write_text("half")
    (killed / "progress.json.17.writing").write_text("{")
    run_segment(segment, Job(results=tmp_path, data_folder=tmp_path / "gone", checkpoint_every_steps=5))
    assert sorted(path.name for path in killed.iterdir()) == ["checkpoint-5", "metrics.jsonl", "numerics.json"]
    assert sorted(path.name for path in elsewhere.iterdir()) == sorted(half), "its process may be alive"


def restored_step(store: Store, segment: Segment, model: Transformer | None = None) -> int:
    """The step that a new attempt at the segment would start from."""
    attempt = store.new_attempt(segment)
    attempt.record_numerics([{"device": "this"}])
    job = Job(results=store.root, data_folder=store.root, checkpoint_every_steps=5)
    run = SegmentRun(segment=segment, job=job, store=store, attempt=attempt)
    return start_state(run, model or build_model(TRUNK.model, seed=0)).step


def test_an_attempt_that_takes_over_anothers_state_remembers_both_numerics(tmp_path: Path):
    store, segment = Store(root=tmp_path), stable_segment(TRUNK, 10)
    left_behind(store, segment, step=5)
    assert restored_step(store, segment) == 5
    newest = sorted(store.attempts_folder(segment.id).glob("*/numerics.json"))[-1]
    assert [each["device"] for each in json.loads(newest.read_text())] == ["another", "this"]
    assert [row["step"] for row in read_metrics(newest.parent / "metrics.jsonl")] == [1]


def test_a_torn_last_line_of_a_curve_is_dropped_and_a_torn_middle_is_named(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(StoreError, match=r"metrics\.jsonl line 2"):
        read_metrics(path)


@pytest.mark.slow
def test_a_finished_cell_stays_finished_while_a_later_plan_runs_a_stretch_of_its_trunk(
    reference: ToySweep, tmp_path: Path
):
    """A middle budget puts a new stretch before the largest budget's; the published cell must not wait for it."""
    results = tmp_path / "results"
    shutil.copytree(reference.results, results)
    grown = ToySweep(results=results, text=reference.text, cache=reference.cache)
    assert grown.run("--budgets", "6e8,1.8e9,2.4e9").returncode == 0
    store = Store(root=results)
    sweep = load_sweep(store, "toy")
    middle = [cell for cell in sweep.cells if cell.budget == 1_800_000_000]
    for cell in middle:
        for segment in sweep.chain(cell)[-3:]:
            shutil.rmtree(store.segment_folder(segment.id), ignore_errors=True)
    states = {row["budget"]: row["status"] for row in table(store, sweep).iter_rows(named=True)}
    assert states == {
        "600000000": "finished",
        "1200000000": "finished",
        "1800000000": "pending",
        "2400000000": "finished",
    }


def test_a_failure_file_that_is_empty_does_not_break_the_table(reference: ToySweep, tmp_path: Path):
    results = tmp_path / "results"
    shutil.copytree(reference.results, results)
    store = Store(root=results)
    sweep = load_sweep(store, "toy")
    victim = str(sweep.cells[0].evaluate_segment)
    shutil.rmtree(store.segment_folder(victim))
    newest = max(path for path in store.attempts_folder(victim).iterdir() if path.is_dir())
    (newest / "failure.json").write_text("")
    row = table(store, sweep).row(0, named=True)
    assert row["status"] == "failed"
    assert "does not say why" in row["reason"]


def test_a_damaged_sweep_file_is_one_sentence_with_what_to_do(reference: ToySweep, tmp_path: Path):
    results = tmp_path / "results"
    shutil.copytree(reference.results, results)
    path = results / "sweeps/toy/sweep.json"
    for damage in ("", "[1]", '{"schema": "mor-sweep.sweep/1", "revisions": [{"cells": 3}]}'):
        path.write_text(damage)
        with pytest.raises(StoreError, match=r"sweep\.json.*trained segments are kept"):
            load_sweep(Store(root=results), "toy")


def test_hints_that_nobody_here_wrote_are_passed_over(tmp_path: Path):
    store, segment = Store(root=tmp_path), stable_segment(TRUNK, 10)
    assert published(store, segment, 10)
    folder = tmp_path / "trunks" / trunk_id(TRUNK)
    (folder / "20").write_bytes(b"\xff\xfe")
    (folder / "\N{SUPERSCRIPT TWO}").write_text(segment.id)
    (folder / "\N{ARABIC-INDIC DIGIT THREE}").write_text(segment.id)
    (folder / "30").mkdir()
    os.mkfifo(folder / "40")
    assert store.published_trunk_steps(trunk_id(TRUNK)) == [(10, segment.id)]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool):
    path, flushed = tmp_path / "sweep.json", []
    path.write_text("before")
    flush = os.fsync

    def watched(descriptor: int) -> None:
        flush(descriptor)
        flushed.append((Path(f"/proc/self/fd/{descriptor}").resolve().read_text(), path.read_text()))

    monkeypatch.setattr(os, "fsync", watched)
    replace_text(path, "after", durable=durable)
    assert flushed == ([("after", "before")] if durable else [])
    assert path.read_text() == "after"
