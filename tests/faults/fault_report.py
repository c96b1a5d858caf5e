"""One line for each case of the fault programme, with its figures, and what became of the invariants. Figures are kept
in last.json too, of which docs/reliability.md is made."""

import pytest

from tests.faults.last_run import Outcome, keep, machine_text, revision

CASES = {
    "F1": "kill -9 of the driver",
    "F2": "kill -9 of workers",
    "F3": "killed inside a checkpoint's commit",
    "F4": "damaged newest checkpoint",
    "F5": "disk full",
    "F6": "results folder turns read-only",
    "F7": "loss not finite, or a spike",
    "F8": "the same sweep started eight times at once",
    "F9": "a paused worker wakes up late",
    "F10": "clocks and file times that jump",
    "F11": "SIGTERM with 3 s of grace",
    "F12": "Ctrl-C once and twice",
    "F13": "Ray head killed",
    "F14": "a Ray node removed",
    "F15": "more GPUs than any node has",
    "F16": "MLflow down or hanging",
    "F17": "mirrors racing on a fresh database",
    "F18": "MLflow after a resume",
    "F19": "a trunk dies before its branches",
    "F20": "settings or data change between runs",
    "F21": "identity of budgets and configurations",
    "F22": "data shard missing, truncated or changed",
    "F23": "out of memory",
    "F24": "a hang",
    "F25": "a cell, or every cell, always raises",
    "F26": "a torn curve",
    "F27": "2,000 cells, 256 file descriptors",
    "F28": "too few cells for a fit",
}

PROMISES = {
    "F1": "The same command goes on from the last checkpoints, and no process is left running.",
    "F2": "A new attempt replaces a killed worker and goes on from its last checkpoint.",
    "F3": "A checkpoint is whole or absent, wherever its commit was cut off.",
    "F4": "A damaged checkpoint is named and set aside; training goes on from the one before it.",
    "F5": "The message says how much space is missing; what was kept is whole, and the same command goes on.",
    "F6": "The command says so and ends; it writes nothing elsewhere.",
    "F7": "A divergence is recorded with its step and the last good checkpoint; a spike is flagged.",
    "F8": "Every segment is computed once.",
    "F9": "A worker that wakes up late changes nothing that was published.",
    "F10": "No decision about a segment reads a clock.",
    "F11": "Every running segment keeps a checkpoint at its next step, and no step is taken twice.",
    "F12": "The first Ctrl-C keeps every step; the second ends at once and costs at most one checkpoint interval.",
    "F13": "The command ends with exit code 6, no cell counts as failed, and the same command finishes.",
    "F14": "Segments of a lost node move to another one; the others are left alone.",
    "F15": "The plan is refused with exit code 4 and what the cluster has; nothing waits for ever.",
    "F16": "An outage of the tracking server costs no training, and `mlflow sync` makes it good.",
    "F17": "The database is whole, whoever made it.",
    "F18": "Every step stands once in MLflow.",
    "F19": "Cells that need the trunk wait for it; the others finish. Shared steps are taken and counted once.",
    "F20": "Changed settings or data are other work: they are trained anew, and nothing published is changed.",
    "F21": "Two configurations never share a name, and one never has two.",
    "F22": "Damaged data are named, and nothing that was trained on them is kept.",
    "F23": "Half the micro-batch is tried once, with the same losses; after that the failure names the peak.",
    "F24": "A worker that takes no step is ended with its stacks on file, and replaced once.",
    "F25": "One broken cell does not stop the others; a defect that all share stops the sweep after two.",
    "F26": "A damaged curve is reported, and the published one is whole.",
    "F27": "Planning and status stay within seconds and within few files and little memory.",
    "F28": "The fit refuses, with reasons, and prints no number.",
}
"""By case, what is promised then."""

INVARIANTS = {
    "I1": "every cell is in one state, derived from files",
    "I2": "what is published is never lost or changed",
    "I3": "a late attempt changes nothing published",
    "I4": "disturbed and undisturbed weights and losses are equal bit for bit",
    "I5": "a fault costs at most one checkpoint interval",
    "I6": "no torn file is read as valid",
    "I7": "MLflow equals the store after a sync",
    "I8": "no process is left 10 s after the exit",
    "I9": "a fit uses finished cells only and says what it left out",
}


ELSEWHERE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "test_mirrors_that_race_on_a_fresh_database_leave_it_whole": (("F17",), ("I7",)),
    "test_a_mirror_killed_while_it_makes_the_database_does_no_harm": (("F17",), ()),
    "test_an_outage_costs_a_sweep_one_line": (("F16",), ()),
    "test_a_mirror_that_hangs_is_ended": (("F16",), ("I8",)),
    "test_a_mirror_of_a_killed_driver_ends_in_time_whatever_it_is_at": (("F1", "F16"), ("I8",)),
    "test_a_server_that_cannot_be_reached_is_said_within_seconds_and_harms_nothing": (("F16",), ()),
    "test_outages_at_the_start_in_the_middle_and_at_the_end_are_made_good_by_a_sync": (("F16",), ("I7",)),
    "test_a_server_that_fails_at_the_end_is_not_waited_for_long": (("F16",), ()),
    "test_a_mirror_whose_server_fails_takes_under_two_percent_of_a_core": (("F16",), ()),
    "test_a_sweep_beside_a_failing_server_trains_every_cell_and_a_sync_makes_it_good": (("F16",), ("I4", "I7")),
    "test_after_a_killed_driver_and_a_resume_each_step_stands_once_in_mlflow": (("F18",), ("I7",)),
    "test_a_wiped_database_is_rebuilt": (("F16",), ("I7",)),
    "test_syncing_twice_adds_nothing": (("F18",), ("I7",)),
    "test_a_growing_sweep_shows_each_step_once": (("F18",), ("I7",)),
    "test_a_run_that_contradicts_the_store_is_replaced": (("F18",), ("I7",)),
    "test_the_cells_status_is_the_stores": ((), ("I1", "I7")),
    "test_a_damaged_checkpoint_of_a_trunk_is_named_and_the_cells_that_do_not_need_it_stay": (("F19",), ("I1", "I4")),
    "test_each_shared_segment_is_counted_once": (("F19",), ()),
    "test_what_branches_from_a_pruned_state_takes_its_trunk_again_and_ends_with_the_same_bits": (("F19",), ("I4",)),
    "test_gc_keeps_every_state_that_unfinished_work_starts_from": (("F19",), ()),
    "test_cells_of_other_settings_are_trained_anew_and_never_share_a_table": (("F20",), ("I2",)),
    "test_other_data_or_another_seed_is_other_work": (("F20",), ()),
    "test_any_added_budgets_change_no_existing_id": (("F21",), ()),
    "test_budgets_that_agree_as_floats_stay_apart": (("F21",), ()),
    "test_budgets_are_exact_integers": (("F21",), ()),
    "test_equal_budgets_are_merged_and_sorted": (("F21",), ()),
    "test_every_configuration_survives_json_exactly": (("F21",), ()),
    "test_two_thousand_cells_are_planned_in_three_seconds": (("F27",), ()),
    "test_five_of_twelve_cells_support_no_number": (("F28",), ("I9",)),
    "test_one_sided_budgets_are_refused_and_the_others_are_not": (("F28",), ("I9",)),
    "test_one_outlier_costs_its_budget_alone": (("F28",), ("I9",)),
    "test_unfinished_and_unusable_cells_are_left_out_with_their_reason": ((), ("I9",)),
    "test_the_first_publication_wins_and_a_late_one_changes_nothing": (("F9",), ("I2", "I3")),
    "test_a_run_that_diverges_is_a_result_that_blocks_its_descendants_and_exits_3": (("F7",), ("I1",)),
    "test_two_drivers_at_once_compute_each_segment_once": (("F8",), ("I3",)),
}
"""Tests that check a case and are at home with the part they test: (cases, invariants)."""


LONGEST_SECONDS = 900
"""Of a test of the programme that does not say: a fault that takes seconds alone takes minutes on a busy machine."""


def mark_reports(items: list[pytest.Item]) -> None:
    """Give every test of the programme its cases and invariants, for its report, and time enough."""
    for item in items:
        cases, invariants = ELSEWHERE.get(item.name.partition("[")[0], ((), ()))
        if cases or invariants:
            item.add_marker(pytest.mark.faults(*cases, invariants=invariants))
        if item.get_closest_marker("faults") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONGEST_SECONDS))
        for marker in item.iter_markers("faults"):
            item.user_properties.append(("cases", marker.args))
            item.user_properties.append(("invariants", marker.kwargs.get("invariants", ())))


def write_summary(reporter: pytest.TerminalReporter) -> None:
    """Print the programme's lines under the tests of one run."""
    reports = [
        (outcome, report)
        for outcome in ("passed", "failed", "error", "skipped")
        for report in reporter.stats.get(outcome, [])
        if isinstance(report, pytest.TestReport) and (outcome != "passed" or report.when == "call")
    ]
    if reports:
        _keep_outcomes(reports)
    reporter.section("faults")
    for case, title in CASES.items():
        reporter.write_line(f"{case:4} {title}: {_line(case, 'cases', reports)}")
    for name, meaning in INVARIANTS.items():
        reporter.write_line(f"{name:4} {meaning}: {_line(name, 'invariants', reports)}")


def _line(name: str, kind: str, reports: list[tuple[str, pytest.TestReport]], *, with_figures: bool = True) -> str:
    """Such as "ok (3 tests); left after 0.4 s", "FAILED: test_x" or "no test ran"."""
    found = [
        (outcome, each) for outcome, each in reports if any(name in v for k, v in each.user_properties if k == kind)
    ]
    broken = [each.nodeid.rpartition("::")[2] for outcome, each in found if outcome in ("failed", "error")]
    if broken:
        return f"FAILED: {', '.join(broken)}"
    passed = [each for outcome, each in found if outcome == "passed"]
    if not passed:
        return "skipped" if found else "no test ran"
    count = f"ok ({len(passed)} test{'s' if len(passed) > 1 else ''})"
    said = [str(value) for each in passed for key, value in each.user_properties if key == f"figure {name}"]
    return "; ".join([count, *said])


def _keep_outcomes(reports: list[tuple[str, pytest.TestReport]]) -> None:
    """What was skipped was not run: its last outcome stays."""
    machine, commit = machine_text(), revision()
    keep(
        Outcome(
            case=case,
            test=report.nodeid,
            passed=outcome == "passed",
            figure="; ".join(str(value) for key, value in report.user_properties if key == f"figure {case}"),
            machine=machine,
            commit=commit,
        )
        for outcome, report in reports
        if outcome != "skipped"
        for key, cases in report.user_properties
        if key == "cases" and isinstance(cases, (tuple, list))
        for case in cases
    )
