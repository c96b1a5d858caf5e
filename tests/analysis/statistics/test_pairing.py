"""How much noise arms have in common, from what their parabolas leave."""

import numpy as np
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.statistics.bootstrap import Resampling
from analysis.statistics.pairing import arm_residuals, shared_between_arms
from analysis.statistics.quadratic import Axis, Curve, least_squares

BUDGETS, SIZES = 4, 9


def arm(seed, together, common, shared=0.9, first=0):
    """Residuals of one arm with noise of trunks, a part of which is `together`, by size."""
    rng = np.random.default_rng(seed)
    alone = rng.normal(size=2 * SIZES)
    trunk = np.sqrt(common) * together + np.sqrt(1 - common) * alone
    quadratics = []
    for budget in range(BUDGETS):
        sizes = np.arange(SIZES) + first + budget // 2
        noise = np.sqrt(shared) * trunk[sizes] + np.sqrt(1 - shared) * rng.normal(size=SIZES)
        names = tuple(f"{size}/0/0" for size in sizes)
        loss = 3 + 0.1 * (sizes - sizes.mean()) ** 2 + 0.01 * noise
        curve = Curve(axis=Axis.PARAMS, log_x=0.3 * sizes, loss=loss, cell_ids=names, trunk_keys=names)
        quadratics.append(least_squares(curve))
    return arm_residuals(quadratics)


def estimates(common, studies=60):
    found = []
    for study in range(studies):
        together = np.random.default_rng([study, 7]).normal(size=2 * SIZES)
        found.append(shared_between_arms([arm([study, each], together, common, first=each) for each in range(3)]))
    return np.array(found)


def test_noise_in_common_is_found_and_noise_that_is_not_is_rarely_taken_for_it():
    none, most = estimates(0.0), estimates(0.95)
    assert np.mean(none) < 0.1
    assert np.median(none) == 0.0
    assert 0.45 < np.mean(most) < 0.95, "an estimate less its standard error"


def test_without_two_arms_noise_or_trunks_nothing_is_common():
    together = np.ones(2 * SIZES)
    alone = arm(1, together, 0.9)
    assert shared_between_arms([]) == 0.0
    assert shared_between_arms([alone]) == 0.0
    assert shared_between_arms([alone, arm(2, together, 0.9, shared=0.0)]) <= 1.0


def test_a_study_says_what_it_took_as_common_unless_told(planted):
    table = planted(arms=("mor-2", "vanilla"), trunk_noise=0.01, cell_noise=0.002, sizes=7)
    settings = FitSettings(resampling=Resampling(draws=100))
    estimated = fit_study(table, settings)
    assert 0.0 <= estimated.settings.resampling.paired <= 1.0
    told = fit_study(table, FitSettings(resampling=Resampling(draws=100, paired=0.25)))
    assert told.settings.resampling.paired == 0.25


@pytest.mark.parametrize("trunk_noise", [0.01])
def test_arms_whose_noise_is_one_have_a_narrower_gap_between_them(planted, trunk_noise):
    table = planted(arms=("mor-2", "vanilla"), trunk_noise=trunk_noise, cell_noise=0.001, sizes=9, arm_gap=0.05)
    widths = {}
    for paired in (0.0, 1.0):
        study = fit_study(table, FitSettings(resampling=Resampling(draws=300, paired=paired)))
        widths[paired] = np.mean([each.gap.high - each.gap.low for each in study.comparisons])
    assert widths[1.0] < 0.7 * widths[0.0]
