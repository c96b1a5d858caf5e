import csv
import io
import json

import polars as pl
import pytest

from analysis.advice.forecast.forecaster import COMBINED
from analysis.advice.forecast.outlook import APPROACHES, OF_MINIMA
from analysis.advice.predict import predict_budget
from analysis.frontier.study import FitSettings, fit_study
from analysis.report.tables import Format, tabulate
from analysis.statistics.answers import Estimate
from analysis.statistics.bootstrap import Resampling
from analysis.surface.approach import surface_optimum

SETTINGS = FitSettings(approaches=("surface", "parabola"), resampling=Resampling(draws=300))


@pytest.fixture
def study(planted, truths):
    return fit_study(planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.004), SETTINGS)


def test_a_budget_ten_times_larger_is_predicted_with_the_truth_inside(study, truths):
    truth, flops = truths["chinchilla"], 3e14
    by_name = {each.approach: each for each in predict_budget(study, "300000000000000")}
    best = truth.best_params(flops)
    assert list(by_name) == [*APPROACHES, COMBINED]
    for name in ("surface", COMBINED):
        assert by_name[name].params.low < best < by_name[name].params.high
        assert by_name[name].loss.low < truth.loss(best, flops / 6 / best) < by_name[name].loss.high
    assert all(each.reach == pytest.approx(10) and not each.flagged for each in by_name.values())
    assert all(isinstance(each.loss, Estimate) for each in by_name.values()), "a law has an asymptote or a record"
    assert sum(by_name[name].weight for name in APPROACHES) == pytest.approx(1)
    assert by_name["minima-power"].weight < 0.05
    assert "one budget ahead its L* was off by" in by_name[COMBINED].record


def test_beyond_tenfold_is_flagged_and_beyond_a_hundredfold_refused_unless_forced(study):
    assert predict_budget(study, "600000000000000")[0].flagged
    refused = predict_budget(study, "6000000000000000")
    assert all(each.refused for each in refused)
    forced = predict_budget(study, "6000000000000000", forced=True)
    assert isinstance(forced[0].params, Estimate)


@pytest.mark.parametrize("budget", ["30000000000000", "5000000000000", "700000000000"])
def test_within_the_data_every_fit_answers_as_it_was_fitted(study, budget):
    answers = {each.approach: each for each in predict_budget(study, budget)}
    assert list(answers) == ["surface", "parabola"]
    fits = {each.approach: each for each in study.frontiers}
    laws = fits["parabola"].predict(budget)
    parabola, surface = answers["parabola"], answers["surface"]
    assert (parabola.params, parabola.tokens, parabola.loss) == (laws.params, laws.tokens, laws.loss)
    optimum = surface_optimum(fits["surface"].surface, budget)
    assert (surface.params, surface.loss) == (optimum.params.estimate, optimum.loss.estimate)
    assert all(each.weight is None and each.record == "" for each in answers.values())


def test_a_study_is_extrapolated_by_what_it_was_fitted_with(planted, truths):
    table = planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.004)
    for fitted, answering in ((("surface",), ["surface"]), (("parabola",), [*OF_MINIMA])):
        settings = FitSettings(approaches=fitted, resampling=Resampling(draws=300))
        assert [each.approach for each in predict_budget(fit_study(table, settings), "60000000000000")] == answering


def test_arms_are_within_or_beyond_the_data_each_for_itself(planted, truths):
    table = planted(truths["chinchilla"], arms=("a", "b"), sizes=9, step=0.2, cell_noise=0.004)
    shorter = table.filter((pl.col("arm") == "a") | (pl.col("budget") != "30000000000000"))
    answers = predict_budget(fit_study(shorter, SETTINGS), "30000000000000")
    assert [each.approach for each in answers if each.arm == "a"] == ["surface", "parabola"]
    assert [each.approach for each in answers if each.arm == "b"] == [*APPROACHES, COMBINED]


def test_the_four_formats_hold_the_same_numbers(study):
    rows = json.loads(tabulate(study, Format.json))["data"]["rows"]
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
    assert all(
        row["params"] is None and row["params_refusal"]
        for row in json.loads(tabulate(study, Format.json))["data"]["rows"]
    )
    assert "refused (too-few-points)" in tabulate(study, Format.markdown)


def test_names_with_signs_of_latex_are_escaped(planted):
    latex = tabulate(fit_study(planted(arms=("a_b&c",)), SETTINGS), Format.latex)
    assert r"a\_b\&c" in latex
