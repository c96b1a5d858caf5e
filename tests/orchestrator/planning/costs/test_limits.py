"""What one command may start: whole cells within the limits."""

import pytest

from orchestrator.planning.costs.estimate import estimate, unit_seconds
from orchestrator.planning.costs.limits import Limits, allowance_of
from orchestrator.planning.costs.machine import Throughput
from orchestrator.planning.costs.speeds import Basis, Rate
from orchestrator.planning.costs.work import shape_of, work_of
from orchestrator.planning.plan import PlanError, plan

SPEED = Throughput(device="cpu", flops_per_second=1e9, workers=2, basis="a planted speed")


def allowed(planned, *, finished=(), **limits):
    rates = {shape_of(cell): Rate(flops_per_second=1e9, basis=Basis.assumed) for cell in planned.cells}
    units = work_of(planned, 16)
    cost = estimate(planned, SPEED, rates, num_evaluation_sequences=16, finished=finished)
    seconds = unit_seconds(units, rates, finished)
    return (
        allowance_of(planned, units, cost, seconds, Limits(**limits), finished=finished),
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
