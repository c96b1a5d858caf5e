"""Planted optima of hyper-parameters: found within their intervals, or refused with the reason."""

from collections.abc import Sequence

import numpy as np
import pytest

from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.tuning.law import HyperparameterLaw, TunedRung, fit_law, loss_of_sharing
from analysis.tuning.response import Response, Trial, fit_response, fit_responses

CURVATURE, NOISE = 0.04, 0.004
PARAMS = (20_000, 80_000, 320_000)


def planted_rate(params: float) -> float:
    return 0.01 * (params / 80_000) ** -0.3


def trials_around(
    best: float, places: Sequence[float], random: np.random.Generator, noise: float = NOISE, seeds: int = 1
) -> list[Trial]:
    """Losses that grow with the square of the logarithm, noise on top."""
    return [
        Trial(
            values={"learning_rate": rate},
            losses=tuple(4 + CURVATURE * np.log(rate / best) ** 2 + noise * random.normal() for _ in range(seeds)),
        )
        for rate in places
    ]


def planted_rungs(random: np.random.Generator) -> list[TunedRung]:
    trials = []
    for params in PARAMS:
        centre = planted_rate(params) * random.uniform(0.6, 1.6)
        trials.append(trials_around(planted_rate(params), np.geomspace(centre / 4, centre * 4, 8), random))
    return [
        TunedRung(arm="vanilla", size=str(params), params=params, tokens=1, response=response)
        for params, response in zip(PARAMS, fit_responses(trials), strict=True)
    ]


@pytest.mark.slow
def test_intervals_of_a_law_hold_the_planted_one_about_as_often_as_they_say():
    random = np.random.default_rng(0)
    base_held, exponent_held, laws = 0, 0, 0
    for _ in range(120):
        law = fit_law("learning_rate", planted_rungs(random))
        if isinstance(law, Refusal) or isinstance(law.exponent, Refusal):
            continue
        laws += 1
        base_held += law.base.low <= planted_rate(law.reference) <= law.base.high
        exponent_held += law.exponent.low <= -0.3 <= law.exponent.high
    assert laws > 110
    assert base_held / laws > 0.88
    assert exponent_held / laws > 0.88


def test_what_a_law_costs_on_a_rung_that_it_has_not_seen_is_small_where_the_law_holds():
    law = fit_law("learning_rate", planted_rungs(np.random.default_rng(1)))
    assert isinstance(law, HyperparameterLaw)
    assert [each.size for each in law.held_out] == [str(params) for params in PARAMS]
    for each in law.held_out:
        assert 0 <= each.loss_lost < 5 * NOISE
        assert each.value == pytest.approx(each.optimum, rel=0.6)


def test_two_hyperparameters_are_found_together():
    random = np.random.default_rng(2)
    trials = [
        Trial(
            values={"learning_rate": rate, "batch_size": batch},
            losses=(3 + 0.05 * np.log(rate / 0.004) ** 2 + 0.03 * np.log(batch / 16) ** 2 + 0.02 * np.log(rate / 0.004)
                    * np.log(batch / 16) + 0.001 * random.normal(),),
        )
        for rate, batch in zip(0.001 * 16 ** random.random(24), 4.0 * 16 ** random.random(24), strict=True)
    ]  # fmt: skip
    response = fit_response(trials)
    assert isinstance(response, Response)
    rate, batch = response.optimum("learning_rate"), response.optimum("batch_size")
    assert rate.low < 0.004 < rate.high
    assert batch.low < 16 < batch.high
    assert rate.high / rate.low < 3
    assert response.loss({"learning_rate": 0.004, "batch_size": 16.0}) == pytest.approx(3, abs=0.01)


def test_a_minimum_at_the_end_of_the_range_is_refused_and_says_which_end():
    random = np.random.default_rng(3)
    for places, end in ((np.geomspace(0.02, 0.2, 8), "lowest"), (np.geomspace(0.0005, 0.005, 8), "highest")):
        refusal = fit_response(trials_around(0.01, places, random, noise=1e-4))
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.MINIMUM_AT_EDGE
        assert end in refusal.sentence
        assert "widen" in refusal.sentence


def test_noise_that_hides_the_minimum_is_refused():
    random = np.random.default_rng(4)
    answers = [fit_response(trials_around(0.01, np.geomspace(0.009, 0.011, 6), random, noise=0.1)) for _ in range(20)]
    assert all(isinstance(each, Refusal) or each.optimum("learning_rate").low_open for each in answers)


def test_settings_that_diverge_are_no_settings():
    random = np.random.default_rng(5)
    good = trials_around(0.01, np.geomspace(0.003, 0.03, 7), random)
    lucky = Trial(values={"learning_rate": 0.1}, losses=(1.0,), diverged=1)
    dead = Trial(values={"learning_rate": 0.3}, losses=(), diverged=2)
    response = fit_response([*good, lucky, dead])
    assert isinstance(response, Response)
    assert response.optimum("learning_rate").value == pytest.approx(0.01, rel=0.3)
    all_dead = fit_response([dead, lucky])
    assert isinstance(all_dead, Refusal)
    assert "diverged" in all_dead.sentence
    assert "lower the learning rates" in all_dead.sentence


def test_more_seeds_narrow_the_interval():
    def width(seeds: int) -> float:
        random = np.random.default_rng(6)
        rungs = [trials_around(0.01, np.geomspace(0.003, 0.03, 8), random, noise=0.01, seeds=seeds) for _ in range(6)]
        found = [each.optimum("learning_rate") for each in fit_responses(rungs) if isinstance(each, Response)]
        return float(np.median([np.log(each.high / each.low) for each in found]))

    assert width(9) < 0.6 * width(1)


def test_one_rung_gives_a_value_and_no_exponent():
    rungs = planted_rungs(np.random.default_rng(7))[:1]
    law = fit_law("learning_rate", rungs)
    assert isinstance(law, HyperparameterLaw)
    assert isinstance(law.base, Estimate)
    assert isinstance(law.exponent, Refusal)
    assert law.value(10 * law.reference) == law.base.value
    assert law.held_out == ()


def test_intervals_of_what_sharing_costs_hold_the_planted_loss_about_as_often_as_they_say():
    random = np.random.default_rng(9)
    held = {1.0: 0, 2.0: 0}
    for factor in held:
        for _ in range(100):
            trials = [trials_around(0.01, np.geomspace(0.0025, 0.04, 8), random) for _ in range(2)]
            there = fit_responses(trials)[0]
            assert isinstance(there, Response)
            lost = loss_of_sharing({"learning_rate": 0.01 * factor}, there)
            held[factor] += lost.low <= CURVATURE * np.log(factor) ** 2 + 1e-5 <= lost.high
    assert min(held.values()) > 88


def test_sharing_a_setting_costs_nothing_at_its_own_optimum_and_something_elsewhere():
    random = np.random.default_rng(8)
    own = fit_response(trials_around(0.01, np.geomspace(0.0025, 0.04, 10), random, noise=1e-4))
    assert isinstance(own, Response)
    assert loss_of_sharing({"learning_rate": own.optimum("learning_rate").value}, own).value == pytest.approx(
        0, abs=1e-9
    )
    twice = loss_of_sharing({"learning_rate": 0.02}, own)
    assert twice.value == pytest.approx(CURVATURE * np.log(2) ** 2, rel=0.1)
    assert twice.low > 0
