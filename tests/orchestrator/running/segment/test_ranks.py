"""When the group of a segment with several workers is replaced, and when its outcome stands."""

from dataclasses import replace
from pathlib import Path

import pytest

from mor_core.data.snapshot import DataSnapshot
from mor_core.training.rehearsal import VARIABLE
from orchestrator.running.outcomes import FailureClass
from orchestrator.running.segment.ranks import Rank, run_rank, with_ranks
from orchestrator.store.workers.stop_request import new_stop_file
from tests.helpers.single_segment import job_for, segment_on


@pytest.mark.parametrize("how", ["now", "launch no more"])
def test_no_group_is_started_once_the_run_is_to_stop(data: DataSnapshot, tmp_path: Path, how):
    stop = new_stop_file(tmp_path)
    stop.ask(how)
    groups: list[Rank] = []
    outcome = with_ranks(segment_on(data), job_for(tmp_path, data, stop=stop), groups.append, workers=2, tries=3)
    assert outcome.status == "interrupted"
    assert groups == []


def test_a_lost_group_is_replaced_until_its_tries_are_used_up(data: DataSnapshot, tmp_path: Path):
    groups: list[Rank] = []

    def lost(rank: Rank) -> str:
        groups.append(rank)
        return "a worker died"

    outcome = with_ranks(segment_on(data), job_for(tmp_path, data), lost, workers=2, tries=3)
    assert (outcome.failure, outcome.reason) == (FailureClass.infrastructure, "infrastructure: a worker died")
    assert len(groups) == 3


def test_a_defect_keeps_its_class_and_is_not_tried_again(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, "raise step=5")
    groups: list[Rank] = []

    def train(rank: Rank) -> None:
        groups.append(rank)
        run_rank(rank)

    outcome = with_ranks(segment_on(data), job_for(tmp_path, data), train, workers=2, tries=3)
    assert (outcome.status, outcome.failure) == ("failed", FailureClass.error)
    assert len(groups) == 1
    assert not (tmp_path / "scratch").exists()


def test_a_group_without_memory_is_tried_again_with_half_the_micro_batch_of_a_worker(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, "device-oom step=5")
    micro_batches: list[int | None] = []

    def train(rank: Rank) -> None:
        micro_batches.append(rank.job.micro_batch)
        # One process stands in for the group, and would itself try again if it could take less at a time.
        run_rank(replace(rank, job=replace(rank.job, micro_batch=1)))

    outcome = with_ranks(segment_on(data, batch_size=4), job_for(tmp_path, data), train, workers=2, tries=3)
    assert (outcome.status, outcome.failure) == ("failed", FailureClass.oom)
    assert micro_batches == [None, 1]
