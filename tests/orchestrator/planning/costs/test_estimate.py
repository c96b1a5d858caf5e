"""Costs: exact sums, shared work counted once, and bases that are shown."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mor_core.flops import total_params, training_flops_per_token
from orchestrator.planning.costs.estimate import LIBRARY_BYTES, START_SECONDS, estimate, most_evaluation_sequences
from orchestrator.planning.costs.machine import Throughput, assumed_throughput
from orchestrator.planning.costs.speeds import Basis, Measured, Rate, basis_text, rates_of, shapes_of, step_flops
from orchestrator.planning.costs.work import evaluation_flops, shape_of, work_of
from orchestrator.planning.plan import flops_by_segment, plan
from orchestrator.store.published import RESULT_SCHEMA, SegmentResult

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
        assert sum(flops_by_segment(planned.segments).values()) == found.flops
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
    evaluation = evaluation_flops(planned.cells[0], 256)
    assert crowd.seconds - START_SECONDS == pytest.approx(
        (max(cell.flops["exact"] for cell in planned.cells) + evaluation) / 1e9
    )
    assert alone.seconds - START_SECONDS == pytest.approx((alone.flops + alone.flops_evaluation) / 1e9)


def test_finished_segments_are_not_paid_again(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    everything = {segment.id for segment in planned.segments}
    assert cost(planned, finished=everything).flops_remaining == 0
    assert cost(planned, finished=everything).seconds == 0
    first = planned.segments[0]
    remaining = cost(planned, finished={first.id}).flops_remaining
    assert cost(planned).flops - remaining == flops_by_segment(planned.segments)[first.id] > 0


def test_earlier_runs_of_a_shape_give_its_speed_and_its_memory(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    flops = flops_by_segment(planned.segments)
    stables = [segment for segment in planned.segments if segment.kind == "stable" and not segment.needs]
    results = {
        segment.id: SegmentResult(
            schema=RESULT_SCHEMA,
            segment_id=segment.id,
            status="finished",
            kind="stable",
            step=segment.stop_step,
            steps_executed=segment.stop_step,
            train_seconds=flops[segment.id] / 7e9,
            peak_memory_bytes=5,
        )
        for segment in stables
    }
    rates = rates_of(planned, "cpu", results, {})
    assert {rate.basis for rate in rates.values()} == {Basis.earlier_runs}
    assert all(rate.flops_per_second == pytest.approx(7e9) for rate in rates.values())
    assert {rate.memory_bytes for rate in rates.values()} == {5}
    numerics = ({"device": "NVIDIA H100"},)
    on_gpu = {name: replace(result, numerics=numerics) for name, result in results.items()}
    assert {rate.basis for rate in rates_of(planned, "cpu", on_gpu, {}).values()} == {Basis.assumed}
    assert {rate.basis for rate in rates_of(planned, "cuda", on_gpu, {}).values()} == {Basis.earlier_runs}


def test_shapes_between_measured_ones_are_interpolated_and_the_basis_counts_them(small_sweep):
    planned = plan(small_sweep({"arms.architectures": ["vanilla"]}), None)
    shapes = shapes_of(planned)
    ends = {shapes[0]: 1e9, shapes[-1]: 4e9}
    probes = {
        shape: Measured(
            tokens_per_second=speed / float(training_flops_per_token(shape.model, "exact")), memory_bytes=None
        )
        for shape, speed in ends.items()
    }
    rates = rates_of(planned, "cpu", {}, probes)
    between = [rates[shape].flops_per_second for shape in shapes]
    assert between == sorted(between)
    assert (between[0], between[-1]) == (pytest.approx(1e9), pytest.approx(4e9))
    said = (
        f"measured by a probe for 2, interpolated between measured shapes for {len(shapes) - 2} of {len(shapes)} shapes"
    )
    assert basis_text(rates, "cpu") == said
    halved = rates_of(planned, "cpu", {}, probes, sharing=2)
    assert all(halved[shape].flops_per_second == pytest.approx(rates[shape].flops_per_second / 2) for shape in shapes)


@settings(max_examples=20, deadline=None)
@given(
    budgets=st.lists(st.integers(min_value=5 * 10**10, max_value=10**13), min_size=1, max_size=4),
    trunks=st.sampled_from(["shared", "per-budget"]),
)
def test_the_shares_of_the_cells_add_up_to_the_plan_and_none_is_above_its_cost_alone(
    small_sweep, snapshot, budgets, trunks
):
    planned = plan(small_sweep({"budgets": budgets, "trunks": trunks}), snapshot)
    found = cost(planned)
    assert sum(cell.hours for cell in found.cells) == pytest.approx(found.hours)
    assert sum(cell.disk_bytes for cell in found.cells) == pytest.approx(found.disk_bytes, abs=len(found.cells))
    assert found.hours == pytest.approx((found.flops + found.flops_evaluation) / 1e9 / 3600)
    assert all(cell.hours <= cell.hours_alone * (1 + 1e-12) for cell in found.cells)
    if found.num_trunks == len(found.cells):
        assert all(cell.hours == pytest.approx(cell.hours_alone) for cell in found.cells)


def test_the_parts_of_the_work_are_the_segments_of_the_plan(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    units = work_of(planned, 256)
    assert {unit.segment_id for unit in units} == {segment.id for segment in planned.segments}
    assert len(units) == len(planned.segments)
    flops = flops_by_segment(planned.segments)
    assert all(unit.flops == flops[str(unit.segment_id)] for unit in units if unit.kind != "evaluate")
    bare = work_of(plan(small_sweep(), None), 256)
    assert [(unit.kind, unit.flops, unit.cells) for unit in bare] == [(u.kind, u.flops, u.cells) for u in units]


def test_a_segment_that_holds_several_devices_costs_their_hours(small_sweep):
    planned = plan(small_sweep(ONE_SIZE), None)
    assert cost(planned, replace(FAST, devices_per_segment=4)).hours == pytest.approx(4 * cost(planned).hours)
    assert cost(planned).throughput.hours_unit == "core-hours"
    assert cost(planned, replace(FAST, device="cuda")).throughput.hours_unit == "GPU-hours"


def test_memory_that_was_measured_takes_the_place_of_what_was_computed(small_sweep):
    planned = plan(small_sweep(ONE_SIZE), None)
    shape = shape_of(planned.cells[0])
    rate = Rate(flops_per_second=1e9, basis=Basis.probe, memory_bytes=123)
    found = estimate(planned, FAST, {shape: rate}, num_evaluation_sequences=256)
    assert {(cell.memory_bytes, cell.memory_is_measured) for cell in found.cells} == {(123, True)}
    assert not any(cell.memory_is_measured for cell in cost(planned).cells)


@pytest.mark.parametrize(("choice", "rules"), [("expert", 3), ("token", 1)])
def test_a_cell_with_expert_choice_is_evaluated_by_three_rules_and_any_other_by_one(small_sweep, choice, rules):
    cells = plan(small_sweep({"sizes": {"names": ["51k"]}, "routing": {"choice": choice}}), None).cells
    for cell in cells:
        forward = training_flops_per_token(cell.model, "exact") / 3 * 10 * cell.model.context_length
        passes = {"vanilla": 1, "mor": rules}[cell.architecture]
        assert evaluation_flops(cell, 10) == pytest.approx(float(passes * forward), abs=1)


@pytest.mark.parametrize(
    ("num_sequences", "flops_evaluation", "flops", "most"),
    [
        (100, 1000, 10_000, 100),
        (100, 1000, 9_999, 99),
        (100, 2000, 10_000, 50),
        (7, 7, 10**24, 10**23),
        (3, 3000, 9_999, 0),
        (1024, 1024 * 10**15 + 1, 10**19, 999),
    ],
)
def test_the_most_sequences_are_those_that_cost_a_tenth_of_training(num_sequences, flops_evaluation, flops, most):
    assert most_evaluation_sequences(num_sequences, flops_evaluation, flops) == most


def test_a_plan_at_its_most_sequences_is_within_a_tenth_and_with_one_more_above_it(small_sweep):
    planned = plan(small_sweep(), None)
    most = cost(planned).most_evaluation_sequences
    at_most, above = (estimate(planned, FAST, num_evaluation_sequences=number) for number in (most, most + 1))
    assert at_most.evaluation_share <= 0.1 < above.evaluation_share
    assert at_most.most_evaluation_sequences == above.most_evaluation_sequences == most


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


def test_a_worker_without_a_measurement_holds_its_libraries_beside_the_tensors(small_sweep):
    planned = plan(small_sweep(ONE_SIZE), None)
    here, gpu = cost(planned), cost(planned, replace(FAST, device="cuda"))
    assert LIBRARY_BYTES["cpu"] < here.memory_bytes < LIBRARY_BYTES["cpu"] + 10 * gpu.memory_bytes
    assert gpu.memory_bytes < LIBRARY_BYTES["cpu"]


def test_speeds_of_other_sweeps_stand_for_shapes_that_are_like_theirs(small_sweep):
    planned = plan(small_sweep(), None)
    shapes = shapes_of(planned)
    steps = sorted(map(step_flops, shapes))
    rates = rates_of(planned, "cpu", {}, {}, elsewhere={steps[0]: 1e9, steps[len(steps) // 2]: 1.5e9, steps[-1]: 2e9})
    assert {rate.basis for rate in rates.values()} == {Basis.other_sweeps}
    assert all(0.999e9 < rate.flops_per_second < 2.001e9 for rate in rates.values())
    assert basis_text(rates, "cpu") == f"as other sweeps on this machine: {len(rates)} shapes"
    far = rates_of(planned, "cpu", {}, {}, elsewhere={steps[-1] * 100: 1e12})
    assert {rate.basis for rate in far.values()} == {Basis.assumed}
