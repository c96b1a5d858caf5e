"""A cell's chain of segments, where each of them begins, and what its steps cost: parts that add up to the cell."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mor_core.flops import CONVENTIONS, training_cost
from orchestrator.planning.identity import chain_ids
from orchestrator.planning.plan import first_steps, flops_between, flops_by_segment, plan, segment_flops

budget_lists = st.lists(st.integers(min_value=10**10, max_value=3 * 10**12), min_size=1, max_size=5, unique=True)
schedules = st.sampled_from([{}, {"schedule": {"kind": "cosine"}}])


def planned(small_sweep, snapshot, budgets, schedule):
    return plan(small_sweep({"budgets": budgets} | schedule), snapshot)


@settings(max_examples=20, deadline=None)
@given(budgets=budget_lists, schedule=schedules)
def test_the_flops_along_a_chain_are_those_of_its_cell(small_sweep, snapshot, budgets, schedule):
    sweep = planned(small_sweep, snapshot, budgets, schedule)
    flops, first = flops_by_segment(sweep.segments), first_steps(sweep.segments)
    for cell in sweep.cells:
        chain = sweep.chain(cell)
        whole = training_cost(cell.model, cell.train.batch_size, cell.steps, "exact")
        # Each part is rounded to a whole number of FLOPs.
        assert abs(sum(flops[segment.id] for segment in chain) - whole) <= len(chain) / 2
        assert sum(segment_flops(segment, first[segment.id]) for segment in chain) == sum(
            flops[segment.id] for segment in chain
        )


@settings(max_examples=20, deadline=None)
@given(budgets=budget_lists, schedule=schedules)
def test_a_chain_goes_from_step_0_without_a_gap_to_the_evaluation_of_its_cell(small_sweep, snapshot, budgets, schedule):
    sweep = planned(small_sweep, snapshot, budgets, schedule)
    first = first_steps(sweep.segments)
    for cell in sweep.cells:
        chain = sweep.chain(cell)
        assert chain[-1].id == cell.evaluate_segment
        assert [first[segment.id] for segment in chain] == [0, *(segment.stop_step for segment in chain[:-1])]
        assert [segment.needs for segment in chain] == [(), *((segment.id,) for segment in chain[:-1])]
        stable = [segment for segment in chain if segment.kind == "stable"]
        assert stable[-1].stop_step == chain[-1].trunk_step == cell.decay_start
        assert chain[-1].stop_step == cell.steps


def test_a_plan_without_data_has_no_chains(small_sweep):
    sweep = plan(small_sweep(), None)
    assert [sweep.chain(cell) for cell in sweep.cells] == [[] for _ in sweep.cells]


def test_a_stretch_counts_from_step_0_where_the_one_before_it_is_not_listed(small_sweep, snapshot):
    sweep = plan(small_sweep({"sizes": {"names": ["51k"]}, "arms.architectures": ["vanilla"]}), snapshot)
    later = [segment for segment in sweep.segments if segment.kind == "stable"][1:]
    assert first_steps(sweep.segments)[later[0].id] > 0
    assert first_steps(later)[later[0].id] == 0
    assert first_steps(later)[later[1].id] == later[0].stop_step


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_cell_costs_what_its_steps_cost_in_every_convention(small_sweep, convention):
    for cell in plan(small_sweep(), None).cells:
        batch_size = cell.train.batch_size
        assert flops_between(cell.model, batch_size, 0, cell.steps, convention) == cell.flops[convention]
        assert flops_between(cell.model, batch_size, cell.steps, cell.steps, convention) == 0


def test_a_chain_is_walked_by_what_each_segment_needs():
    needs = {"evaluate": ("decay",), "decay": ("second",), "second": ("first",), "first": (), "other": ("first",)}
    assert chain_ids("evaluate", needs.__getitem__) == ["first", "second", "decay", "evaluate"]
    assert chain_ids("first", needs.__getitem__) == ["first"]
