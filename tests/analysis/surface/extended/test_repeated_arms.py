"""Laws of repeated text of two arms beside each other, and over passes that they had not seen."""

from dataclasses import replace

import pytest

from analysis.frontier.study import FitSettings, backtest_repeats, fit_study
from analysis.report.backtests import repeats_as_markdown
from analysis.runs.column_names import complete_columns
from analysis.runs.import_table import import_table
from analysis.statistics.answers import Refusal
from analysis.statistics.bootstrap import Resampling
from analysis.surface.extended.repeated import RepeatedFit
from analysis.surface.extended.repeated_arms import RepetitionGap, compare_repetition
from tests.helpers.paths import ROOT
from tests.helpers.runs.repeated_runs import KAPPAS, planted_law, repeated_table, two_arms

SETTINGS = FitSettings(approaches=("surface",), resampling=Resampling(draws=100))
PLANTED = KAPPAS["looped"] - KAPPAS["vanilla"]


def run_table(table):
    return import_table(table, complete_columns(table, {})).frame


@pytest.fixture(scope="module")
def study():
    return fit_study(run_table(two_arms()), SETTINGS)


def test_the_cost_of_two_arms_differs_by_what_was_planted(study):
    (by_law,) = [gap for gap in study.repetition if gap.quantity == "kappa"]
    assert by_law.gap.low <= PLANTED <= by_law.gap.high < 0
    assert by_law.sentence.startswith("repetition costs looped less than vanilla; difference in κ of their laws: -0.0")
    by_runs = {gap.quantity: gap.gap for gap in study.repetition}
    assert by_runs["excess kappa"].low <= PLANTED <= by_runs["excess kappa"].high < 0


def test_an_arm_beside_itself_cannot_be_told_apart(study):
    fit = study.repeated["vanilla"]
    (gap,) = compare_repetition({"one": replace(fit, arm="one"), "other": replace(fit, arm="other")}, {}, 0.95)
    assert gap.gap.value == 0
    assert "what repetition costs one and other cannot be told apart" in gap.sentence


def test_constants_of_other_forms_are_not_compared(study):
    fit = study.repeated["vanilla"]
    assert isinstance(fit, RepeatedFit)
    decayed = replace(fit, arm="other", form="data decay")
    (gap,) = compare_repetition({"one": replace(fit, arm="one"), "other": decayed}, {}, 0.95)
    assert isinstance(gap.gap, Refusal)
    assert "whose constants mean different things" in gap.sentence


def test_a_larger_r_star_means_that_repetition_costs_less(study):
    gap = study.repetition[0].gap
    falls = replace(gap, value=-2.0, low=-3.0, high=-1.0)
    for quantity, more in (("kappa", "less"), ("R_D", "more")):
        shown = RepetitionGap(arm="one", other="other", quantity=quantity, gap=falls)
        assert shown.sentence.startswith(f"repetition costs one {more} than other")


def test_the_table_that_pages_show_is_the_planted_one():
    path = ROOT / "results" / "published" / "repeated" / "planted.csv"
    assert path.read_text() == two_arms().write_csv()


def test_the_planted_form_predicts_passes_that_it_has_not_seen():
    table = repeated_table(planted_law("data decay", 12.0), corpora=(3e6, 1e7, 3e8), passes=(0.5, 1, 4, 16, 64))
    (steps,) = backtest_repeats(run_table(table), SETTINGS).values()
    last = steps[-1]
    assert last.passes == (pytest.approx(64), pytest.approx(64))
    assert last.most_passes == pytest.approx(16)
    assert last.best in ("data decay", "decay")
    assert last.errors["data decay"][1] < 0.01 < last.errors["fresh"][1]
    assert "of up to 16 passes, asked for 12 of 64 to 64" in repeats_as_markdown({"all runs": steps})


def test_passes_that_are_all_alike_leave_nothing_to_predict():
    table = repeated_table(planted_law("data decay", 12.0), passes=(8,))
    (steps,) = backtest_repeats(run_table(table), SETTINGS).values()
    assert isinstance(steps, Refusal)
    assert "none are left to predict" in steps.sentence
    fresh = repeated_table(planted_law("data decay", 12.0), passes=(0.5, 1))
    assert backtest_repeats(run_table(fresh), SETTINGS) == {}
