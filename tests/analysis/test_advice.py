import csv
import io
import json

import numpy as np
import polars as pl
import pytest

from analysis.advice import Lifetime, lifetime_optimum, predict_budget, serving_ratios
from analysis.bootstrap import Resampling
from analysis.estimate import Estimate, Refusal, RefusalKind
from analysis.frontier import FitSettings, fit_study
from analysis.tabulate import Format, tabulate

SETTINGS = FitSettings(approaches=("surface", "parabola"), resampling=Resampling(draws=300))


@pytest.fixture
def study(planted, truths):
    return fit_study(planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.004), SETTINGS)


def test_a_budget_ten_times_larger_is_predicted_with_the_truth_inside(study, truths):
    truth, flops = truths["chinchilla"], 3e14
    surface, parabola = predict_budget(study, "300000000000000")
    best = truth.best_params(flops)
    assert surface.params.low < best < surface.params.high
    assert surface.loss.low < truth.loss(best, flops / 6 / best) < surface.loss.high
    assert surface.reach == pytest.approx(10)
    assert not surface.flagged
    assert isinstance(parabola.params, Estimate)
    assert parabola.loss.kind is RefusalKind.EXTRAPOLATION


def test_beyond_tenfold_is_flagged_and_beyond_a_hundredfold_refused_unless_forced(study):
    assert predict_budget(study, "600000000000000")[0].flagged
    refused = predict_budget(study, "6000000000000000")
    assert all(each.refused for each in refused)
    forced = predict_budget(study, "6000000000000000", forced=True)
    assert isinstance(forced[0].params, Estimate)


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


def test_the_four_formats_hold_the_same_numbers(study):
    rows = json.loads(tabulate(study, Format.json))
    assert len(rows) == 2 * (4 + 1)
    read = list(csv.DictReader(io.StringIO(tabulate(study, Format.csv))))
    assert [float(row["params"]) for row in read] == [row["params"] for row in rows]
    markdown, latex = tabulate(study, Format.markdown), tabulate(study, Format.latex)
    exponent = f"a = {rows[4]['params']:.4f}"
    assert exponent in markdown
    assert exponent in latex
    assert latex.startswith("\\begin{tabular}{lllrrr}\n\\toprule\n")
    assert len(markdown.splitlines()) == 2 + len(rows)


def test_a_refusal_leaves_its_number_empty_and_names_its_kind(planted):
    study = fit_study(planted().head(3), SETTINGS)
    assert all(row["params"] is None and row["params_refusal"] for row in json.loads(tabulate(study, Format.json)))
    assert "refused (too-few-points)" in tabulate(study, Format.markdown)


def test_names_with_signs_of_latex_are_escaped(planted):
    latex = tabulate(fit_study(planted(arms=("a_b&c",)), SETTINGS), Format.latex)
    assert r"a\_b\&c" in latex


def test_what_a_served_token_costs_follows_the_depth_that_was_realised(study):
    rows = [("mor-2", 1000.0, ratio * 1000 / 3) for ratio in (0.7, 0.8, 0.9)] + [("vanilla", 1000.0, 1000 / 3)]
    runs = pl.DataFrame(
        [
            {"arm": arm, "flops_exact": f"{10 * flops:.0f}", "tokens": 10, "forward_flops_per_token": realised}
            for arm, flops, realised in rows
        ]
    )
    ratios = serving_ratios(runs)
    assert ratios == pytest.approx({"mor-2": 0.8, "vanilla": 1.0})
    assert serving_ratios(runs.select("arm")) == {}
    surface = study.frontiers[0].surface
    target = surface.law.l_opt(1e13, surface.contour)
    shallow, planned = (lifetime_optimum(surface, target, 1e9, "exact", ratio) for ratio in (0.8, 1.0))
    fewer = lifetime_optimum(surface, target, 0.8e9, "exact")
    assert shallow.total.value == pytest.approx(fewer.total.value)
    assert shallow.total.value < planned.total.value
