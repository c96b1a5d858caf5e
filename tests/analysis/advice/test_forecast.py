"""Forecasts of planted studies: by every approach, mixed, frozen and scored."""

import json

import numpy as np
import polars as pl
import pytest

from analysis.advice.forecast.backtest import roll
from analysis.advice.forecast.forecast import RunNoise, forecasts, one_more_run, roll_study, run_noise
from analysis.advice.forecast.forecaster import COMBINED
from analysis.advice.forecast.frozen_law import FrozenLaw, frozen_from_json
from analysis.advice.forecast.law_error import PastError, law_error, weights
from analysis.advice.forecast.outlook import APPROACHES, OutlookRules
from analysis.advice.forecast.score import TrainedCell, score
from analysis.frontier import coverage
from analysis.frontier.study import FitSettings, fit_study
from analysis.isoflop.parabola import ParabolaRules
from analysis.runs.points import read_points
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from analysis.surface.optimum import SurfaceRules

RULES = OutlookRules(parabola=ParabolaRules(), surface=SurfaceRules(), resampling=Resampling(draws=300, paired=0.0))
AHEAD = "300000000000000"
"""Ten times the largest planted budget."""


def rolled(table, rules=RULES):
    points = read_points(table)
    return points.frame, roll(points.frame, "vanilla", points.budgets_of("vanilla"), rules)


@pytest.fixture(scope="module")
def sound(planted, truths):
    return rolled(planted(truths["chinchilla"], sizes=9, step=0.15, seeds=2, cell_noise=0.003, trunk_noise=0.002))


@pytest.fixture(scope="module")
def at_ten_times(sound):
    return {forecast.approach: forecast for forecast in forecasts(*sound, AHEAD)}


def test_the_truth_lies_within_what_is_said_of_ten_times_the_compute(at_ten_times, truths):
    truth, flops = truths["chinchilla"], float(AHEAD)
    best = truth.best_params(flops)
    combined = at_ten_times[COMBINED]
    assert set(at_ten_times) == {*APPROACHES, COMBINED}
    assert combined.reach == pytest.approx(10)
    assert combined.params.low < best < combined.params.high
    assert combined.tokens.low < flops / 6 / best < combined.tokens.high
    assert combined.loss.low < truth.loss(best, flops / 6 / best) < combined.loss.high


def test_a_law_without_an_asymptote_is_left_out_by_its_record(at_ten_times):
    assert at_ten_times["minima-power"].weight < 0.05
    assert sum(at_ten_times[approach].weight for approach in APPROACHES) == pytest.approx(1)
    assert "one budget ahead its L* was off by" in at_ten_times["minima-power"].record


def test_a_surface_that_missed_before_has_a_wider_interval_and_no_say(planted, truths):
    """Curves steeper than the law, as where rates suit the optimum alone, put a surface's asymptote too high."""
    truth = truths["chinchilla"]
    table = planted(truth, sizes=9, step=0.15, cell_noise=0.002)
    steeper = [
        loss + 0.05 * np.log(params / truth.best_params(6 * params * tokens)) ** 2
        for loss, params, tokens in table.select("loss", "unique_params", "tokens").iter_rows()
    ]
    frame, of_steep = rolled(table.with_columns(loss=np.array(steeper)))
    by_name = {forecast.approach: forecast for forecast in forecasts(frame, of_steep, AHEAD)}
    best = truth.best_params(float(AHEAD))
    loss = truth.loss(best, float(AHEAD) / 6 / best)
    surface, combined = by_name["surface"], by_name[COMBINED]
    assert surface.loss.value > 1.01 * loss
    assert surface.weight < 0.05
    assert combined.loss.value == pytest.approx(loss, rel=0.01)
    assert combined.loss.low < loss < combined.loss.high


def test_a_frozen_law_says_the_same_after_a_round_trip_through_a_document(at_ten_times, truths):
    flops = float(AHEAD)
    for forecast in at_ten_times.values():
        assert isinstance(forecast.law, FrozenLaw)
        again = frozen_from_json(json.loads(json.dumps(forecast.law.as_json())))
        best = truths["chinchilla"].best_params(flops)
        before, after = (law.loss_of(best, flops / 6 / best, flops).estimate for law in (forecast.law, again))
        assert after.value == pytest.approx(before.value, rel=1e-6)
        assert (after.low, after.high) == pytest.approx((before.low, before.high), rel=1e-6)


def test_a_forecast_is_scored_at_what_was_trained_and_not_at_its_own_shape(at_ten_times, truths):
    truth, flops = truths["chinchilla"], float(AHEAD)
    params = 1.6 * truth.best_params(flops)
    loss = truth.loss(params, flops / 6 / params)
    cell = TrainedCell(cell_id="a", params=params, tokens=flops / 6 / params, flops=flops, loss=loss)
    combined = at_ten_times[COMBINED]
    result = score(combined.law, combined.noise, cell, combined.resampling)
    assert result.of_run
    assert result.covered
    assert abs(result.error) < 0.01
    assert abs(result.in_widths) < 1
    worse = score(combined.law, combined.noise, TrainedCell(**{**vars(cell), "loss": 1.1 * loss}), combined.resampling)
    assert not worse.covered
    assert worse.in_widths < -1


def test_one_more_run_needs_a_second_seed(planted, truths, at_ten_times):
    flops = float(AHEAD)
    best = truths["chinchilla"].best_params(flops)
    place = (best, flops / 6 / best, flops)
    with_seeds = at_ten_times[COMBINED]
    assert isinstance(with_seeds.run_loss_of(*place), Estimate)
    mean = with_seeds.mean_loss_of(*place)
    noisy = one_more_run(mean, RunNoise(sd=0.02, dof=5), with_seeds.resampling)
    assert noisy.high - noisy.low > 2 * (mean.estimate.high - mean.estimate.low)
    alone = forecasts(*rolled(planted(truths["chinchilla"], cell_noise=0.003)), AHEAD)[-1]
    refused = alone.run_loss_of(*place)
    assert isinstance(refused, Refusal)
    assert "second seed" in refused.sentence
    assert isinstance(alone.mean_loss_of(*place).estimate, Estimate)


def test_the_noise_of_runs_is_that_planted(planted, truths):
    table = planted(truths["chinchilla"], seeds=8, cell_noise=0.01)
    noise = run_noise(read_points(table).frame)
    assert noise.dof == 7 * 28
    assert noise.sd * table["loss"].mean() == pytest.approx(0.01, rel=0.15)


def test_a_hundredfold_is_flagged_and_beyond_it_refused_unless_forced(sound):
    assert forecasts(*sound, "900000000000000")[-1].flagged
    refused = forecasts(*sound, "9000000000000000")[-1]
    assert refused.refused
    assert refused.loss.kind is RefusalKind.EXTRAPOLATION
    assert isinstance(forecasts(*sound, "9000000000000000", forced=True)[-1].loss, Estimate)


def test_every_later_budget_is_predicted_from_every_prefix(sound):
    _, result = sound
    of_surface = [test for test in result.backtests if test.law == "surface" and test.quantity == "loss"]
    assert [(test.fitted, round(test.reach)) for test in of_surface] == [(2, 3), (2, 10), (3, 3)]
    assert [test.ahead for test in of_surface] == [True, False, True]
    assert all(abs(test.error) < 0.05 for test in of_surface)
    assert {test.law for test in result.backtests if test.quantity == "params"} == {"surface", "minima", "combined"}


def typical(belief):
    """Root of the mean of τ²."""
    return np.sqrt(np.exp(belief.log_share_t) @ belief.tau_t**2)


def test_errors_beyond_the_noise_widen_and_those_within_it_do_not():
    within = [PastError(budget=str(number), step=1.0, error=0.001, noise=0.002) for number in range(1, 4)]
    beyond = [PastError(budget=str(number), step=1.0, error=0.03, noise=0.002) for number in range(1, 4)]
    before, after_small, after_large = (law_error("loss", errors) for errors in ([], within, beyond))
    assert typical(after_small) < 2 * typical(before)
    assert typical(after_large) > 5 * typical(before)
    share = weights("loss", {"good": within, "bad": beyond, "silent": ()})
    assert share["bad"] < 1e-3
    assert share["silent"] == pytest.approx(1 / 3)
    assert sum(share.values()) == pytest.approx(1)


def test_an_arm_with_one_budget_is_refused_in_words(planted):
    table = planted(budgets=("1000000000000",))
    combined = forecasts(*rolled(table), "2000000000000")[-1]
    assert combined.refused
    assert combined.loss.sentence


def test_a_pinned_asymptote_of_the_users_is_used(planted, truths):
    study = fit_study(
        planted(truths["chinchilla"], sizes=9, cell_noise=0.002),
        FitSettings(resampling=Resampling(draws=300)),
    )
    frame = study.points.frame
    by_pin = {}
    for pin in (1.0, 1.8):
        arm = roll_study(study, asymptote=pin)["vanilla"]
        by_pin[pin] = {forecast.approach: forecast for forecast in forecasts(frame, arm, AHEAD)}["minima-pinned"].loss
    assert by_pin[1.0].value < by_pin[1.8].value


def test_a_combined_answer_is_refused_where_such_intervals_held_the_truth_too_rarely(sound, monkeypatch):
    """The simulated grids of the package, with one share lowered."""
    measured = coverage.forecast_coverage()
    low = pl.when((pl.col("approach") == COMBINED) & (pl.col("quantity") == "loss")).then(0.5).otherwise(pl.col("held"))
    monkeypatch.setattr(coverage, "forecast_coverage", lambda: measured.with_columns(held=low))
    combined = forecasts(*sound, AHEAD)[-1]
    assert isinstance(combined.loss, Refusal)
    assert "held the truth in 50% of" in combined.loss.sentence
    assert isinstance(combined.params, Estimate)
    assert isinstance(forecasts(*sound, AHEAD, forced=True)[-1].loss, Estimate)


def test_an_interval_of_one_more_run_is_refused_where_such_intervals_held_it_too_rarely(sound, monkeypatch, truths):
    flops = float(AHEAD)
    params = truths["chinchilla"].best_params(flops)
    measured = coverage.forecast_coverage().with_columns(seeds=2, sizes=9, budgets=4)
    for held, kind in ((0.5, Refusal), (0.95, Estimate)):
        lowered = measured.with_columns(quantity=pl.lit(coverage.ONE_MORE_RUN), held=pl.lit(held))
        monkeypatch.setattr(coverage, "forecast_coverage", lambda table=lowered: table)
        combined = forecasts(*sound, AHEAD)[-1]
        assert isinstance(combined.run_loss_of(params, flops / 6 / params, flops), kind)


@pytest.mark.parametrize(("held", "said"), [(0.999, True), (0.95, False)])
def test_a_combined_answer_whose_intervals_are_wider_than_they_need_be_says_so(sound, monkeypatch, held, said):
    measured = coverage.forecast_coverage()
    monkeypatch.setattr(coverage, "forecast_coverage", lambda: measured.with_columns(held=pl.lit(held)))
    combined = forecasts(*sound, AHEAD)[-1]
    assert isinstance(combined.loss, Estimate)
    assert ("they are wider than they need to be" in combined.record) == said


def test_a_law_that_alone_held_the_truth_too_rarely_says_so_in_its_record(at_ten_times):
    assert "by itself, at 10 times the largest budget" in at_ten_times["minima-power"].record
    assert "by itself" not in at_ten_times[COMBINED].record
