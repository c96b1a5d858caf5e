"""What repetition costs run by run: planted costs recovered at one budget, and what is refused."""

import numpy as np
import polars as pl
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.report.text import repetition_lines, study_as_json
from analysis.runs.column_map import parse_columns
from analysis.runs.column_names import complete_columns
from analysis.runs.import_table import import_table
from analysis.runs.repeated import repeated_frame
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from analysis.surface.extended.excess import Contrast, fit_excess
from analysis.surface.extended.repeated_arms import compare_repetition
from tests.helpers.runs.repeated_runs import KAPPAS, one_budget

SETTINGS = FitSettings(approaches=("parabola", "surface"), resampling=Resampling(draws=100))
SAME = {"vanilla": 0.03, "looped": 0.03}


def run_table(table):
    columns = complete_columns(table, parse_columns("unrolled_params=unrolled"))
    return import_table(table, columns).frame


def excesses(table):
    frame = repeated_frame(run_table(table), loss_column="loss", leave_out_flags=(), leave_out_cells=())
    assert frame is not None
    return fit_excess(frame, 0.95)


def gaps(table):
    return {gap.quantity: gap for gap in compare_repetition({}, excesses(table), 0.95)}


def test_a_planted_cost_is_recovered_at_one_budget():
    fits = excesses(one_budget(noise=1e-4))
    assert fits.keys() == KAPPAS.keys()
    for arm, fit in fits.items():
        assert fit.pairs.height == 24
        assert fit.kappa.value == pytest.approx(KAPPAS[arm], rel=0.01)
        assert fit.kappa_unrolled.value == pytest.approx(KAPPAS[arm] / 2 ** (2 / 3), rel=0.01)


def test_the_excess_of_a_pair_is_a_weighted_sum_of_losses():
    table = one_budget(kappas={"vanilla": 0.03})
    (fit,) = excesses(table).values()
    frame = repeated_frame(run_table(table), loss_column="loss", leave_out_flags=(), leave_out_cells=())
    assert fit.twins_pn @ frame["loss"].to_numpy() == pytest.approx(fit.pairs["excess"].to_numpy())
    assert np.abs(fit.twins_pn.sum(axis=1)) == pytest.approx(0)


def test_an_arm_that_repetition_costs_less_is_told_and_one_that_it_costs_as_much_is_not():
    told, alike = gaps(one_budget(noise=0.002)), gaps(one_budget(kappas=SAME, noise=0.002))
    for quantity in ("excess kappa", "excess kappa unrolled", "excess"):
        assert told[quantity].gap.high < 0
        assert "repetition costs looped less than vanilla" in told[quantity].sentence
        assert alike[quantity].gap.holds_zero
        assert "cannot be told apart" in alike[quantity].sentence
    assert told["excess"].places == 12


@pytest.mark.slow
def test_intervals_hold_the_planted_cost_about_as_often_as_they_say():
    held = {"kappa": 0, "difference": 0}
    for number in range(120):
        fits = excesses(one_budget(random_seed=number, sizes=(2e4, 8e4)))
        kappas = {arm: fit.kappa.estimate(0.95) for arm, fit in fits.items()}
        held["kappa"] += kappas["vanilla"].low <= KAPPAS["vanilla"] <= kappas["vanilla"].high
        difference = fits["looped"].kappa.less(fits["vanilla"].kappa).estimate(0.95)
        held["difference"] += difference.low <= KAPPAS["looped"] - KAPPAS["vanilla"] <= difference.high
    assert all(count >= 107 for count in held.values()), held  # 114 are expected; 107 is three standard errors below.


def test_one_budget_gives_no_law_of_n_and_d_but_says_what_repetition_costs():
    study = fit_study(run_table(one_budget()), SETTINGS)
    assert all(isinstance(fit, Refusal) and "N and D move together" in fit.sentence for fit in study.repeated.values())
    assert study.says_of_repetition
    shown = repetition_lines(study)
    assert any(line.startswith("looped: loss less that of the same run on fresh text, 24 runs") for line in shown)
    written = study_as_json(study)
    assert written["excess"]["looped"]["kappa"]["low"] < KAPPAS["looped"] < written["excess"]["looped"]["kappa"]["high"]
    assert {gap["quantity"] for gap in written["repetition"]} == {"excess kappa", "excess kappa unrolled", "excess"}


def test_a_misfit_beyond_the_noise_of_seeds_widens_the_interval_of_kappa():
    table = one_budget(kappas={"vanilla": 0.03}, noise=1e-3)
    bent = table.with_columns(loss=pl.col("loss") + pl.when(pl.col("unique_tokens") == 2.5e4).then(-0.2).otherwise(0.0))
    widths = [fit.kappa.variance for one in (table, bent) for fit in excesses(one).values()]
    assert widths[1] > 10 * widths[0]


def test_without_second_seeds_the_mean_has_no_interval_and_kappa_that_of_its_residuals():
    found = gaps(one_budget(seeds=(0,), noise=0.002))
    assert isinstance(found["excess"].gap, Refusal)
    assert found["excess"].gap.kind is RefusalKind.NOISE_UNKNOWN
    assert found["excess kappa"].gap.high < 0


@pytest.mark.parametrize(
    ("narrower", "words"),
    [
        ({"sizes": (2e4,), "corpora": (1e5,), "seeds": (0,)}, "1 of its runs that repeat their text has a twin"),
        ({"sizes": (2e4,), "corpora": (1e5,)}, "2 of its runs that repeat their text have a twin"),
    ],
)
def test_too_few_pairs_are_refused_in_a_sentence(narrower, words):
    for fit in excesses(one_budget(**narrower)).values():
        assert isinstance(fit, Refusal)
        assert fit.kind is RefusalKind.TOO_FEW_POINTS
        assert words in fit.sentence


def test_a_constant_loss_is_refused_and_runs_without_a_twin_say_nothing():
    table = one_budget()
    for fit in excesses(table.with_columns(loss=pl.lit(3.0) + pl.col("params") * 0)).values():
        assert isinstance(fit, Refusal)
        assert fit.kind is RefusalKind.CONSTANT_COLUMN
    assert excesses(table.filter(pl.col("unique_tokens") < 1e9)) == {}


def test_arms_that_share_no_size_and_corpus_have_no_mean_to_compare():
    table = one_budget()
    moved = table.with_columns(
        params=pl.when(pl.col("arm") == "looped").then(pl.col("params") * 1.5).otherwise("params")
    )
    assert "no corpus at a size that both have" in gaps(moved)["excess"].sentence


def test_degrees_of_freedom_of_a_difference_lie_between_those_of_its_parts_and_their_sum():
    one, other = (Contrast(value=1.0, variance=variance, freedom=freedom) for variance, freedom in ((2.0, 5), (1.0, 9)))
    difference = one.less(other)
    assert difference.variance == 3.0
    assert 5 <= difference.freedom <= 14
