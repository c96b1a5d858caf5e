"""The figure of repeated text: what it draws of laws, of costs run by run, and where there is neither."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.figures.advice.repeated import arms_of_repetition, plot_repeated, repeated_data
from analysis.figures.layout import Sheet
from analysis.frontier.study import FitSettings, fit_study
from analysis.page.charts import charts_of
from analysis.report.provenance import provenance_of
from analysis.runs.column_names import complete_columns
from analysis.runs.import_table import import_table
from analysis.statistics.answers import Refusal
from analysis.statistics.bootstrap import Resampling
from tests.helpers.runs.repeated_runs import one_budget, planted_law, repeated_table

SETTINGS = FitSettings(approaches=("surface",), resampling=Resampling(draws=100))


def study_of(table):
    return fit_study(import_table(table, complete_columns(table, {})).frame, SETTINGS)


@pytest.fixture(scope="module")
def with_law():
    return study_of(repeated_table(planted_law("overfitting", 0.02)))


def test_a_law_is_drawn_through_its_runs_with_an_optimum_for_every_corpus(with_law, tmp_path):
    (shown,) = arms_of_repetition(with_law, "10000000000000000")
    assert shown.source == "law (overfitting)"
    for track in shown.tracks:
        law = np.interp(np.log(track.passes_n), np.log(track.line_passes_m), track.line_loss_m)
        assert law == pytest.approx(track.loss_n, rel=0.01)
    sizes = [optimum.params.estimate.value for optimum in shown.optima]
    assert sizes[0] < 0.9 * sizes[-1]
    assert sizes[-1] == pytest.approx(shown.fresh_params, rel=0.1)
    assert {optimum.budget for optimum in shown.optima} == {"10000000000000000"}
    provenance = provenance_of(with_law, source="runs.csv", data="", version="9.9")
    plot_repeated(with_law, [shown], Sheet(out_paths=[tmp_path / "repeated.svg"], provenance=provenance))
    assert (tmp_path / "repeated.svg").stat().st_size > 10_000
    charts = {chart["id"].split("-")[0] for chart in charts_of(with_law, [])}
    assert {"passes", "corpus"} <= charts


def test_one_budget_shows_the_cost_and_why_there_is_no_optimum(tmp_path):
    study = study_of(one_budget())
    arms = arms_of_repetition(study)
    assert [shown.arm for shown in arms] == ["looped", "vanilla"]
    for shown, data in zip(arms, repeated_data(arms), strict=True):
        assert isinstance(shown.optima, Refusal)
        assert len(shown.tracks) == 3
        assert all(track.line_loss_m[0] == pytest.approx(track.fresh_loss) for track in shown.tracks)
        assert data["optima"]["refusal"] == "not-identified"
    plot_repeated(study, arms, Sheet(out_paths=[tmp_path / "narrow.svg"], width=3.25))
    assert (tmp_path / "narrow.svg").exists()


def test_a_study_without_repeats_says_so(with_law, tmp_path):
    plain = replace(with_law, repeated={}, excess={})
    assert arms_of_repetition(plain) == []
    plot_repeated(plain, [], Sheet(out_paths=[tmp_path / "none.svg"]))
    assert (tmp_path / "none.svg").exists()
