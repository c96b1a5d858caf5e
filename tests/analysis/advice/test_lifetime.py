"""The cheapest model over its lifetime, in FLOPs."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize_scalar

from analysis.advice.lifetime import Lifetime, lifetime_optimum, lifetime_study, verdicts
from analysis.advice.serving import depth_ratios
from analysis.frontier.study import FitSettings, fit_study
from analysis.report.lifetimes import lifetime_notes, tabulate_lifetime
from analysis.report.tables import Format
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from mor_core.units import short_power

SETTINGS = FitSettings(approaches=("surface",), resampling=Resampling(draws=300))


@pytest.fixture(scope="module")
def study(planted, truths):
    return fit_study(planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.004), SETTINGS)


def test_the_longer_a_model_serves_the_smaller_it_should_be(study, truths):
    truth = truths["chinchilla"]
    surface = study.frontiers[0].surface
    target = 8.0
    served = (0.0, 1e8, 1e9)
    answers = [lifetime_optimum(surface, target, tokens, "6nd") for tokens in served]
    assert all(isinstance(each, Lifetime) for each in answers)
    sizes = [each.params.value for each in answers]
    assert all(each.params.low < each.params.value < each.params.high for each in answers)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.7 * sizes[0]
    for each, tokens in zip(answers, served, strict=True):
        assert truth.loss(each.params.value, each.tokens.value) == pytest.approx(target, rel=5e-3)
        assert each.total.value == pytest.approx(each.training.value + each.serving.value)
        assert each.serving.value == pytest.approx(2 * each.params.value * tokens, rel=1e-2)
        # No other size reaches the target for less.
        others = each.params.value * np.exp(np.linspace(-1, 1, 41))
        left = target - surface.law.E - surface.law.A / others**surface.law.alpha
        others, left = others[left > 0], left[left > 0]
        data = (surface.law.B / left) ** (1 / surface.law.beta)
        assert each.total.value <= (6 * others * data + 2 * others * tokens).min() * 1.001


def test_nothing_served_is_the_compute_optimum(study):
    surface = study.frontiers[0].surface
    answer = lifetime_optimum(surface, 8.0, 0.0, "6nd")
    assert surface.law.n_opt(answer.training.value, surface.contour) == pytest.approx(answer.params.value, rel=0.1)


def test_a_loss_below_the_asymptote_is_refused(study):
    surface = study.frontiers[0].surface
    answer = lifetime_optimum(surface, surface.law.E * 0.9, 1e9, "6nd")
    assert isinstance(answer, Refusal)
    assert answer.kind is RefusalKind.EXTRAPOLATION


def test_the_cheapest_arm_is_named_with_an_interval_on_what_the_others_cost(planted, truths):
    truth = truths["chinchilla"]
    table = planted(truth, arms=("mor-2", "vanilla"), sizes=9, step=0.2, cell_noise=0.003, arm_gap=0.3)
    study = fit_study(table, SETTINGS)
    answers = lifetime_study(study, 8.0, 1e8)
    (verdict,) = verdicts(answers)
    assert verdict.least != verdict.arm
    assert verdict.ratio.value == pytest.approx(answers[verdict.arm].total.value / answers[verdict.least].total.value)
    assert 1.0 < verdict.ratio.low < verdict.ratio.value < verdict.ratio.high
    alike = replace(verdict, ratio=replace(verdict.ratio, low=0.9))
    assert "no difference seen" in alike.sentence


def test_the_formats_of_a_lifetime_hold_the_same_numbers(study):
    answers = lifetime_study(study, 8.0, 1e6)
    answers["other"] = Refusal(kind=RefusalKind.TOO_FEW_POINTS, sentence="too few.")
    total = answers["vanilla"].total.value
    (row, refused) = csv.DictReader(io.StringIO(tabulate_lifetime(answers, 8.0, 1e6, Format.csv)))
    assert float(row["total"]) == total
    assert refused["refusal"] == "too-few-points"
    document = json.loads(tabulate_lifetime(answers, 8.0, 1e6, Format.json))
    assert document["data"]["arms"]["vanilla"]["total"]["value"] == total
    assert document["data"]["served_tokens"] == 1e6
    for form in (Format.markdown, Format.latex):
        assert short_power(total) in tabulate_lifetime(answers, 8.0, 1e6, form)
    assert "other: refused: too few." in lifetime_notes(answers)


def test_what_a_served_token_costs_follows_the_depth_that_was_realised(study):
    rows = [("mor-2", 1000.0, ratio * 1000 / 3) for ratio in (0.7, 0.8, 0.9)] + [("vanilla", 1000.0, 1000 / 3)]
    runs = pl.DataFrame(
        [
            {"arm": arm, "flops_exact": f"{10 * flops:.0f}", "tokens": 10, "forward_flops_per_token": realised}
            for arm, flops, realised in rows
        ]
    )
    assert depth_ratios(runs) == pytest.approx({"mor-2": 0.8, "vanilla": 1.0})
    assert depth_ratios(runs.select("arm")) == {}
    surface = study.frontiers[0].surface
    target = surface.law.l_opt(1e13, surface.contour)
    shallow, planned = (lifetime_optimum(surface, target, 1e9, "exact", ratio) for ratio in (0.8, 1.0))
    fewer = lifetime_optimum(surface, target, 0.8e9, "exact")
    assert shallow.total.value == pytest.approx(fewer.total.value)
    assert shallow.total.value < planned.total.value


def fine_solution(surface, target, served):
    """(N, D) of least training and serving FLOPs, over the share of the loss above E that is left to D."""
    law = surface.law

    def shape(t):
        share = 1 / (1 + np.exp(-t))
        rest = target - law.E
        return (law.A / ((1 - share) * rest)) ** (1 / law.alpha), (law.B / (share * rest)) ** (1 / law.beta)

    def total(t):
        n, d = shape(t)
        return float(np.log(surface.contour.flops_per_token(np.array([n]))[0] * (d + served / 3)))

    coarse = np.linspace(-20, 5, 2001)
    start = coarse[np.argmin([total(t) for t in coarse])]
    bounds = (start - 0.02, start + 0.02)
    return shape(minimize_scalar(total, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)


def test_next_to_the_smallest_model_that_reaches_a_loss_the_answer_is_that_of_a_fine_search(study):
    surface, target = study.frontiers[0].surface, 8.0
    served = np.geomspace(1e8, 1e15, 15)
    answers = [lifetime_optimum(surface, target, tokens, "6nd", forced=True) for tokens in served]
    for answer, tokens in zip(answers, served, strict=True):
        params, data = fine_solution(surface, target, tokens)
        assert answer.params.value == pytest.approx(params, rel=1e-4)
        assert answer.tokens.value == pytest.approx(data, rel=1e-3)
    # Served tokens are a geometric series, and ln D nears a straight line in their logarithm: without a kink.
    steps = np.diff(np.log([answer.tokens.value for answer in answers]))
    assert np.all(np.diff(steps) > 0)
    assert np.all(np.diff(steps, n=2) < 0)
    assert len({answer.params.high for answer in answers}) == len(answers)
