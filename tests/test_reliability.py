"""docs/reliability.md says of every promise what its fault last gave, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from docs.make_reliability import PAGE, table, with_table
from tests.faults.fault_report import CASES, ELSEWHERE, PROMISES
from tests.faults.last_run import Outcome, functions_by_case, is_there, keep, outcomes

SPIKE = "tests/faults/test_failures.py::test_a_spike_of_the_loss_is_flagged_and_training_goes_on"
KILL = "tests/faults/test_disk.py::test_a_kill_at_any_point_of_a_commit_leaves_a_whole_checkpoint"
OUTCOME = Outcome(case="F7", test=SPIKE, passed=True, figure="flagged", machine="one core", commit="1a2b3c4")


def row_of(case: str, last: list[Outcome]) -> str:
    return next(line for line in table(last).splitlines() if f"| {case}: " in line)


def test_the_page_is_made_of_what_is_on_file():
    """Where this fails: python -m docs.make_reliability."""
    page = PAGE.read_text()
    assert with_table(page) == page


def test_every_case_has_a_promise_and_tests_and_every_outcome_a_test_that_is_there():
    assert PROMISES.keys() == CASES.keys() == functions_by_case(ELSEWHERE).keys()
    assert [outcome.test for outcome in outcomes() if not is_there(outcome.function)] == []


def test_a_case_that_has_not_been_run_is_said_to_be_so():
    assert row_of("F7", []).endswith("| not run yet |")
    assert row_of("F1", [OUTCOME]).endswith("| not run yet |")


def test_a_row_gives_the_figure_with_where_and_at_which_commit_it_was_measured():
    assert row_of("F7", [OUTCOME]).endswith("| 1 of 3 tests passed; flagged (1a2b3c4, machine 1) |")
    assert table([OUTCOME]).endswith("Machine 1: one core.")


def test_a_failure_is_counted_and_its_figure_is_not_shown():
    row = row_of("F7", [replace(OUTCOME, passed=False)])
    assert "0 of 3 tests passed; **1 failed**" in row
    assert "flagged (" not in row


def test_a_run_of_one_test_replaces_its_outcome_and_leaves_the_others(tmp_path: Path):
    path = tmp_path / "last.json"
    other = replace(OUTCOME, case="F3", test=KILL)
    keep([OUTCOME, other], path)
    again = replace(OUTCOME, figure="flagged again")
    keep([again], path)
    assert outcomes(path) == [other, again]


@pytest.mark.parametrize("gone", ["tests/faults/test_disk.py::test_of_before", "tests/faults/test_before.py::test_x"])
def test_a_test_that_is_no_longer_there_leaves_the_file(tmp_path: Path, gone: str):
    path = tmp_path / "last.json"
    keep([replace(OUTCOME, test=gone), OUTCOME], path)
    assert outcomes(path) == [OUTCOME]
