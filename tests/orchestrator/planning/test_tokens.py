"""Sweeps by tokens, the cosine schedule, and budgets of models whose capacities warm up."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mor_core.flops import CONVENTIONS, nearest_steps, training_cost, training_flops_per_token, warmup_surplus
from orchestrator.planning.costs.estimate import estimate
from orchestrator.planning.costs.machine import Throughput
from orchestrator.planning.plan import COSINE_NOTE, flops_by_segment, plan
from orchestrator.planning.spec.sweep_file import SpecError
from tests.helpers.plan_samples import models

NAMED = {"sizes": {"names": ["51k", "115k"]}}
BY_TOKENS = NAMED | {"tokens": ["1e6"], "budgets": None, "schedule": {}}
COSINE = {"schedule": {"kind": "cosine"}}
FAST = Throughput(device="cpu", flops_per_second=1e9, workers=2, basis="a planted speed")


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(30_000, 10**9))
def test_every_cell_trains_the_same_tokens_to_the_nearest_step(small_sweep, tokens):
    planned = plan(small_sweep(BY_TOKENS | {"tokens": [tokens]}), None)
    assert len({cell.tokens for cell in planned.cells}) == 1
    for cell in planned.cells:
        assert abs(cell.tokens - tokens) <= cell.tokens_per_step / 2
        assert cell.budget == cell.flops[cell.budget_convention]
        assert cell.train.warmup_steps == round(Fraction(5, 100) * cell.steps)


def test_the_budget_of_a_cell_is_what_its_tokens_cost_in_the_sweeps_convention(small_sweep):
    for convention in ("exact", "paper"):
        for cell in plan(small_sweep(BY_TOKENS | {"budget_convention": convention}), None).cells:
            assert cell.budget == round(cell.tokens * training_flops_per_token(cell.model, convention))


def test_numbers_of_tokens_that_are_equally_many_steps_train_once(small_sweep, snapshot):
    planned = plan(small_sweep(BY_TOKENS | {"tokens": ["1e6", "1000001"]}), snapshot)
    assert len(planned.cells) == len({cell.cell_id for cell in planned.cells}) == 4
    assert {cell.reason for cell in planned.dropped} == {
        "1.000001e6 tokens are as many whole steps as a smaller number: leave one out"
    }


def test_a_number_of_warmup_steps_lets_numbers_of_tokens_share_a_trunk(small_sweep, snapshot):
    changes = BY_TOKENS | {"tokens": ["1e6", "2e6"], "schedule": {"warmup_steps": 40}, "seeds": [0]}
    shared = plan(small_sweep(changes), snapshot)
    assert {cell.train.warmup_steps for cell in shared.cells} == {40}
    assert len({cell.trunk_id for cell in shared.cells}) == len(shared.cells) / 2
    apart = plan(small_sweep(changes | {"schedule": {}}), snapshot)
    assert len({cell.trunk_id for cell in apart.cells}) == len(apart.cells)


def test_a_cosine_cell_is_one_stretch_of_training_and_its_evaluation(small_sweep, snapshot):
    planned = plan(small_sweep(BY_TOKENS | COSINE), snapshot)
    segments = {segment.id: segment for segment in planned.segments}
    assert len(segments) == 2 * len(planned.cells)
    for cell in planned.cells:
        evaluation = segments[str(cell.evaluate_segment)]
        (weights,) = (segments[need] for need in evaluation.needs)
        assert (evaluation.kind, weights.kind, weights.needs) == ("evaluate", "stable", ())
        assert weights.stop_step == evaluation.stop_step == cell.steps == cell.decay_start
        assert weights.decay_start is evaluation.decay_start is None
        assert (weights.trunk.train.cosine_steps, cell.decay_steps) == (cell.steps, 0)


def test_cosines_of_several_budgets_are_runs_of_their_own_and_the_plan_says_so(small_sweep, snapshot):
    planned = plan(small_sweep(NAMED | COSINE), snapshot)
    assert len({cell.trunk_id for cell in planned.cells}) == len(planned.cells) == 12
    assert planned.trunks == "per-budget"
    assert COSINE_NOTE in planned.notes
    for cell in planned.cells:
        assert cell.train.warmup_steps == round(Fraction(5, 100) * cell.steps)
    assert plan(small_sweep(NAMED), snapshot).notes == ()


def test_a_longer_cosine_is_other_work_and_adding_one_changes_no_id(small_sweep, snapshot):
    def ids(tokens):
        planned = plan(small_sweep(BY_TOKENS | COSINE | {"tokens": tokens}), snapshot)
        return {segment.id for segment in planned.segments} | {cell.cell_id for cell in planned.cells}

    assert ids(["1e6"]) < ids(["1e6", "2e6"])
    assert ids(["1e6"]).isdisjoint(ids(["2e6"]))


def test_the_floor_of_a_cosine_reaches_the_schedule(small_sweep):
    changes = BY_TOKENS | {"schedule": {"kind": "cosine", "cosine_floor": 0.1, "warmup_steps": 7}}
    train = plan(small_sweep(changes), None).cells[0].train
    assert (train.cosine_floor, train.warmup_steps) == (0.1, 7)


def test_a_warmup_that_leaves_a_cosine_nothing_drops_the_cell_in_words(small_sweep):
    changes = BY_TOKENS | {"tokens": ["1e5", "1e6"], "schedule": {"kind": "cosine", "warmup_steps": 49}}
    planned = plan(small_sweep(changes), None)
    assert {cell.steps for cell in planned.cells} == {488}
    assert "the warm-up of 49 steps would leave none of 49 for the cosine" in planned.dropped[0].reason


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(["trapezoid", "cosine"]), warmup=st.sampled_from([0, 13, 5000]))
def test_the_flops_of_segments_add_up_whatever_the_schedule_and_capacity_warmup(small_sweep, snapshot, kind, warmup):
    schedule = {"kind": kind} if kind == "cosine" else {"warmup_budget": "1.5e11"}
    planned = plan(small_sweep(NAMED | {"schedule": schedule, "routing.capacity_warmup_steps": warmup}), snapshot)
    cost = estimate(planned, FAST, num_evaluation_sequences=256)
    assert sum(flops_by_segment(planned.segments).values()) == cost.flops
    assert cost.num_segments == len(planned.segments)
    assert (cost.flops == cost.flops_separate == cost.flops_shared) == (kind == "cosine")


@settings(max_examples=60, deadline=None)
@given(model=models(), batch=st.integers(1, 9), steps=st.integers(0, 150), convention=st.sampled_from(CONVENTIONS))
def test_the_steps_nearest_to_a_budget_are_found_on_both_sides_of_capacity_warmup(model, batch, steps, convention):
    costs = [training_cost(model, batch, each, convention) for each in range(steps, steps + 3)]
    assert costs == sorted(set(costs))
    a_third_below, exact, a_third_above = (round(costs[1] + (costs[i] - costs[1]) / 3) for i in (0, 1, 2))
    for budget in (a_third_below, exact, a_third_above):
        assert nearest_steps(model, batch, budget, convention) == steps + 1


def test_capacity_warmup_makes_a_budget_buy_fewer_steps_by_its_surplus(small_sweep):
    plain, warmed = (
        plan(small_sweep(NAMED | {"routing.capacity_warmup_steps": steps}), None).cells for steps in (0, 100)
    )
    for before, after in zip(plain, warmed, strict=True):
        if after.architecture == "vanilla":
            assert after == before
            continue
        per_step = training_flops_per_token(after.model, "exact") * after.tokens_per_step
        surplus = after.train.batch_size * warmup_surplus(after.model, after.steps, "exact")
        assert after.steps == round((after.budget - surplus) / per_step) < before.steps
        assert abs(after.flops["exact"] - after.budget) <= per_step / 2
        assert after.flops["6nd"] == 6 * after.unique_params * after.tokens


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tokens": ["1e6"]}, "give either budgets = [...] or tokens = [...], not both"),
        ({"budgets": None}, "give either budgets = [...] or tokens = [...], not both"),
        ({"budgets": None, "tokens": ["1e6"], "schedule": {}}, "sizes.auto chooses sizes by budget"),
        (BY_TOKENS | {"tokens": [1e6]}, "tokens: 1000000.0: expected a positive whole number of tokens in quotes"),
        (BY_TOKENS | {"schedule": {"warmup_budget": "1e9"}}, "schedule.warmup_budget goes with budgets"),
        (NAMED | {"schedule": {}}, "schedule.warmup_budget is missing"),
        (COSINE | {"schedule.cooldown_fraction": 0.2}, "a cosine has no cooldown: leave out cooldown_fraction"),
        ({"schedule.cosine_floor": 0.2}, "a trapezoid ends at 0: leave out cosine_floor"),
        ({"schedule.warmup_steps": 3}, "give warmup_steps or warmup_budget, not both"),
        ({"schedule.kind": "linear"}, "found \"linear\", expected 'trapezoid' or 'cosine'"),
    ],
)
def test_goals_and_schedules_that_contradict_each_other_are_one_sentence(small_sweep, changes, sentence):
    with pytest.raises(SpecError) as refused:
        small_sweep(changes)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
