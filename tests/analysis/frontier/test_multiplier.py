import polars as pl
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.statistics.answers import Estimate, Refusal, RefusalKind

BOTH = FitSettings(approaches=("surface", "parabola"))


def two_arms(planted, truths, *, saved=2.0, noise=0.0, budgets=None):
    """Arm "mor" reaches with C what "vanilla" reaches with saved · C: its FLOPs count as less."""
    extra = {"budgets": budgets} if budgets else {}
    vanilla = planted(truths["chinchilla"], sizes=9, step=0.15, cell_noise=noise, **extra)
    cheaper = planted(truths["chinchilla"], arms=("mor",), sizes=9, step=0.15, cell_noise=noise, random_seed=5, **extra)
    budget = (pl.col("budget").cast(pl.Float64) / saved).round().cast(pl.Int64).cast(pl.Utf8)
    cheaper = cheaper.with_columns(budget=budget)
    return pl.concat([vanilla, cheaper])


def test_an_arm_that_needs_half_the_compute_has_a_multiplier_of_two(planted, truths):
    budgets = ("1000000000000", "2000000000000", "4000000000000", "8000000000000")
    study = fit_study(two_arms(planted, truths, budgets=budgets), BOTH)
    compared = [each for each in study.comparisons if isinstance(each.gap, Estimate)]
    assert [each.budget for each in compared] == list(budgets[:-1])
    for each in compared:
        assert (each.arm, each.other) == ("mor", "vanilla")
        assert each.gap.value < 0
        assert each.compute.value == pytest.approx(2.0, rel=0.02)
        assert each.compute.low <= each.compute.value <= each.compute.high
        # On the same N and D both arms have the same loss, so that a parameter is worth a parameter.
        assert each.params.value == pytest.approx(1.0, rel=0.02)


def arms_whose_gap_grows(planted, truths, *, growth, noise):
    """Arm "mor" reaches with C what "vanilla" reaches with C · (C / 1e12)^growth."""
    budgets = [f"{1e12 * 3**index:.0f}" for index in range(4)]
    further = {f"{float(budget) * (float(budget) / 1e12) ** growth:.0f}": budget for budget in budgets}
    plant = {"sizes": 9, "step": 0.15, "cell_noise": noise}
    vanilla = planted(truths["chinchilla"], budgets=tuple(budgets), **plant)
    routed = planted(truths["chinchilla"], arms=("mor",), budgets=tuple(further), random_seed=5, **plant)
    return pl.concat([vanilla, routed.with_columns(pl.col("budget").replace(further))])


@pytest.mark.parametrize(("growth", "finding"), [(0.2, "it grows"), (-0.2, "it shrinks"), (0.0, "no trend seen")])
def test_a_multiplier_that_grows_with_compute_is_seen_to(planted, truths, growth, finding):
    study = fit_study(arms_whose_gap_grows(planted, truths, growth=growth, noise=0.002))
    (pair,) = study.over_budgets
    assert (pair.arm, pair.other) == ("mor", "vanilla")
    # With C = C' (C' / 1e12)^growth, ln(C / C') rises with ln C by growth / (1 + growth).
    assert pair.growth.value == pytest.approx(10 ** (growth / (1 + growth)), rel=0.03)
    assert finding in pair.sentences[-1]


def test_two_budgets_show_no_trend(planted):
    study = fit_study(planted(arms=("mor", "vanilla"), sizes=9, budgets=("1000000000000", "3000000000000")))
    (pair,) = study.over_budgets
    assert pair.growth.kind is RefusalKind.TOO_FEW_BUDGETS


def test_noise_widens_the_multiplier_around_the_truth(planted, truths):
    budgets = ("1000000000000", "2000000000000", "4000000000000", "8000000000000")
    study = fit_study(two_arms(planted, truths, budgets=budgets, noise=0.01), BOTH)
    for each in study.comparisons:
        if isinstance(each.compute, Estimate):
            assert each.compute.low < 2.0 < each.compute.high
            assert each.compute.high / each.compute.low > 1.005


def test_two_equal_arms_have_a_multiplier_of_one(planted):
    study = fit_study(planted(arms=("mor", "vanilla"), sizes=9), BOTH)
    for each in study.comparisons:
        assert each.compute.value == pytest.approx(1.0, rel=1e-6)
        assert each.params.value == pytest.approx(1.0, rel=1e-6)


def test_a_loss_far_beyond_the_arms_budgets_gives_no_multiplier(planted):
    study = fit_study(planted(arms=("mor", "vanilla"), sizes=9, arm_gap=20.0))
    assert all(each.compute.kind is RefusalKind.EXTRAPOLATION for each in study.comparisons)


def test_one_budget_gives_no_compute_multiplier(planted):
    study = fit_study(planted(arms=("mor", "vanilla"), sizes=9, cell_noise=0.001, budgets=("1000000000000",)))
    (comparison,) = study.comparisons
    assert isinstance(comparison.gap, Estimate)
    assert isinstance(comparison.compute, Refusal)
    assert comparison.params is None
