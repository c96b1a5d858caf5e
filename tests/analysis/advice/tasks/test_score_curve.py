import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.advice.tasks.score_curve import (
    CURVE_32,
    MIN_CELLS,
    ScoreCurve,
    ScorePoints,
    _Problem,
    fit_score_curve,
)
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling

FEW = Resampling(draws=100)
CHANCE = 0.25


def points_of(x_n, score_n, chance=CHANCE):
    keys = tuple(f"trunk-{place}" for place in range(len(x_n)))
    return ScorePoints(x_n=np.asarray(x_n, float), score_n=np.asarray(score_n, float), trunk_keys=keys, chance=chance)


def logistic(x_n, rate=12.0, midpoint=-0.8):
    return CHANCE + (1 - CHANCE) / (1 + np.exp(-rate * (x_n - midpoint)))


X = np.linspace(-1.0, -0.75, 12)


def refusal_of(points):
    refusal = fit_score_curve(points, "logistic", "arm", FEW)
    assert isinstance(refusal, Refusal), refusal
    assert refusal.sentence.endswith(".")
    return refusal


@settings(deadline=None, max_examples=12)
@given(rate=st.floats(5, 40), place=st.floats(0.1, 0.9), chance=st.sampled_from([0.0, 0.25, 0.5]))
def test_a_planted_logistic_curve_is_recovered(rate, place, chance):
    midpoint = X[0] + place * (X[-1] - X[0])
    score_n = chance + (1 - chance) / (1 + np.exp(-rate * (X - midpoint)))
    curve = fit_score_curve(points_of(X, score_n, chance), "logistic", "arm", FEW)
    assert isinstance(curve, ScoreCurve)
    assert curve.rate == pytest.approx(rate, rel=1e-4)
    assert curve.midpoint == pytest.approx(midpoint, abs=1e-5)
    assert curve.score(-10.0) == pytest.approx(chance, abs=1e-9)


def test_a_planted_power_of_compute_is_recovered():
    flops_n = np.geomspace(1e18, 1e21, 9)
    share_n = np.exp(-1.5 * (flops_n / 1e20) ** -0.2)
    points = points_of(np.log(flops_n), CHANCE + (1 - CHANCE) * share_n)
    curve = fit_score_curve(points, "power", "arm", FEW)
    assert isinstance(curve, ScoreCurve)
    assert curve.rate == pytest.approx(0.2, rel=1e-4)
    beyond = CHANCE + (1 - CHANCE) * np.exp(-1.5 * 100**-0.2)
    assert curve.score(np.log(1e22)) == pytest.approx(beyond, abs=1e-4)


@pytest.mark.parametrize("link", ["logistic", "power"])
def test_slopes_are_the_derivatives_of_residuals(link):
    problem = _Problem(z_n=np.linspace(-1.5, 1.5, 7), score_kn=np.full((1, 7), 0.4), chance=CHANCE, link=link)
    theta, step = np.array([[-0.3, 0.9, 0.1]]), 1e-6
    for place in range(3):
        move = np.zeros_like(theta)
        move[0, place] = step
        by_difference = (problem.residuals(theta + move) - problem.residuals(theta - move)) / (2 * step)
        assert problem.slopes(theta)[..., place] == pytest.approx(by_difference, abs=1e-8)
    assert CURVE_32.shape == (3, 2)


def test_intervals_hold_the_planted_curve_about_as_often_as_they_say():
    rng, num_inside, studies, beyond = np.random.default_rng(5), 0, 40, -0.7
    for _ in range(studies):
        curve = fit_score_curve(points_of(X, logistic(X) + 0.005 * rng.normal(size=len(X))), "logistic", "arm", FEW)
        if isinstance(curve, Refusal):  # One in a hundred, by the test against a bend.
            studies -= 1
            continue
        low, high = np.percentile(curve.drawn(np.array([beyond])), [2.5, 97.5])
        num_inside += low <= logistic(beyond) <= high
    assert studies >= 36
    assert 0.85 <= num_inside / studies <= 1.0


def test_noise_that_trunks_share_widens_the_interval():
    rng = np.random.default_rng(3)
    trunks = np.repeat(np.arange(4), 3)
    score_n = logistic(X) + 0.01 * rng.normal(size=4)[trunks]
    apart = points_of(X, score_n)
    together = ScorePoints(x_n=X, score_n=score_n, trunk_keys=tuple(map(str, trunks)), chance=CHANCE)
    widths = []
    for points in (apart, together):
        curve = fit_score_curve(points, "logistic", "arm", FEW)
        assert isinstance(curve, ScoreCurve)
        widths.append(np.std(curve.drawn(np.array([-0.7]))))
    assert widths[1] > widths[0]


def test_too_few_cells_are_refused():
    refusal = refusal_of(points_of(X[:3], logistic(X[:3])))
    assert refusal.kind == RefusalKind.TOO_FEW_POINTS
    assert f"needs {MIN_CELLS}" in refusal.sentence


@pytest.mark.parametrize(("x_n", "score_n"), [(np.full(12, -0.9), logistic(X)), (X, np.full(12, 0.4))])
def test_a_constant_column_is_refused(x_n, score_n):
    assert refusal_of(points_of(x_n, score_n)).kind == RefusalKind.CONSTANT_COLUMN


def test_a_task_at_chance_is_refused():
    score_n = CHANCE + 0.01 * np.random.default_rng(1).normal(size=len(X))
    refusal = refusal_of(points_of(X, score_n))
    assert refusal.kind == RefusalKind.AT_CHANCE
    assert "25.0 %" in refusal.sentence


def test_a_score_that_does_not_rise_is_refused():
    score_n = 0.6 + 0.05 * np.random.default_rng(2).normal(size=len(X))
    assert refusal_of(points_of(X, score_n)).kind == RefusalKind.NOT_MONOTONE
    falling = refusal_of(points_of(X, logistic(X)[::-1] + 0.3))
    assert falling.kind in (RefusalKind.NOT_MONOTONE, RefusalKind.AT_CHANCE)


def test_a_curve_that_levels_off_below_1_is_refused():
    score_n = CHANCE + 0.3 / (1 + np.exp(-40 * (X + 0.9))) + 0.003 * np.random.default_rng(4).normal(size=len(X))
    assert refusal_of(points_of(X, score_n)).kind == RefusalKind.DOES_NOT_FIT


def test_the_foot_of_a_curve_is_refused():
    rng = np.random.default_rng(6)
    foot = refusal_of(points_of(X, logistic(X, midpoint=-0.5) + 0.0002 * rng.normal(size=len(X))))
    assert foot.kind == RefusalKind.RANGE_NOT_REACHED
    assert "of the way from chance to 1" in foot.sentence


def test_a_slope_that_the_cells_leave_open_is_refused():
    narrow = np.linspace(-0.85, -0.79, 12)
    score_n = logistic(narrow) + 0.04 * np.tile([1.0, -1.0], 6)
    refusal = refusal_of(points_of(narrow, score_n))
    assert refusal.kind == RefusalKind.RANGE_NOT_REACHED
    assert "they allow slopes from" in refusal.sentence
