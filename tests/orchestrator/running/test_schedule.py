"""Which segment starts next, and which never do."""

from dataclasses import replace

import pytest

from orchestrator.planning.identity import Segment
from orchestrator.planning.plan import Plan, plan
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.running.outcomes import Outcome, Status
from orchestrator.running.schedule import Schedule, chain_flops
from tests.helpers.made_up_data import MADE_UP_DATA
from tests.helpers.paths import TOY_PRESET


@pytest.fixture
def toy_plan() -> Plan:
    return plan(load_spec(str(TOY_PRESET)), replace(MADE_UP_DATA, vocab_size=300))


def outcome(segment: Segment, status: Status = "finished") -> Outcome:
    return Outcome(segment_id=segment.id, status=status, reason="" if status == "finished" else "made up")


def settled_in_order(schedule: Schedule, workers: int) -> list[Segment]:
    """The order in which so many workers start the segments; the one that was started first ends first."""
    order: list[Segment] = []
    running: list[Segment] = []
    while not schedule.is_done:
        while len(running) < workers and (segment := schedule.take()):
            running.append(segment)
            order.append(segment)
        assert schedule.settle(outcome(running.pop(0))) == []
    return order


@pytest.mark.parametrize("workers", [1, 3, 100])
def test_every_segment_is_handed_out_once_and_after_what_it_needs(toy_plan: Plan, workers: int):
    order = [segment.id for segment in settled_in_order(Schedule(toy_plan.segments, {}), workers)]
    assert sorted(order) == sorted(segment.id for segment in toy_plan.segments)
    for segment in toy_plan.segments:
        assert all(order.index(need) < order.index(segment.id) for need in segment.needs)


def test_of_what_is_ready_the_segment_that_most_work_waits_for_comes_first(toy_plan: Plan):
    chains = chain_flops(toy_plan.segments)
    schedule = Schedule(toy_plan.segments, {})
    taken = []
    while segment := schedule.take():
        taken.append(chains[segment.id])
    assert taken == sorted(taken, reverse=True)
    assert len(taken) == 4, "the first stretch of each trunk"


def test_an_evaluation_goes_before_training_so_that_cells_are_finished_one_by_one(toy_plan: Plan):
    order = settled_in_order(Schedule(toy_plan.segments, {}), 1)
    for place, segment in enumerate(order[:-1]):
        if segment.kind == "decay":
            assert order[place + 1].kind == "evaluate"
            assert order[place + 1].needs == (segment.id,)


def test_a_chain_is_as_long_as_the_trunk_and_the_cooldown_of_its_largest_budget(toy_plan: Plan):
    chains = chain_flops(toy_plan.segments)
    roots = [segment for segment in toy_plan.segments if not segment.needs]
    longest = {cell.trunk_id: cell.flops["exact"] for cell in toy_plan.cells if cell.budget == 2_400_000_000}
    assert sorted(chains[root.id] for root in roots) == pytest.approx(sorted(longest.values()), abs=4)


def test_what_needs_a_segment_that_failed_is_blocked_however_far_down_and_the_rest_runs(toy_plan: Plan):
    schedule = Schedule(toy_plan.segments, {})
    failed = schedule.take()
    assert failed
    blocked = schedule.settle(outcome(failed, "failed"))
    trunk = [segment for segment in toy_plan.segments if segment.trunk == failed.trunk]
    assert {each.segment_id for each in blocked} == {segment.id for segment in trunk} - {failed.id}
    assert {each.status for each in blocked} == {"blocked"}
    assert {each.reason for each in blocked} == {"parent failed: made up"}
    assert len(settled_in_order(schedule, 2)) == len(toy_plan.segments) - len(trunk)


def test_what_needs_a_segment_that_was_interrupted_is_interrupted_too_and_not_blocked(toy_plan: Plan):
    schedule = Schedule(toy_plan.segments, {})
    stopped = schedule.take()
    assert stopped
    assert {each.status for each in schedule.settle(outcome(stopped, "interrupted"))} == {"interrupted"}


def test_what_is_published_is_not_run_and_what_diverged_then_still_blocks(toy_plan: Plan):
    first, *others = toy_plan.segments
    finished = Schedule(others, {first.id: outcome(first)})
    assert finished.blocked_at_first == []
    assert len(settled_in_order(finished, 2)) == len(others)
    diverged = Schedule(others, {first.id: outcome(first, "diverged")})
    assert diverged.blocked_at_first
    assert {each.reason for each in diverged.blocked_at_first} == {"parent diverged: made up"}


def test_a_chain_of_many_thousand_segments_is_no_deeper_than_one(toy_plan: Plan):
    root = toy_plan.segments[0]
    chain = [Segment(id="0", kind="stable", trunk=root.trunk, stop_step=1)]
    for place in range(1, 5000):
        chain.append(
            Segment(id=str(place), kind="stable", trunk=root.trunk, stop_step=place + 1, needs=(str(place - 1),))
        )
    schedule = Schedule(chain, {})
    taken = schedule.take()
    assert taken == chain[0]
    assert len(schedule.settle(outcome(chain[0], "failed"))) == 4999


def test_what_is_put_back_waits_in_its_place(toy_plan: Plan):
    untouched, schedule = Schedule(toy_plan.segments, {}), Schedule(toy_plan.segments, {})
    taken = schedule.take()
    assert taken is not None
    schedule.put_back(taken)
    assert settled_in_order(schedule, 3) == settled_in_order(untouched, 3)
