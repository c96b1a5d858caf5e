"""What a fit says first: a, N* and L* of each arm, which is best, and whether to trust it."""

import polars as pl
import pytest

from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.report.headline import headline, surface_misses
from analysis.report.text import study_as_markdown, with_cell_names
from analysis.statistics.answers import Estimate
from mor_core.units import budget_label

BOTH = FitSettings(approaches=("parabola", "surface"))


def first_lines(study: Study, count: int) -> list[str]:
    return [line for line in study_as_markdown(study).splitlines() if line][:count]


def test_the_first_six_lines_say_the_exponents_the_optima_the_best_arm_and_how_far_to_trust_it(planted):
    study = fit_study(planted(arms=("mor-2", "vanilla"), arm_gap=0.05, cell_noise=0.003))
    head, rule, mor, vanilla, best, trust = first_lines(study, 6)
    assert "a in N* ∝ C^a" in head
    assert set(rule) == {"|", "-"}
    frontiers = {each.arm: each for each in study.frontiers}
    for line, arm in ((mor, "mor-2"), (vanilla, "vanilla")):
        assert line.startswith(f"| {arm} |")
        exponent = frontiers[arm].params_law.exponent
        assert f"{exponent.value:.3f} [{exponent.low:.3f}, {exponent.high:.3f}]" in line
    (pair,) = [each for each in study.comparisons if each.budget == max((c.budget for c in study.comparisons), key=int)]
    assert isinstance(pair.gap, Estimate)
    winner = "mor-2" if pair.gap.value < 0 else "vanilla"
    assert f"{winner} is best: {abs(pair.gap.value):.3f} [" in best
    assert trust.startswith(("Trust it with care: ", "Nothing speaks against it"))
    assert "budgets are below 1e17" in trust


def test_arms_that_are_alike_are_not_ranked(planted):
    study = fit_study(planted(arms=("mor-2", "vanilla"), arm_gap=0.0, cell_noise=0.01))
    assert "mor-2 and vanilla cannot be told apart: a gap below" in headline(study, small=False)
    assert "budgets mor-2 and vanilla cannot be told apart in the mean" in headline(study, small=False)


def test_the_mean_over_budgets_is_said_where_it_tells_arms_apart(planted, truths):
    study = fit_study(planted(truths["bowl"], arms=("mor-2", "vanilla"), arm_gap=0.05, seeds=2, cell_noise=0.004))
    assert "Over 4 budgets mor-2 is better in the mean: 0.0" in headline(study, small=False)


def test_a_single_arm_is_compared_with_nothing(planted):
    text = headline(fit_study(planted(cell_noise=0.003)), small=False)
    assert "best" not in text
    assert "told apart" not in text


def test_what_is_refused_is_a_word_in_the_tables_and_a_sentence_below(planted):
    """The largest budget has its minimum beyond its sizes; the others answer."""
    table = planted(cell_noise=0.003)
    largest = table["budget"].cast(pl.Float64).max()
    cut = pl.col("budget").cast(pl.Float64) == largest
    smallest = sorted(table.filter(cut)["unique_params"].unique())[:4]
    study = fit_study(table.filter(~cut | pl.col("unique_params").is_in(smallest)))
    text = study_as_markdown(study)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert any(line.count("refused") >= 2 for line in rows)
    assert not any("refused (" in line for line in rows)
    assert text.count("refused: N*") == 1
    assert f"refused 1 of {len(study.frontiers[0].optima)} optima" in headline(study, small=False)
    answered = sorted(study.frontiers[0].optima, key=lambda optimum: int(optimum.budget))[-2].budget
    assert f"N* at {budget_label(answered)} |" in headline(study, small=False)


def test_a_study_without_a_number_says_so_first(planted):
    text = headline(fit_study(planted(shift=8)), small=True)
    assert text.startswith("**No number is supported by these runs.**")


def test_a_surface_that_misses_the_measured_minima_is_told_where_and_by_how_much(planted, truths):
    """Losses of the largest budget 5 % above the law, so that no surface of this form goes through all minima."""
    table = planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.002)
    largest = str(max(map(int, table["budget"].unique())))
    above = pl.when(pl.col("budget") == largest).then(pl.col("loss") * 1.05).otherwise(pl.col("loss"))
    (line,) = surface_misses(fit_study(table.with_columns(loss=above), BOTH))
    assert "misses the measured minima of" in line
    assert line.endswith("use the rows of the parabola there.")


def test_arms_whose_surfaces_miss_the_same_minima_share_a_sentence(planted, truths):
    table = planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.002)
    largest = str(max(map(int, table["budget"].unique())))
    above = pl.when(pl.col("budget") == largest).then(pl.col("loss") * 1.05).otherwise(pl.col("loss"))
    (arm,) = table["arm"].unique()
    both = pl.concat([table, table.with_columns(arm=pl.lit("twin"), cell_id=pl.col("cell_id") + "-twin")])
    (line,) = surface_misses(fit_study(both.with_columns(loss=above), BOTH))
    assert line.startswith(f"The surface misses the measured minima of {' and '.join(sorted([arm, 'twin']))} at")


def test_a_surface_that_goes_through_the_minima_is_not_spoken_of(planted, truths):
    study = fit_study(planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.002), BOTH)
    assert surface_misses(study) == []


@pytest.mark.parametrize("whose", ["points", "exclusions"])
def test_cells_of_this_tool_are_called_by_their_names(planted, whose: str):
    table = planted(cell_noise=0.003)
    ids = pl.Series([f"{number:064x}" for number in range(table.height)])
    table = table.with_columns(cell_id=ids)
    out = (ids[0],) if whose == "exclusions" else ()
    study = fit_study(table, FitSettings(leave_out_cells=out))
    row = table.row(0, named=True)
    name = with_cell_names(f"cell {ids[0]} is odd", study).split()[1]
    assert name.startswith(f"{row['arm']}/{row['size']}/")
    assert name.endswith(f"/{row['seed']}")
    assert not set(ids) & set(study_as_markdown(study).split())


def test_warnings_and_standing_notes_are_said_once(planted):
    text = study_as_markdown(fit_study(planted(sizes=5, cell_noise=0.003)))
    assert text.count("local slope") == 1
    assert text.count("only 5 sizes for N*") <= 1
