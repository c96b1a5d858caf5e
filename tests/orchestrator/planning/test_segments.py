"""Segments: what is shared, in which order, and that a grown sweep keeps every id."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.main import exit_code_of
from orchestrator.planning.plan import PlanError, plan
from orchestrator.planning.spec.sweep_file import SpecError

budget_lists = st.lists(st.integers(min_value=10**10, max_value=3 * 10**12), min_size=1, max_size=5, unique=True)


def ids(planned):
    return {segment.id for segment in planned.segments} | {cell.cell_id for cell in planned.cells}


@pytest.mark.parametrize("added", ["1e13", "7e11", "4e10"], ids=["larger", "middle", "smaller"])
def test_another_budget_changes_no_existing_id(small_sweep, snapshot, added):
    before = plan(small_sweep({"budgets": ["1.5e11", "1.5e12"]}), snapshot)
    after = plan(small_sweep({"budgets": ["1.5e11", "1.5e12", added]}), snapshot)
    assert ids(before) < ids(after)


@settings(max_examples=25, deadline=None)
@given(first=budget_lists, second=budget_lists)
def test_any_added_budgets_change_no_existing_id(small_sweep, snapshot, first, second):
    before = plan(small_sweep({"budgets": first}), snapshot)
    after = plan(small_sweep({"budgets": first + second}), snapshot)
    assert ids(before) <= ids(after)


@settings(max_examples=25, deadline=None)
@given(budgets=budget_lists)
def test_every_segment_stands_once_and_after_what_it_needs(small_sweep, snapshot, budgets):
    planned = plan(small_sweep({"budgets": budgets}), snapshot)
    seen = set()
    for segment in planned.segments:
        assert segment.id not in seen
        assert set(segment.needs) <= seen
        seen.add(segment.id)
    assert {cell.evaluate_segment for cell in planned.cells} <= seen


def test_budgets_of_one_size_branch_from_one_trunk(small_sweep, snapshot):
    planned = plan(small_sweep({"sizes": {"names": ["51k"]}, "arms.architectures": ["vanilla"]}), snapshot)
    by_kind = {kind: [s for s in planned.segments if s.kind == kind] for kind in ("stable", "decay", "evaluate")}
    assert len({cell.trunk_id for cell in planned.cells}) == 1
    stables = by_kind["stable"]
    assert [segment.stop_step for segment in stables] == sorted(cell.decay_start for cell in planned.cells)
    assert [segment.needs for segment in stables] == [(), (stables[0].id,), (stables[1].id,)]
    assert {segment.needs for segment in by_kind["decay"]} == {(segment.id,) for segment in stables}
    assert len(by_kind["evaluate"]) == 3


def test_longer_trunks_come_first(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    longest = {}
    for cell in planned.cells:
        longest[cell.trunk_key] = max(longest.get(cell.trunk_key, 0), cell.flops["exact"])
    order = list(dict.fromkeys((s.trunk.model, s.trunk.train, s.trunk.seed) for s in planned.segments))
    assert [longest[key] for key in order] == sorted(longest.values(), reverse=True)


def test_per_budget_trunks_share_no_training(small_sweep, snapshot):
    changes = {"sizes": {"names": ["51k"]}, "arms.architectures": ["vanilla"]}
    planned = plan(small_sweep(changes | {"trunks": "per-budget"}), snapshot)
    assert len({cell.trunk_id for cell in planned.cells}) == len(planned.cells)
    assert all(segment.needs == () for segment in planned.segments if segment.kind == "stable")
    for cell in planned.cells:
        assert cell.train.warmup_steps == pytest.approx(0.05 * cell.steps, abs=0.5)


def test_per_budget_rates_follow_the_budget_and_shared_ones_may_not(small_sweep, snapshot):
    law = {
        "base": 0.01,
        "reference_params": 51096,
        "reference_budget": "5e11",
        "budget_exponent": -0.5,
        "source": "a planted law",
    }
    changes = {"sizes": {"names": ["51k"]}, "arms.architectures": ["vanilla"], "train.learning_rate": {"default": law}}
    planned = plan(small_sweep(changes | {"trunks": "per-budget", "budgets": ["1.25e11", "5e11", "2e12"]}), snapshot)
    assert [cell.train.peak_learning_rate for cell in planned.cells] == [0.02, 0.01, 0.005]
    with pytest.raises(SpecError, match="per-budget"):
        small_sweep(changes)


def test_other_data_or_another_seed_is_other_work(small_sweep, snapshot):
    base = ids(plan(small_sweep(), snapshot))
    assert base.isdisjoint(ids(plan(small_sweep(), replace(snapshot, fingerprint="c" * 64))))
    assert base.isdisjoint(ids(plan(small_sweep(), replace(snapshot, tokenizer_fingerprint="c" * 64))))
    assert base.isdisjoint(ids(plan(small_sweep({"seeds": [1]}), snapshot)))
    assert base < ids(plan(small_sweep({"seeds": [1, 0]}), snapshot))


def test_names_and_execution_are_no_part_of_identity(small_sweep, snapshot):
    renamed = small_sweep({"name": "other", "execution": {"checkpoint_every_steps": 7, "micro_batch": 4}})
    assert ids(plan(renamed, snapshot)) == ids(plan(small_sweep(), snapshot))


def test_budgets_of_equal_steps_are_two_rows_of_one_evaluation(small_sweep, snapshot):
    changes = {"sizes": {"names": ["51k"]}, "arms.architectures": ["vanilla"]}
    planned = plan(small_sweep(changes | {"budgets": ["5e11", "500000000001"]}), snapshot)
    first, second = planned.cells
    assert first.evaluate_segment == second.evaluate_segment
    assert first.cell_id != second.cell_id
    assert len(planned.segments) == 3


def test_without_data_steps_and_flops_are_the_same_and_ids_are_open(small_sweep, snapshot):
    bare, full = plan(small_sweep(), None), plan(small_sweep(), snapshot)
    assert [(c.steps, c.flops) for c in bare.cells] == [(c.steps, c.flops) for c in full.cells]
    assert bare.segments == ()
    assert {cell.cell_id for cell in bare.cells} == {cell.epochs for cell in bare.cells} == {None}


def test_data_that_cannot_serve_the_models_is_refused_before_training(small_sweep, snapshot):
    with pytest.raises(SpecError, match=r"vocab_size 512 is smaller than the 1024"):
        plan(small_sweep(), replace(snapshot, vocab_size=1024))
    with pytest.raises(SpecError, match=r"num_sequences 256 needs more than 32768"):
        plan(small_sweep(), replace(snapshot, valid_tokens=32768))


def test_a_sweep_without_a_single_cell_is_refused_with_a_reason(small_sweep):
    with pytest.raises(PlanError, match=r"vanilla 5.5k at 1e8: 0 steps of 2,048 tokens fit, 10 are needed") as refused:
        plan(small_sweep({"budgets": ["1e8"]}), None)
    assert exit_code_of(refused.value) == 4


def test_two_thousand_cells_are_planned_in_three_seconds(small_sweep, snapshot):
    spec = small_sweep({"seeds": list(range(56))})
    started = time.perf_counter()
    assert len(plan(spec, snapshot).cells) >= 2000
    assert time.perf_counter() - started < 3


def test_a_vanilla_model_is_the_same_work_whatever_the_other_arms_share(small_sweep, snapshot):
    ids = [
        {cell.cell_id for cell in plan(small_sweep({"arms.sharing": sharing}), snapshot).cells if cell.arm == "vanilla"}
        for sharing in ("cycle", "middle-cycle")
    ]
    assert ids[0] == ids[1]
