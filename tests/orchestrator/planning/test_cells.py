"""Cells: steps from budgets, warm-up, what is dropped and flagged, and where automatic sizes lie."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mor_core.config.sizes import SMALL_LADDER
from orchestrator.planning import plan as planning
from orchestrator.planning.plan import PlanError, plan
from orchestrator.planning.spec.sweep_file import Override, SpecError
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.helpers.command_line import run

ONE_SIZE = {"sizes": {"names": ["51k"]}, "arms.architectures": ["vanilla"]}


@settings(max_examples=40, deadline=None)
@given(budget=st.integers(min_value=3 * 10**10, max_value=10**16), convention=st.sampled_from(["exact", "paper"]))
def test_planned_flops_are_the_budget_within_half_a_step(small_sweep, budget, convention):
    planned = plan(small_sweep({"budgets": [budget], "budget_convention": convention}), None)
    for cell in planned.cells:
        assert abs(cell.flops[convention] - budget) <= cell.flops[convention] / cell.steps / 2 + 1
        assert cell.tokens == cell.steps * cell.tokens_per_step
        assert 0 < cell.decay_start < cell.steps
        assert cell.decay_steps == pytest.approx(0.2 * cell.steps, abs=0.5)


def test_warmup_follows_the_warmup_budget_and_not_the_budgets(small_sweep):
    small = plan(small_sweep(ONE_SIZE | {"budgets": ["1.5e11"]}), None).cells[0]
    large = plan(small_sweep(ONE_SIZE | {"budgets": ["1.5e13"]}), None).cells[0]
    assert small.train == large.train
    assert small.train.warmup_steps == round(0.05 * small.steps)


def test_a_cooldown_inside_the_warmup_drops_the_cell_in_words(small_sweep):
    changes = ONE_SIZE | {"budgets": ["2e10", "5e11"], "schedule.warmup_budget": "3e12"}
    planned = plan(small_sweep(changes), None)
    assert [cell.budget for cell in planned.cells] == [500_000_000_000]
    (dropped,) = planned.dropped
    assert dropped.budget == 20_000_000_000
    assert "cooldown would start at step" in dropped.reason
    assert "inside the warm-up of 139 steps" in dropped.reason


def test_flags_say_why_a_cell_should_be_read_with_care(small_sweep, snapshot):
    changes = ONE_SIZE | {"budgets": ["1.5e11", "5e11", "1.5e12"], "schedule.warmup_budget": "1e12"}
    flags = [cell.flags for cell in plan(small_sweep(changes), replace(snapshot, train_tokens=700_000)).cells]
    assert flags == [("few-steps", "long-warmup"), (), ("repeated-data",)]


def test_each_recursion_count_is_an_arm(small_sweep):
    changes = {"arms.architectures": ["vanilla", "mor"], "arms.recursions": [3, 2, 3], "sizes": {"names": ["51k"]}}
    planned = plan(small_sweep(changes), None)
    assert list(dict.fromkeys(cell.arm for cell in planned.cells)) == ["vanilla", "mor-2", "mor-3"]
    assert {cell.arm: cell.model.recursion.count for cell in planned.cells} == {"vanilla": 1, "mor-2": 2, "mor-3": 3}
    assert {cell.arm for cell in planned.cells if cell.model.routing} == {"mor-2", "mor-3"}


def test_automatic_sizes_are_consecutive_and_centred_in_the_arms_own_parameters(small_sweep):
    spec = small_sweep()
    planned = plan(spec, None)
    assert planned.notes == ()
    rungs = [size.name for size in SMALL_LADDER]
    for arm, optimum in (("vanilla", 70_000), ("mor-2", 50_000)):
        for budget in spec.budgets:
            cells = [cell for cell in planned.cells if (cell.arm, cell.budget) == (arm, budget)]
            start = rungs.index(cells[0].size)
            assert [cell.size for cell in cells] == rungs[start : start + 6]
            middle = math.sqrt(cells[0].unique_params * cells[-1].unique_params)
            expected = optimum * (budget / 5e11) ** 0.5
            assert abs(math.log(middle / expected)) < math.log(1.3)


def test_neighbouring_budgets_share_trunks_under_automatic_sizes(small_sweep, snapshot):
    planned = plan(small_sweep(), snapshot)
    assert len({cell.trunk_id for cell in planned.cells}) < len(planned.cells) * 2 / 3


def test_a_window_at_the_end_of_the_ladder_is_noted(small_sweep):
    tiny = {"sizes.auto.optimum.vanilla.unique_params": 7000}
    (note,) = plan(small_sweep(tiny | {"budgets": ["5e11"], "arms.architectures": ["vanilla"]}), None).notes
    assert "vanilla at 5e11: N* is expected at 7k, near an end of the small ladder" in note


def test_the_most_specific_entry_of_a_per_arm_table_holds(small_sweep):
    law = {"reference_params": 100_000, "source": "planted"}
    rates = {"default": law | {"base": 0.01}, "mor": law | {"base": 0.02}, "mor-3": law | {"base": 0.03}}
    changes = {
        "arms.architectures": ["vanilla", "recursive", "mor"],
        "arms.recursions": [2, 3],
        "sizes": {"names": ["51k"]},
        "train.learning_rate": rates,
    }
    found = {cell.arm: cell.train.peak_learning_rate for cell in plan(small_sweep(changes), None).cells}
    assert found == {"vanilla": 0.01, "recursive-2": 0.01, "recursive-3": 0.01, "mor-2": 0.02, "mor-3": 0.03}


def test_the_rate_falls_with_unrolled_parameters_by_the_stated_exponent(small_sweep):
    cells = plan(small_sweep({"sizes": {"names": ["51k", "686k"]}, "arms.architectures": ["vanilla"]}), None).cells
    small, large = cells[0], cells[-1]
    ratio = large.train.peak_learning_rate / small.train.peak_learning_rate
    assert ratio == pytest.approx((large.unrolled_params / small.unrolled_params) ** -0.3, rel=1e-3)


def test_optimiser_settings_of_the_sweep_replace_the_recipes(small_sweep):
    train = plan(small_sweep(ONE_SIZE | {"train.weight_decay": 0.0, "train.beta2": 0.99}), None).cells[0].train
    assert (train.weight_decay, train.beta2, train.beta1) == (0.0, 0.99, 0.9)


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(small_sweep):
    with pytest.raises(SpecError, match="micro_batch 5 does not divide the batch of 16"):
        plan(small_sweep({"execution.micro_batch": 5}), None)


def test_workers_that_cannot_share_the_batch_are_refused(small_sweep):
    with pytest.raises(SpecError, match="workers_per_segment 3 does not divide the batch of 16"):
        plan(small_sweep({"execution.workers_per_segment": 3}), None)
    with pytest.raises(SpecError, match="micro_batch 3 does not divide the worker's share of 4 sequences"):
        plan(small_sweep({"execution.workers_per_segment": 4, "execution.micro_batch": 3}), None)
    assert plan(small_sweep({"execution.workers_per_segment": 4, "execution.micro_batch": 2}), None).cells


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"execution.gpus_per_segment": 2}, "gpus_per_segment"),
        ({"execution.gpus_per_segment": -0.5}, "gpus_per_segment"),
        ({"execution.workers_per_segment": 0}, "workers_per_segment"),
        (
            {"execution.workers_per_segment": 2, "execution.gpus_per_segment": 0.5},
            "workers of one segment cannot share a GPU; give 0 or 1",
        ),
    ],
    ids=["two GPUs", "less than none", "no worker", "a shared GPU"],
)
def test_resources_that_make_no_sense_are_refused(small_sweep, changes, said):
    with pytest.raises(SpecError, match=said):
        small_sweep(changes)


def test_settings_of_the_model_section_reach_the_model(small_sweep):
    changes = ONE_SIZE | {"model.rope_theta": 500.0, "model.init_std": 0.03, "model.context_length": 64}
    model = plan(small_sweep(changes), None).cells[0].model
    assert (model.rope_theta, model.init_std, model.context_length) == (500.0, 0.03, 64)


def test_the_cpu_preset_has_three_budgets_in_exact_flops_and_six_sizes_centred_on_a_sourced_optimum():
    spec = load_spec("cpu")
    planned = plan(spec, None)
    assert planned.budget_convention == "exact"
    assert len({cell.budget for cell in planned.cells}) == 3
    assert {"vanilla", "mor-2"} <= {cell.arm for cell in planned.cells}
    assert spec.model.vocab_size <= 1024
    assert spec.sizes.auto is not None
    for (arm, budget), cells in grouped(planned.cells).items():
        assert len(cells) >= 6
        law = spec.sizes.auto.optimum[arm.partition("-")[0]]
        expected = law.unique_params * (budget / law.budget) ** law.exponent
        assert law.source
        params = sorted(cell.unique_params for cell in cells)
        assert params[1] < expected < params[-2]


def grouped(cells):
    """Cells by (arm, budget)."""
    groups = {}
    for cell in cells:
        groups.setdefault((cell.arm, cell.budget), []).append(cell)
    return groups


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"budgets": [10**12 + number for number in range(10**5)]}, "1,200,000"),
        ({"seeds": [*range(10**5)]}, "3,600,000"),
        (ONE_SIZE | {"budgets": None, "tokens": [10**6 + number for number in range(10**5 + 1)]}, "100,001"),
    ],
    ids=["budgets", "seeds", "tokens"],
)
def test_a_plan_of_too_many_cells_is_refused_with_the_count_before_any_is_made(
    small_sweep, changes, count, monkeypatch
):
    monkeypatch.setattr(planning, "cells_of", lambda *_: pytest.fail("cells were made"))
    if "tokens" in changes:
        changes = changes | {"schedule.warmup_budget": None, "schedule.warmup_fraction": 0.05}
        changes |= {"schedule.warmup_steps": 10}
    with pytest.raises(PlanError, match=rf"isoflop-cpu asks for {count} cells .* a plan holds at most 100,000"):
        plan(small_sweep(changes), None)


def test_a_plan_of_as_many_cells_as_one_may_hold_is_made(small_sweep, monkeypatch):
    monkeypatch.setattr(planning, "MOST_CELLS", 36)
    assert len(plan(small_sweep(), None).cells) + len(plan(small_sweep(), None).dropped) == 36
    with pytest.raises(PlanError, match=r"asks for 72 cells \(arms 2, sizes 6, budgets 3, seeds 2\)"):
        plan(small_sweep({"seeds": [0, 1]}), None)


def test_a_dry_run_of_too_many_cells_is_one_sentence_and_exit_code_4(tmp_path):
    seeds = ",".join(map(str, range(20_000)))
    done = run("isoflop", "--preset", "cpu", "--dry-run", "--seeds", seeds, "--results", str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (4, 1), done.stderr[:1000]
    assert "a plan holds at most 100,000: ask for fewer" in done.stderr


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"arms.recursions": [10**12]},
            r"mor-1000000000000 \S+: num_layers \d+: expected a whole number from 1 to 10000",
        ),
        ({"model.context_length": 10**12}, r"context_length 1000000000000: expected a whole number from 1 to 16777216"),
        ({"model.vocab_size": 10**12}, r"vocab_size 1000000000000: expected a whole number from 1 to 16777216"),
    ],
    ids=["recursions", "context", "vocabulary"],
)
def test_a_model_beyond_all_bounds_is_refused_with_the_value_and_the_bound(small_sweep, changes, sentence):
    with pytest.raises(SpecError, match=sentence):
        plan(small_sweep(changes), None)


def test_layers_that_are_raised_far_are_told_once_an_arm():
    laid = [
        Override(flag="--recursions", path=("arms", "recursions"), value=[2, 400]),
        Override(flag="--sizes", path=("sizes",), value={"names": ["13k", "23k"]}),
        Override(flag="--budgets", path=("budgets",), value=["1e12"]),
    ]
    notes = [note for note in plan(load_spec("cpu", laid), None).notes if "raised" in note]
    assert notes == [
        "mor-400 13k: 8 layers raised to 402, so that 400 recursions divide them (and more of 1 other sizes): fewer "
        "recursions keep a size's depth"
    ]
    assert not [note for note in plan(load_spec("paper"), None).notes if "raised" in note]
