"""What a pilot says of planted laws: noise and optima inside their intervals, power as simulated, refusals."""

import numpy as np
import pytest
from scipy import stats

from analysis.advice.pilot import FoundOptimum, PilotFit, SeedNoise, fit_pilot
from analysis.advice.power import Wanted, advise, detectable_gap, seeds_needed
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from tests.helpers.runs.planted_runs import Bowl, planted_table

BUDGETS = ("1000000000000", "4000000000000")
ARMS = ("mor-2", "vanilla")
QUICK = Resampling(draws=400)
WANTED = Wanted(sizes=6, seeds=1, budgets=BUDGETS)


def pilot_table(random_seed: int = 0, *, sd: float = 0.01, arm_gap: float = 0.05, seeds: int = 3, **changes):
    """Half of the variance is a trunk's."""
    half = sd / np.sqrt(2)
    asked = {"arms": ARMS, "budgets": BUDGETS, "sizes": 5, "step": 0.2, "seeds": seeds, "arm_gap": arm_gap} | changes
    return planted_table(Bowl(), trunk_noise=half, cell_noise=half, random_seed=random_seed, **asked)


def holds(estimate: Estimate | Refusal, truth: float) -> bool:
    assert isinstance(estimate, Estimate)
    return estimate.low <= truth <= estimate.high


@pytest.mark.slow
def test_noise_optima_and_gaps_lie_in_their_intervals_about_as_often_as_they_say():
    inside: dict[str, list[bool]] = {"sd": [], "params": [], "gap": []}
    for random_seed in range(40):
        fit = fit_pilot(pilot_table(random_seed), resampling=QUICK)
        noise, optimum, gap = fit.noise["vanilla"], fit.optima["vanilla"], fit.gaps[0]
        assert isinstance(noise, SeedNoise)
        assert isinstance(optimum, FoundOptimum)
        inside["sd"].append(holds(noise.sd, 0.01))
        inside["params"].append(holds(optimum.params, Bowl().best_params(optimum.flops)))
        inside["gap"].append(holds(gap.gap, 0.05))
    assert {name: np.mean(found) >= 0.85 for name, found in inside.items()} == dict.fromkeys(inside, True), inside


def test_noise_is_that_of_seeds_and_not_what_a_parabola_leaves():
    """A law that no parabola follows has residuals, and its seeds are as noisy as before."""
    bent = planted_table(budgets=BUDGETS, sizes=7, step=0.5, seeds=4, cell_noise=0.001)
    noise = fit_pilot(bent, resampling=QUICK).noise["vanilla"]
    assert isinstance(noise, SeedNoise)
    assert 0.0005 < noise.sd.value < 0.002


def seen_share(gap: float, sd: float, sizes: int, seeds: int, confidence: float, studies: int = 3000) -> float:
    """Share of simulated studies in which a t-test on the minima of two parabolas sees the gap."""
    generator = np.random.default_rng(5)
    u = np.repeat(np.linspace(-1, 1, sizes), seeds)
    design = np.stack([np.ones_like(u), u, u**2], axis=1)
    solver = np.linalg.pinv(design)
    minima, variances = [], []
    for offset in (0.0, gap):
        losses = 3 + offset + 0.1 * u**2 + sd * generator.normal(size=(studies, len(u)))
        level, slope, bend = solver @ losses.T
        minima.append(level - slope**2 / (4 * bend))
        variances.append(np.sum((losses - (design @ np.stack([level, slope, bend])).T) ** 2, axis=1))
    dof = 2 * (len(u) - 3)
    error = np.sqrt(2 * (variances[0] + variances[1]) / dof * np.linalg.inv(design.T @ design)[0, 0])
    return float(np.mean(np.abs(minima[1] - minima[0]) / error > stats.t.ppf(0.5 + confidence / 2, dof)))


@pytest.mark.parametrize(("gap", "power", "confidence"), [(0.012, 0.8, 0.95), (0.02, 0.9, 0.95), (0.011, 0.7, 0.9)])
def test_the_advised_seeds_see_a_gap_in_about_the_wanted_share_of_studies_and_fewer_do_not(gap, power, confidence):
    sd = 0.01
    wanted = Wanted(sizes=6, seeds=1, budgets=BUDGETS, confidence=confidence, power=power)
    seeds = seeds_needed(gap, np.sqrt(2) * sd, wanted)
    assert seeds is not None
    assert seeds > 1
    assert seen_share(gap, sd, 6, seeds, confidence) >= power - 0.02
    assert seen_share(gap, sd, 6, seeds - 1, confidence) < power
    exactly = detectable_gap(np.sqrt(2) * sd, seeds, wanted)
    assert seen_share(exactly, sd, 6, seeds, confidence) == pytest.approx(power, abs=0.03)


def test_advice_of_a_pilot_follows_its_gap():
    large, small = (advise(fit_pilot(pilot_table(arm_gap=gap), resampling=QUICK), WANTED)[0] for gap in (0.3, 0.03))
    assert (large.seeds, large.budget) == (1, BUDGETS[0])
    assert isinstance(small.seeds, int)
    assert small.seeds > 1
    assert isinstance(large.detectable, Estimate)
    assert large.detectable.low < large.detectable.value < large.detectable.high


def test_what_a_pilot_cannot_say_is_refused_with_what_it_lacks():
    once = fit_pilot(pilot_table(seeds=1), resampling=QUICK)
    assert refused(once.noise["vanilla"]) is RefusalKind.NOISE_UNKNOWN
    assert refused(advise(once, WANTED)[0].seeds) is RefusalKind.NOISE_UNKNOWN
    aside = fit_pilot(pilot_table(shift=6.0), resampling=QUICK)
    assert refused(aside.optima["vanilla"]) is RefusalKind.NO_OPTIMUM
    assert refused(aside.gaps[0].gap) is RefusalKind.NO_OPTIMUM
    few = advise(fit_pilot(pilot_table(), resampling=QUICK), Wanted(sizes=3, seeds=1, budgets=BUDGETS))[0]
    assert refused(few.detectable) is RefusalKind.TOO_FEW_SIZES
    equal = advise(fit_pilot(pilot_table(arm_gap=0.0), resampling=QUICK), WANTED)[0]
    assert isinstance(equal.seeds, Refusal)
    assert "may be none" in equal.seeds.sentence
    single = fit_pilot(pilot_table(budgets=BUDGETS[:1]), resampling=QUICK).optima["vanilla"]
    assert isinstance(single, FoundOptimum)
    assert refused(single.exponent) is RefusalKind.TOO_FEW_BUDGETS
    assert single.growth == 0.5


def refused(answer: object) -> RefusalKind:
    assert isinstance(answer, Refusal), answer
    return answer.kind


def test_fits_do_not_depend_on_the_order_of_rows():
    table = pilot_table()
    one, other = fit_pilot(table, resampling=QUICK), fit_pilot(table.reverse(), resampling=QUICK)
    assert isinstance(one, PilotFit)
    assert one == other
