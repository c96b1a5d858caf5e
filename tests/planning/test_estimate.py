"""Costs: exact sums, shared work counted once, and bases that are shown."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mor_core.flops import total_params, training_flops_per_token
from orchestrator.estimate import (
    Throughput,
    assumed_throughput,
    estimate,
    evaluation_flops,
    measured_throughput,
    segment_flops,
)
from orchestrator.plan import plan

ONE_SIZE = {"sizes": {"names": ["51k"]}, "arms.architectures": ["vanilla"]}
FAST = Throughput(device="cpu", flops_per_second=1e9, workers=2, basis="a planted speed")


def cost(planned, throughput=FAST, **changes):
    return estimate(planned, throughput, num_evaluation_sequences=256, **changes)


@settings(max_examples=20, deadline=None)
@given(budgets=st.lists(st.integers(min_value=5 * 10**10, max_value=10**13), min_size=1, max_size=4))
def test_the_flops_of_the_segments_add_up_to_the_plan(small_sweep, snapshot, budgets):
    for trunks in ("shared", "per-budget"):
        planned = plan(small_sweep({"budgets": budgets, "trunks": trunks}), snapshot)
        found = cost(planned)
        assert sum(segment_flops(planned).values()) == found.flops
        assert found.num_segments == len(planned.segments)
        assert found.flops <= found.flops_separate


def test_a_shared_trunk_costs_its_longest_branch_and_each_cooldown(small_sweep):
    planned = plan(small_sweep(ONE_SIZE), None)
    cells = planned.cells
    per_step = training_flops_per_token(cells[0].model, "exact") * cells[0].tokens_per_step
    steps = max(cell.decay_start for cell in cells) + sum(cell.decay_steps for cell in cells)
    assert cost(planned).flops == per_step * steps
    assert cost(planned).flops_separate == per_step * sum(cell.steps for cell in cells)


def test_per_budget_trunks_cost_what_separate_runs_cost(small_sweep):
    shared, separate = (plan(small_sweep({"trunks": trunks}), None) for trunks in ("shared", "per-budget"))
    found = cost(separate)
    assert found.flops == found.flops_separate
    assert found.flops_shared == pytest.approx(cost(shared).flops, rel=0.01)
    assert found.flops_shared < found.flops


def test_time_is_bounded_by_the_longest_chain(small_sweep):
    planned = plan(small_sweep(ONE_SIZE), None)
    crowd = cost(planned, Throughput(device="cpu", flops_per_second=1e9, workers=1000, basis=""))
    alone = cost(planned, Throughput(device="cpu", flops_per_second=1e9, workers=1, basis=""))
    assert crowd.seconds == max(cell.flops["exact"] for cell in planned.cells) / 1e9
    assert alone.seconds == alone.flops / 1e9


def test_finished_segments_are_not_paid_again(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    everything = {segment.id for segment in planned.segments}
    assert cost(planned, finished=everything).flops_remaining == 0
    assert cost(planned, finished=everything).seconds == 0
    first = planned.segments[0]
    remaining = cost(planned, finished={first.id}).flops_remaining
    assert cost(planned).flops - remaining == segment_flops(planned)[first.id] > 0


def test_measured_throughput_recovers_a_planted_speed(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    flops = segment_flops(planned)
    stables = [segment for segment in planned.segments if segment.kind == "stable" and not segment.needs]
    results = {s.id: {"steps_executed": s.stop_step, "train_seconds": flops[s.id] / 7e9} for s in stables}
    measured = measured_throughput(planned, results, replace(FAST, workers=3))
    assert measured.flops_per_second == pytest.approx(7e9)
    assert measured.workers == 3
    assert f"{len(stables)} finished segments" in measured.basis
    assert measured_throughput(planned, {}, FAST) is FAST


@pytest.mark.parametrize(("choice", "rules"), [("expert", 3), ("token", 1)])
def test_a_cell_with_expert_choice_is_evaluated_by_three_rules_and_any_other_by_one(small_sweep, choice, rules):
    cells = plan(small_sweep({"sizes": {"names": ["51k"]}, "routing": {"choice": choice}}), None).cells
    for cell in cells:
        forward = training_flops_per_token(cell.model, "exact") / 3 * 10 * cell.model.context_length
        passes = {"vanilla": 1, "mor": rules}[cell.architecture]
        assert evaluation_flops(cell, 10) == pytest.approx(float(passes * forward), abs=1)


def test_memory_and_disk_follow_parameters_and_micro_batch(small_sweep):
    planned = plan(small_sweep(ONE_SIZE), None)
    params = total_params(planned.cells[0].model)
    found = cost(planned)
    assert found.disk_bytes == (12 + 4) * params * 3
    eighth = cost(planned, micro_batch=2)
    assert 16 * params < eighth.memory_bytes < found.memory_bytes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_assumption_calls_itself_one(device):
    assert assumed_throughput(device, 4).basis.startswith("assumed: ")
