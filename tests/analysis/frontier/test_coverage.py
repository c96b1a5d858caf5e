"""How often intervals hold the truth, by grid: measured, tabled, and said beside a fit."""

import numpy as np
import polars as pl
import pytest

from analysis.frontier.coverage import GOAL, coverage_notes, coverage_sentence, coverage_span, measured_coverage
from analysis.frontier.study import FitSettings, fit_study
from analysis.report.text import study_as_json, study_as_markdown
from analysis.statistics.answers import Estimate
from analysis.statistics.bootstrap import Resampling
from tests.analysis.frontier import coverage_study
from tests.analysis.frontier.coverage_study import FAMILIES, GRIDS, lines, measure, table, truths

SETTINGS = FitSettings(approaches=("parabola", "surface"), resampling=Resampling(draws=100))


def test_the_planted_truths_are_what_studies_without_noise_find(monkeypatch):
    monkeypatch.setattr(coverage_study, "NOISE", 1e-6)
    grid = next(each for each in GRIDS if each.sizes == 7)
    study, truth = fit_study(table(grid, 0), SETTINGS), truths(grid)
    surfaces = [frontier for frontier in study.frontiers if frontier.approach == "surface"]
    for frontier in surfaces:
        for each in frontier.optima:
            assert each.params.value == pytest.approx(truth["N*", frontier.arm, each.budget], rel=1e-3)
            assert each.loss.value == pytest.approx(truth["L*", frontier.arm, each.budget], rel=1e-4)
    for each in study.comparisons:
        place = (each.arm, each.other, each.budget)
        if isinstance(each.gap, Estimate):
            assert each.gap.value == pytest.approx(truth["gap", *place], abs=2e-3)
            assert each.params.value == pytest.approx(truth["parameter multiplier", *place], rel=1e-2)
        if isinstance(each.compute, Estimate):
            # L* is taken as straight between budgets in log-log, where the law has an asymptote: that is off by 2 %.
            assert each.compute.value == pytest.approx(truth["compute multiplier", *place], rel=3e-2)
    for family in FAMILIES[:2]:
        assert study.recursion.phi[family.architecture].value == pytest.approx(family.phi, abs=1e-2)


@pytest.mark.slow
def test_a_grid_whose_intervals_are_too_narrow_says_so_with_the_measured_shares():
    grid = next(each for each in GRIDS if each.sizes == 6)
    study = fit_study(table(grid, 0), SETTINGS)
    notes = coverage_notes(study)
    similar = measured_coverage().filter((pl.col("sizes") == 6) & (pl.col("seeds") == 1))
    held = similar.filter(pl.col("quantity") == "N* parabola")["held"]
    assert held.min() < GOAL
    assert f"N* {held.min():.0%} to {held.max():.0%}" in notes[0]
    assert not any("between arms" in note for note in notes), "those reach the goal on such grids"
    assert "6 sizes a budget and 1 seed" in notes[0]
    sentence = coverage_sentence(study)
    assert sentence is not None
    assert sentence in study_as_markdown(study)
    assert coverage_span(study) in study_as_markdown(study).split("##")[0]
    for note in notes:
        assert note.split("shares of cases: ")[1].split(", depending")[0] in sentence
    assert study_as_json(study)["coverage"] == list(notes)


def test_a_table_unlike_any_grid_that_was_simulated_gets_no_share(planted):
    assert coverage_notes(fit_study(planted(sizes=15, step=0.1), FitSettings())) == ()
    assert coverage_notes(fit_study(planted().clear(), FitSettings())) == ()


def test_a_study_without_a_number_is_told_nothing_of_intervals(planted):
    refused = fit_study(planted(sizes=1), SETTINGS)
    assert refused.refused
    assert coverage_notes(refused) == ()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tabled_shares_are_those_of_a_new_simulation(capsys):
    grid, studies = next(each for each in GRIDS if each.name.startswith("demo: 6 sizes")), 40
    found = measure(grid, studies)
    with capsys.disabled():
        print("", *lines({grid.name: found}), sep="\n")
    tabled = measured_coverage().filter(pl.col("grid") == grid.name)
    for row in tabled.to_dicts():
        held, given = found[row["quantity"]]
        # Arms and budgets of one study are far from independent: a study counts as one trial, which is too few.
        error = 3.5 * np.sqrt(0.07 * 0.93 * (1 / studies + 1 / row["studies"]))
        assert held == pytest.approx(row["held"], abs=error), row["quantity"]
        assert given == pytest.approx(row["given"], abs=0.1), row["quantity"]
