"""The plan as tables and as JSON."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from mor_core.units import amount_text, bytes_text, count_text, duration_text, short_power
from orchestrator.cli.tables.costs import evaluation_notes, total_lines
from orchestrator.cli.tables.plan import cells_table, gap_table, plan_json
from orchestrator.planning.costs.estimate import estimate
from orchestrator.planning.costs.machine import Throughput
from orchestrator.planning.plan import plan

SPEED = Throughput(device="cpu", flops_per_second=1e9, workers=2, basis="a planted speed")


def cost(planned):
    return estimate(planned, SPEED, num_evaluation_sequences=256)


def drawn(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_json_of_a_resolved_plan_names_every_segment_and_its_trunk(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    document = json.loads(json.dumps(plan_json(planned, cost(planned))))
    segments = {segment["id"]: segment for segment in document["segments"]}
    assert len(segments) == len(planned.segments)
    for cell in document["cells"]:
        evaluation = segments[cell["evaluate_segment"]]
        assert (evaluation["kind"], evaluation["trunk_id"]) == ("evaluate", cell["trunk_id"])
        (decay,) = evaluation["needs"]
        assert (segments[decay]["decay_start"], segments[decay]["stop_step"]) == (cell["decay_start"], cell["steps"])
    assert sum(segment["flops"] for segment in segments.values()) == document["estimate"]["flops"]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_number_is_cut_at_common_widths(small_sweep, snapshot, width):
    arms = {"arms.architectures": ["vanilla", "recursive", "mor"]}
    planned = plan(small_sweep(arms | {"seeds": [0, 1]}), replace(snapshot, train_tokens=200_000))
    text = drawn(cells_table(planned), width)
    assert "…" not in text
    for cell in planned.cells:
        assert f"{cell.steps:,}" in text


def test_what_all_cells_share_is_no_column(small_sweep, snapshot):
    one = drawn(cells_table(plan(small_sweep(), snapshot)), 120)
    two = drawn(cells_table(plan(small_sweep({"seeds": [0, 1]}), snapshot)), 120)
    assert "seed" not in one
    assert "seed" in two


def test_the_gap_at_equal_paper_budget_is_the_ratio_of_exact_flops(small_sweep):
    planned = plan(small_sweep({"budget_convention": "paper", "sizes": {"names": ["51k"]}}), None)
    vanilla, mor = (next(c for c in planned.cells if c.arm == arm) for arm in ("vanilla", "mor-2"))
    ratios = [cell.flops["exact"] / cell.flops["paper"] for cell in (vanilla, mor)]
    text = drawn(gap_table(planned), 120)
    assert f"{ratios[0]:.3f} (+0.0%)" in text
    assert f"{ratios[1]:.3f} ({ratios[1] / ratios[0] - 1:+.1%})" in text


def test_totals_show_what_they_rest_on(small_sweep):
    planned = plan(small_sweep({"trunks": "per-budget"}), None)
    lines = dict(total_lines(planned, cost(planned)))
    assert "a planted speed" in lines["time"]
    assert "per-budget runs cost +" in lines[""]


def with_evaluation(found, sequences, flops):
    """An estimate whose evaluations take planted FLOPs; its training takes 10^6."""
    return replace(found, flops=10**6, flops_evaluation=flops, num_evaluation_sequences=sequences)


def test_a_plan_says_what_share_evaluation_is_and_which_number_would_keep_it_within_a_tenth(small_sweep):
    planned = plan(small_sweep(), None)
    much = with_evaluation(cost(planned), sequences=1000, flops=125_000)
    assert dict(total_lines(planned, much))["compute"].endswith("evaluation adds 1.2e5 (12.5%)")
    (note,) = evaluation_notes(much)
    assert "adds 12.5%" in note
    assert "evaluation.num_sequences = 1000; at most 800 keep it within 10%" in note
    document = plan_json(planned, much)
    assert (document["estimate"]["evaluation_share"], document["estimate"]["most_evaluation_sequences"]) == (0.125, 800)
    assert document["notes"] == [*planned.notes, note]


def test_a_tenth_for_evaluation_is_no_note_and_a_single_sequence_that_costs_more_is_said_to(small_sweep):
    found = cost(plan(small_sweep(), None))
    assert evaluation_notes(with_evaluation(found, sequences=1000, flops=100_000)) == []
    (note,) = evaluation_notes(with_evaluation(found, sequences=4, flops=900_000))
    assert "evaluation.num_sequences = 4; not even 1 keeps it within 10%" in note


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count_text(999), "999"),
        (count_text(315_000_000), "315M"),
        (count_text(1_610_000_000), "1.61B"),
        (bytes_text(269_000_000_000), "269 GB"),
        (duration_text(90), "90 seconds"),
        (duration_text(7200), "2 hours"),
        (duration_text(3 * 86400), "3 days"),
    ],
)
def test_quantities_are_written_in_fitting_units(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (short_power(1.6e11), "1.6e11"),
        (short_power(5_070_000_000_000), "5.07e12"),
        (short_power(2e10, 4), "2e10"),
        (short_power(4.2e11, 2), "4.2e11"),
        (short_power(0), "0"),
        (short_power(512), "512"),
        (amount_text(0.1921), "0.192"),
        (amount_text(1076), "1,080"),
        (amount_text(85_400), "85,400"),
        (amount_text(18_900_000), "18.9M"),
        (duration_text(1080 * 365.25 * 86400), "1,080 years"),
    ],
)
def test_amounts_are_written_in_one_style(text, expected):
    assert text == expected
