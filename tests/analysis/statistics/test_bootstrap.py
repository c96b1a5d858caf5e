from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.frontier.study import FitSettings, fit_study
from analysis.statistics.answers import Estimate, RefusalKind
from analysis.statistics.bootstrap import Resampling, interval, redraw_minima, refuse_unstable
from analysis.statistics.pairing import arm_residuals
from analysis.statistics.quadratic import Axis, Curve, least_squares

NOISE = 0.006


def covered(estimate, truth):
    return estimate.low <= truth <= estimate.high


def coverage(planted, truth, *, studies, sizes, seeds, shared):
    """Shares of 95 % intervals that hold N*, L* and the exponent; `shared` is the part of the variance along trunks."""
    settings = FitSettings(resampling=Resampling(draws=400))
    noise = {"trunk_noise": NOISE * shared**0.5, "cell_noise": NOISE * (1 - shared) ** 0.5}
    hits: dict[str, list[bool]] = {"params": [], "loss": [], "exponent": []}
    for number in range(studies):
        table = planted(truth, sizes=sizes, seeds=seeds, step=0.18, random_seed=number, **noise)
        (frontier,) = fit_study(table, settings).frontiers
        for optimum in frontier.optima:
            flops = float(optimum.budget)
            if isinstance(optimum.params, Estimate):
                hits["params"].append(covered(optimum.params, truth.best_params(flops)))
                hits["loss"].append(covered(optimum.loss, truth.best_loss(flops)))
        if len(getattr(frontier.params_law, "budgets", ())) == len(frontier.optima):
            hits["exponent"].append(covered(frontier.params_law.exponent, truth.exponent))
    assert len(hits["exponent"]) > studies / 2
    return {name: np.mean(each) for name, each in hits.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "seeds", "shared"), [(7, 1, 0.5), (5, 1, 0.5)])
def test_intervals_hold_the_truth_about_as_often_as_stated(planted, truths, sizes, seeds, shared):
    found = coverage(planted, truths["bowl"], studies=120, sizes=sizes, seeds=seeds, shared=shared)
    assert all(0.85 <= share <= 0.995 for share in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("sizes", "seeds"), [(4, 1), (5, 1), (7, 1), (9, 1), (7, 3)])
def test_intervals_hold_the_truth_over_many_designs(planted, truths, sizes, seeds, shared):
    found = coverage(planted, truths["bowl"], studies=500, sizes=sizes, seeds=seeds, shared=shared)
    assert all(0.86 <= share <= 0.995 for share in found.values()), found


def curve(sizes=7, spread=0.01, bend=0.1):
    rng = np.random.default_rng(0)
    log_x = 12 + 0.35 * (np.arange(sizes) - (sizes - 1) / 2)
    names = tuple(f"size{index}/0/0" for index in range(sizes))
    loss = 3 + bend * (log_x - 12) ** 2 + spread * rng.normal(size=sizes)
    return Curve(axis=Axis.PARAMS, log_x=log_x, loss=loss, cell_ids=names, trunk_keys=names)


def redraw(resampling=None, *, budget="1", arm="vanilla", shared=0.0, **shape):
    quadratic = least_squares(curve(**shape))
    noise = replace(arm_residuals([quadratic]).noise, shared=shared)
    return redraw_minima(quadratic, noise=noise, arm=arm, budget=budget, resampling=resampling or Resampling())


def likeness(one, two):
    return stats.spearmanr(one.log_optimum, two.log_optimum).statistic


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    first, again, other = redraw(), redraw(), redraw(Resampling(random_seed=21))
    assert np.array_equal(first.log_optimum, again.log_optimum)
    assert not np.array_equal(first.log_optimum, other.log_optimum)


@pytest.mark.parametrize("sizes", [5, 7])
def test_draws_centre_on_the_fit_and_widen_with_noise(sizes):
    narrow, wide = redraw(sizes=sizes, spread=0.002), redraw(sizes=sizes, spread=0.004)
    fitted = least_squares(curve(sizes=sizes, spread=0.002))
    vertex = fitted.centre + fitted.scale * fitted.vertex_u
    assert np.median(narrow.log_optimum) == pytest.approx(vertex, abs=0.01)
    ratio = np.ptp(np.percentile(wide.log_optimum, [25, 75])) / np.ptp(np.percentile(narrow.log_optimum, [25, 75]))
    assert ratio == pytest.approx(2.0, rel=0.1)


def test_many_trunks_are_redrawn_with_their_own_residuals_alike_at_every_budget_and_in_every_arm():
    wild = Resampling(min_trunks=6)
    one, two, other = redraw(wild), redraw(wild, budget="2"), redraw(wild, arm="mor-2")
    assert np.array_equal(one.log_optimum, two.log_optimum)
    assert np.array_equal(one.log_optimum, other.log_optimum)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_budgets_move_together_as_far_as_the_noise_is_that_of_trunks(shared):
    one, two = redraw(spread=0.001, shared=shared), redraw(spread=0.001, shared=shared, budget="2")
    assert likeness(one, two) == pytest.approx(shared, abs=0.12)


@pytest.mark.parametrize("paired", [0.0, 0.5, 1.0])
def test_arms_move_together_as_far_as_they_share_the_noise_of_trunks(paired):
    resampling = Resampling(paired=paired)
    one, other = (redraw(resampling, arm=arm, spread=0.001, shared=1.0) for arm in ("vanilla", "mor-2"))
    assert likeness(one, other) == pytest.approx(paired, abs=0.12)


def test_a_curve_that_bends_the_wrong_way_has_too_few_inner_minima_for_an_interval():
    minima = redraw(bend=-0.01, spread=0.01)
    assert minima.interior_share < 0.5
    assert refuse_unstable(minima.interior_share, Resampling()).kind is RefusalKind.UNSTABLE_MINIMUM
    assert refuse_unstable(redraw().interior_share, Resampling()) is None


@pytest.mark.parametrize(("share", "refused"), [(0.49, True), (0.5, False)])
def test_half_of_the_draws_must_have_an_inner_minimum(share, refused):
    assert (refuse_unstable(share, Resampling()) is not None) is refused


def test_an_interval_cut_at_the_sizes_is_marked_open():
    draws = np.linspace(0.0, 10.0, 1001)
    cut = interval(5.0, draws, 0.9, within=(1.0, 9.9))
    assert (cut.low, cut.low_open, cut.high_open) == (1.0, True, False)
    assert cut.high == pytest.approx(9.5)


def test_a_straight_draw_has_a_finite_minimum():
    minima = redraw(bend=1e-9, spread=1e-6)
    assert np.isfinite(np.exp(minima.log_optimum)).all()
    assert (minima.minimum_loss > 0).all()


@pytest.mark.parametrize(("name", "value"), [("draws", 10), ("level", 1.0), ("paired", 1.5)])
def test_settings_that_give_no_interval_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Resampling(**{name: value})
