"""What one command may start: whole cells within the limits, and canaries before the rest."""

import pytest

from orchestrator.planning.costs.estimate import estimate, unit_seconds
from orchestrator.planning.costs.limits import Limits, allowance_of
from orchestrator.planning.costs.machine import Throughput
from orchestrator.planning.costs.speeds import Basis, Rate
from orchestrator.planning.costs.work import shape_of, work_of
from orchestrator.planning.plan import PlanError, plan
from orchestrator.running.outcomes import Outcome
from orchestrator.running.schedule import Schedule

SPEED = Throughput(device="cpu", flops_per_second=1e9, workers=2, basis="a planted speed")


def allowed(planned, *, finished=(), canary=None, **limits):
    rates = {shape_of(cell): Rate(flops_per_second=1e9, basis=Basis.assumed) for cell in planned.cells}
    units = work_of(planned, 16)
    cost = estimate(planned, SPEED, rates, num_evaluation_sequences=16, finished=finished)
    seconds = unit_seconds(units, rates, finished)
    return (
        allowance_of(planned, units, cost, seconds, Limits(**limits), finished=finished, canary=canary),
        {unit.segment_id: time for unit, time in zip(units, seconds, strict=True)},
    )


def evaluations(planned, allowance):
    return [cell for cell in planned.cells if cell.evaluate_segment in allowance.segments]


def closure(planned, names):
    needs = {segment.id: segment.needs for segment in planned.segments}
    found, pending = set(), list(names)
    while pending:
        found.add(pending.pop())
        pending += [need for name in found for need in needs[name] if need not in found and need not in pending]
    return found


def test_without_limits_everything_that_is_not_finished_may_start(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    done = {planned.segments[0].id}
    found, _ = allowed(planned, finished=done)
    assert found.segments == {segment.id for segment in planned.segments} - done
    assert found.said == ""


@pytest.mark.parametrize("count", [1, 5])
def test_so_many_cells_are_chosen_in_the_plans_order_with_all_that_they_need(small_sweep, snapshot, count):
    planned = plan(small_sweep(), snapshot)
    found, _ = allowed(planned, max_cells=count)
    chosen = evaluations(planned, found)
    assert chosen == list(planned.cells[:count])
    assert found.segments == closure(planned, {cell.evaluate_segment for cell in chosen})
    open_cells = len(planned.cells)
    assert found.said == f"the limit of {count} cells leaves {open_cells - count} of {open_cells} open cells for later"
    later, _ = allowed(planned, finished=found.segments, max_cells=1)
    assert evaluations(planned, later) == [planned.cells[count]]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_the_cells_that_hours_allow_take_no_more_than_those_hours(small_sweep, snapshot, share):
    planned = plan(small_sweep(), snapshot)
    everything, seconds = allowed(planned)
    limit = share * sum(seconds.values()) / 3600
    found, _ = allowed(planned, max_hours=limit)
    assert 0 < len(evaluations(planned, found)) < len(planned.cells)
    assert sum(seconds[name] for name in found.segments) <= limit * 3600
    assert found.segments < everything.segments
    assert "open cells for later" in found.said


def test_hours_that_no_cell_fits_into_are_refused_with_what_the_cheapest_takes(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    with pytest.raises(PlanError, match=r"max_hours = 1e-09: less than any cell takes: .* core-hours; give more"):
        allowed(planned, max_hours=1e-9)
    finished = {segment.id for segment in planned.segments}
    nothing, _ = allowed(planned, finished=finished, max_hours=1e-9)
    assert nothing.segments == frozenset()


def test_canaries_are_the_cheapest_cells_of_two_trunks(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    found, seconds = allowed(planned, canary=True)
    first, second = found.canaries
    assert set(first).isdisjoint(second)
    alone = {
        cell.evaluate_segment: sum(seconds[name] for name in closure(planned, {cell.evaluate_segment}))
        for cell in planned.cells
    }
    assert alone[first[-1]] == min(alone.values())
    assert closure(planned, {first[-1]}) == set(first)
    assert allowed(planned, canary=False)[0].canaries == ()


def test_by_default_only_a_fresh_and_long_sweep_has_canaries(small_sweep, snapshot):
    long = plan(small_sweep({"budgets": ["1e15"]}), snapshot)
    assert allowed(long)[0].canaries
    assert not allowed(long, finished={long.cells[0].evaluate_segment})[0].canaries
    short = plan(small_sweep({"sizes": {"names": ["13k", "23k"]}, "budgets": ["1.5e11"]}), snapshot)
    assert not allowed(short)[0].canaries


def handed_out(schedule, outcomes):
    """Everything that a schedule hands out, each segment with the outcome given for it, else finished."""
    order = []
    while segment := schedule.take():
        order.append(segment.id)
        schedule.settle(outcomes.get(segment.id) or Outcome(segment_id=segment.id, status="finished"))
    return order


def test_nothing_starts_before_a_canary_has_finished(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    chains = allowed(planned, canary=True)[0].canaries
    order = handed_out(Schedule(planned.segments, {}, chains), {})
    assert tuple(order[: len(chains[0])]) == chains[0]
    assert sorted(order) == sorted(segment.id for segment in planned.segments)
    gated = Schedule(planned.segments, {}, chains)
    assert gated.take() is not None
    assert gated.take() is None, "the rest of the chain waits for it, and so does everything else"


def test_after_a_canary_that_failed_another_goes_and_then_the_rest(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    first, second = allowed(planned, canary=True)[0].canaries
    broken = {first[0]: Outcome(segment_id=first[0], status="failed", reason="error: made up")}
    order = handed_out(Schedule(planned.segments, {}, (first, second)), broken)
    assert order[0] == first[0]
    assert tuple(order[1 : 1 + len(second)]) == second
    assert len(order) > 1 + len(second)
