import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.isoflop.parabola import (
    Parabola,
    ParabolaRules,
    choose_window,
    judge_curvature,
    refuse_few_sizes,
    refuse_shape,
)
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.quadratic import Axis, Curve, Noise, least_squares, pool_noise

RULES = ParabolaRules()


def curve_of(log_x, loss, axis=Axis.PARAMS):
    names = tuple(f"cell{index}" for index in range(len(loss)))
    x, y = np.asarray(log_x, dtype=float), np.asarray(loss, dtype=float)
    return Curve(axis=axis, log_x=x, loss=y, cell_ids=names, trunk_keys=names)


def fit(curve, rules=RULES, pooled=None):
    few = refuse_few_sizes(curve, rules)
    if few:
        return few
    quadratic = least_squares(choose_window(curve, rules))
    refusal = refuse_shape(curve, quadratic, rules)
    return refusal or judge_curvature(curve, quadratic, pooled or pool_noise([quadratic]), rules)


def bowl(sizes=7, vertex=12.0, bend=0.1, step=0.35, centre=12.0):
    log_x = centre + step * (np.arange(sizes) - (sizes - 1) / 2)
    return log_x, 3.0 + bend * (log_x - vertex) ** 2


@given(
    vertex=st.floats(-0.45, 0.45),
    bend=st.floats(1e-3, 10.0),
    sizes=st.integers(5, 12),
    step=st.floats(0.05, 0.6),
    centre=st.floats(5.0, 25.0),
)
def test_a_planted_parabola_is_recovered_exactly(vertex, bend, sizes, step, centre):
    place = centre + vertex * step  # within half a step of the middle, so the lowest size is never an end
    log_x, loss = bowl(sizes, place, bend, step, centre)
    parabola = fit(curve_of(log_x, loss))
    assert isinstance(parabola, Parabola)
    assert np.log(parabola.optimum) == pytest.approx(place, abs=1e-6)
    assert parabola.minimum_loss == pytest.approx(3.0, abs=1e-6)
    assert parabola.curvature == pytest.approx(bend, rel=1e-4)


@given(st.lists(st.floats(2.0, 5.0), min_size=4, max_size=9), st.floats(0.1, 0.5))
def test_whatever_the_losses_a_parabola_opens_upwards_inside_the_sizes(losses, step):
    log_x = 12 + step * np.arange(len(losses))
    answer = fit(curve_of(log_x, losses))
    if isinstance(answer, Parabola):
        assert answer.curvature_low > 0
        assert answer.lowest < answer.optimum < answer.highest
        assert 0 < int(np.argmin(losses)) < len(losses) - 1
    else:
        assert answer.sentence


@pytest.mark.parametrize("sizes", [1, 2, 3])
def test_fewer_than_four_sizes_are_refused_however_many_seeds(sizes):
    log_x, loss = bowl(sizes)
    answer = fit(curve_of(np.repeat(log_x, 5), np.repeat(loss, 5)))
    assert isinstance(answer, Refusal)
    assert answer.kind is RefusalKind.TOO_FEW_SIZES
    assert str(sizes) in answer.sentence


def test_a_parabola_that_opens_downwards_is_refused():
    log_x, loss = bowl(bend=-0.1)
    assert fit(curve_of(log_x, loss)).kind is RefusalKind.NOT_CONVEX


@pytest.mark.parametrize("vertex", [9.0, 10.9, 13.1, 15.0])
def test_a_minimum_at_or_beyond_the_end_of_the_sizes_is_refused(vertex):
    log_x, loss = bowl(vertex=vertex)
    assert fit(curve_of(log_x, loss)).kind is RefusalKind.MINIMUM_AT_EDGE


def test_a_falling_convex_curve_is_refused_though_its_parabola_has_a_vertex_inside():
    log_x = np.linspace(10, 14, 7)
    loss = 3 + np.exp(-2 * (log_x - 10))
    all_sizes = ParabolaRules(window_decades=None)
    curve = curve_of(log_x, loss)
    assert least_squares(curve).opens_upwards_inside
    answer = fit(curve, all_sizes)
    assert answer.kind is RefusalKind.MINIMUM_AT_EDGE
    assert "largest size" in answer.sentence


def test_noise_around_a_level_line_is_seldom_taken_for_a_parabola():
    rng = np.random.default_rng(1)
    log_x, _ = bowl(9)
    answers = [fit(curve_of(log_x, 3 + 0.01 * rng.normal(size=9))) for _ in range(400)]
    assert np.mean([isinstance(answer, Parabola) for answer in answers]) < 0.06
    kinds = {answer.kind for answer in answers if isinstance(answer, Refusal)}
    assert RefusalKind.CURVATURE_NOT_SIGNIFICANT in kinds


def test_one_outlier_is_named():
    rng = np.random.default_rng(2)
    log_x, loss = bowl(9)
    loss = loss + 0.002 * rng.normal(size=9)
    loss[6] += 0.4
    answer = fit(curve_of(log_x, loss), ParabolaRules(window_decades=None))
    assert answer.kind is RefusalKind.OUTLIER
    assert "cell6" in answer.sentence


def test_sound_runs_are_called_outliers_about_as_seldom_as_stated():
    rng = np.random.default_rng(3)
    log_x, loss = bowl(8)
    rules = ParabolaRules(window_decades=None, outlier_level=0.05)
    answers = [fit(curve_of(log_x, loss + 0.005 * rng.normal(size=8)), rules) for _ in range(600)]
    share = np.mean([isinstance(answer, Refusal) and answer.kind is RefusalKind.OUTLIER for answer in answers])
    assert 0.01 < share < 0.08


def test_four_sizes_are_judged_by_the_noise_pooled_over_budgets():
    rng = np.random.default_rng(4)
    log_x, loss = bowl(4, step=0.6)
    curve = curve_of(log_x, loss + 0.02 * rng.normal(size=4))
    alone = fit(curve, pooled=Noise(sd=0.02, dof=1, source="pooled"))
    together = fit(curve, pooled=Noise(sd=0.02, dof=20, source="pooled"))
    assert alone.kind is RefusalKind.NOISE_UNKNOWN
    assert isinstance(together, Parabola)
    assert together.noise.source == "pooled"
    assert "only 4 sizes" in together.warnings


def test_the_curvature_interval_is_the_regression_t_interval():
    rng = np.random.default_rng(5)
    log_x, loss = bowl(9)
    noisy = loss + 0.01 * rng.normal(size=9)
    parabola = fit(curve_of(log_x, noisy), ParabolaRules(window_decades=None))
    _, covariance = np.polyfit(log_x - 12, noisy, 2, cov=True)
    half_width = stats.t.ppf(0.975, 6) * np.sqrt(covariance[0, 0])
    assert parabola.curvature_high - parabola.curvature == pytest.approx(half_width, rel=1e-6)


def test_a_window_keeps_far_sizes_from_moving_the_minimum():
    log_x = np.linspace(8, 18, 26)
    loss = 3 + 0.1 * (log_x - 12) ** 2 + 0.02 * (log_x - 12) ** 3 * (log_x > 12)
    windowed = fit(curve_of(log_x, loss))
    everything = least_squares(curve_of(log_x, loss))
    assert np.log(windowed.optimum) == pytest.approx(12, abs=0.08)
    assert abs(everything.centre + everything.scale * everything.vertex_u - 12) > 0.3
    assert windowed.highest / windowed.lowest <= 10.0 * np.exp(0.5)


def test_a_window_with_too_few_sizes_is_widened_to_the_nearest():
    log_x, loss = bowl(9, step=1.0)
    parabola = fit(curve_of(log_x, loss))
    assert parabola.num_sizes >= RULES.window_min_sizes
    assert any("decades from the minimum" in warning for warning in parabola.warnings)


def test_a_minimum_with_one_size_below_it_is_flagged():
    log_x, loss = bowl(6, vertex=11.45)
    assert "only one size below the minimum" in fit(curve_of(log_x, loss), ParabolaRules(window_decades=None)).warnings


def test_the_order_of_points_does_not_matter():
    rng = np.random.default_rng(6)
    log_x, loss = bowl(9)
    loss = loss + 0.01 * rng.normal(size=9)
    order = rng.permutation(9)
    first, second = fit(curve_of(log_x, loss)), fit(curve_of(log_x[order], loss[order]))
    assert first.optimum == pytest.approx(second.optimum, rel=1e-12)


def test_too_few_sizes_cannot_be_allowed():
    with pytest.raises(ValueError, match="min_sizes is 3"):
        ParabolaRules(min_sizes=3)
