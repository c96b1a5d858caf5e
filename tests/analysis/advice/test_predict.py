import csv
import io
import json

import pytest

from analysis.advice.predict import predict_budget
from analysis.frontier.study import FitSettings, fit_study
from analysis.report.tables import Format, tabulate
from analysis.statistics.answers import Estimate, RefusalKind
from analysis.statistics.bootstrap import Resampling

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
