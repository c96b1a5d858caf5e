import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.isoflop.parabola import Parabola, ParabolaRules
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.power_law import FittedPowerLaw


def numbers(study):
    """Every number of a study, in order."""
    answers = [getattr(o, name) for f in study.frontiers for o in f.optima for name in ("params", "tokens", "loss")]
    return [x for a in answers if isinstance(a, Estimate) for x in (a.value, a.low, a.high)]


@pytest.mark.parametrize(
    ("name", "tolerance", "misplaced"),
    [("symmetric", 1e-3, 0.005), ("chinchilla", 3e-3, 0.01), ("asymmetric", 0.02, 0.04)],
)
def test_the_planted_optima_are_recovered_on_centred_sizes(planted, truths, name, tolerance, misplaced):
    truth = truths[name]
    table = planted(truth, sizes=9, step=0.1)
    (frontier,) = fit_study(table).frontiers
    assert frontier.params_law.law.exponent == pytest.approx(truth.exponent, abs=tolerance)
    assert frontier.tokens_law.law.exponent == pytest.approx(1 - truth.exponent, abs=tolerance)
    assert frontier.exponent_sum.value == pytest.approx(1.0, abs=1e-3)
    for optimum in frontier.optima:
        best = truth.best_params(float(optimum.budget))
        assert optimum.params.value == pytest.approx(best, rel=misplaced)
        assert optimum.loss.value == pytest.approx(truth.loss(best, float(optimum.budget) / 6 / best), abs=2e-3)


def test_a_bowl_is_recovered_exactly_with_no_width(planted, truths):
    (frontier,) = fit_study(planted(truths["bowl"])).frontiers
    assert frontier.params_law.exponent.value == pytest.approx(0.5, abs=1e-5)
    assert frontier.params_law.exponent.high - frontier.params_law.exponent.low < 1e-4
    for optimum in frontier.optima:
        assert optimum.params.value == pytest.approx(truths["bowl"].best_params(float(optimum.budget)), rel=1e-4)
        assert optimum.loss.value == pytest.approx(truths["bowl"].best_loss(float(optimum.budget)), abs=1e-6)


def test_with_noise_and_seeds_the_truth_lies_in_the_intervals(planted, truths):
    table = planted(truths["bowl"], seeds=3, trunk_noise=0.004, cell_noise=0.004)
    (frontier,) = fit_study(table).frontiers
    assert frontier.params_law.exponent.low < 0.5 < frontier.params_law.exponent.high
    assert frontier.tokens_law.exponent.low < 0.5 < frontier.tokens_law.exponent.high


def test_five_of_twelve_cells_support_no_number(planted):
    table = planted(sizes=4, budgets=("1000000000000", "3000000000000", "10000000000000")).with_row_index("row")
    running = pl.when(pl.col("row") < 5).then(pl.lit("finished")).otherwise(pl.lit("pending"))
    study = fit_study(table.with_columns(status=running).drop("row"))
    assert study.refused
    assert len(study.exclusions) == 7
    (frontier,) = study.frontiers
    assert frontier.optima[0].params.kind is RefusalKind.NOISE_UNKNOWN
    kinds = [frontier.optima[1].params.kind, frontier.optima[2].params.kind, frontier.params_law.kind]
    assert kinds == [RefusalKind.TOO_FEW_SIZES, RefusalKind.TOO_FEW_SIZES, RefusalKind.TOO_FEW_BUDGETS]


def test_one_sided_budgets_are_refused_and_the_others_are_not(planted):
    centred = planted(budgets=("1000000000000", "3000000000000", "10000000000000"))
    one_sided = planted(budgets=("30000000000000",), shift=7)
    (frontier,) = fit_study(pl.concat([centred, one_sided])).frontiers
    *others, last = frontier.optima
    assert last.params.kind is last.tokens.kind is last.loss.kind is RefusalKind.MINIMUM_AT_EDGE
    assert all(isinstance(optimum.params, Estimate) for optimum in others)
    assert frontier.params_law.budgets == tuple(optimum.budget for optimum in others)


def test_one_outlier_costs_its_budget_alone(planted):
    table = planted(cell_noise=0.002)
    bad = table["cell_id"][3]
    spoiled = table.with_columns(loss=pl.col("loss") + pl.when(pl.col("cell_id") == bad).then(0.5).otherwise(0.0))
    (frontier,) = fit_study(spoiled).frontiers
    first, *others = frontier.optima
    assert isinstance(first.params, Refusal)
    assert all(isinstance(optimum.params, Estimate) for optimum in others)
    (mended,) = fit_study(spoiled, FitSettings(leave_out_cells=(bad,))).frontiers
    assert isinstance(mended.optima[0].params, Estimate)


def test_two_budgets_give_optima_and_no_exponent(planted):
    study = fit_study(planted(budgets=("1000000000000", "10000000000000")))
    (frontier,) = study.frontiers
    assert not study.refused
    laws = (frontier.params_law, frontier.tokens_law, frontier.loss_law, frontier.exponent_sum)
    assert {law.kind for law in laws} == {RefusalKind.TOO_FEW_BUDGETS}
    assert frontier.predict("100000000000000").params.kind is RefusalKind.TOO_FEW_BUDGETS


def test_a_law_predicts_a_larger_budget_with_a_wider_interval(planted, truths):
    table = planted(truths["bowl"], seeds=2, trunk_noise=0.003, cell_noise=0.003)
    (frontier,) = fit_study(table).frontiers
    near, far = frontier.predict("10000000000000").params, frontier.predict("1000000000000000").params
    assert far.low < truths["bowl"].best_params(1e15) < far.high
    assert far.high / far.low > near.high / near.low


def test_the_order_of_rows_changes_nothing(planted):
    table = planted(arms=("mor-2", "vanilla"), seeds=2, trunk_noise=0.004, cell_noise=0.004)
    first = fit_study(table)
    for seed in range(3):
        again = fit_study(table.sample(fraction=1.0, shuffle=True, seed=seed))
        assert numbers(again) == numbers(first)
        assert again.comparisons == first.comparisons


def test_another_arm_does_not_change_the_numbers_of_the_first(planted):
    alone = planted(seeds=2, cell_noise=0.005)
    other = planted(arms=("mor-2",), seeds=2, cell_noise=0.005, random_seed=9)
    both = fit_study(pl.concat([other, alone]))
    assert numbers(both)[-len(numbers(fit_study(alone))) :] == numbers(fit_study(alone))


def test_units_scale_through(planted):
    table = planted(seeds=2, cell_noise=0.005)
    scaled = table.with_columns(unique_params=pl.col("unique_params") * 1000, loss=pl.col("loss") + 1)
    (plain,), (moved,) = fit_study(table).frontiers, fit_study(scaled).frontiers
    assert moved.params_law.exponent.low == pytest.approx(plain.params_law.exponent.low, rel=1e-6)
    for before, after in zip(plain.optima, moved.optima, strict=True):
        assert after.params.high == pytest.approx(1000 * before.params.high, rel=1e-6)
        assert after.loss.low == pytest.approx(1 + before.loss.low, rel=1e-9)
        assert after.tokens.value == pytest.approx(before.tokens.value, rel=1e-9)


def test_the_two_parabolas_of_an_asymmetric_surface_need_not_agree(planted, truths):
    table = planted(truths["asymmetric"], sizes=9, shift=1.0, step=0.2)
    rounded = table.with_columns(tokens=(pl.col("tokens") * (1 + 0.2 * (pl.int_range(pl.len()) % 2))).round())
    (frontier,) = fit_study(rounded, FitSettings(parabola=ParabolaRules(outlier_level=1e-9))).frontiers
    assert isinstance(frontier.exponent_sum, Estimate)
    assert abs(frontier.exponent_sum.value - 1) > 1e-3


def test_repeated_data_stays_out_of_fits_unless_asked(planted):
    table = planted().with_row_index("row")
    flagged = pl.when(pl.col("row") == 0).then(pl.lit("few-steps;repeated-data")).otherwise(pl.lit(""))
    table = table.with_columns(flags=flagged).drop("row")
    assert len(fit_study(table).exclusions) == 1
    assert fit_study(table, FitSettings(leave_out_flags=())).exclusions == ()


def test_the_parabola_names_the_cells_it_used(planted):
    study = fit_study(planted(sizes=9))
    for isoflop in study.frontiers[0].isoflops:
        assert isinstance(isoflop.params, Parabola)
        assert 6 <= len(isoflop.params.cell_ids) < 9
        assert all(isoflop.budget in cell for cell in isoflop.params.cell_ids)


def test_an_empty_table_is_refused(planted):
    assert fit_study(planted().clear()).refused


def test_an_unknown_approach_is_named():
    with pytest.raises(ValueError, match="surfaces"):
        FitSettings(approaches=("surfaces",))


def test_the_loss_exponent_is_the_local_slope(planted, truths):
    (frontier,) = fit_study(planted(truths["symmetric"], sizes=9, step=0.1)).frontiers
    assert isinstance(frontier.loss_law, FittedPowerLaw)
    losses = [optimum.loss.value for optimum in frontier.optima]
    flops = [float(optimum.budget) for optimum in frontier.optima]
    assert frontier.loss_law.law.exponent == pytest.approx(np.polyfit(np.log(flops), np.log(losses), 1)[0], rel=1e-9)


def test_fitting_loads_no_drawing_library():
    code = "import sys, analysis.frontier.study, analysis.report.text; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
