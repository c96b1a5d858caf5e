"""Laws of repeated text: planted truths recovered, the simpler law preferred, and what is refused."""

import numpy as np
import polars as pl
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.report.text import study_as_json, study_as_markdown
from analysis.runs.column_names import complete_columns
from analysis.runs.import_table import import_table
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from analysis.surface.contour import proportional_contour
from analysis.surface.extended.repeated import RepeatedFit
from analysis.surface.extended.repeated_law import RepeatedPoints
from analysis.surface.extended.repetition import CONSTANTS
from analysis.surface.problem import Problem
from tests.helpers.runs.derivatives import assert_derivatives_are_those_of_differences
from tests.helpers.runs.repeated_runs import planted_law, repeated_table

SETTINGS = FitSettings(approaches=("surface",), resampling=Resampling(draws=100))
PLANTED = {"overfitting": (0.02,), "data decay": (12.0,), "decay": (15.0, 5.0)}


def study_of(table, settings=SETTINGS):
    return fit_study(import_table(table, complete_columns(table, {})).frame, settings)


def fitted(table):
    (fit,) = study_of(table).repeated.values()
    return fit


@pytest.mark.parametrize("form", PLANTED)
def test_a_planted_law_is_recognised_and_its_constants_recovered(form):
    fit = fitted(repeated_table(planted_law(form, *PLANTED[form])))
    assert isinstance(fit, RepeatedFit)
    assert fit.form == form
    for name, value in zip(CONSTANTS[form], PLANTED[form], strict=True):
        assert fit.parameters[name].value == pytest.approx(value, rel=0.1)
        assert fit.parameters[name].low <= value <= fit.parameters[name].high
    assert fit.parameters["alpha"].value == pytest.approx(0.34, abs=0.01)


def test_text_that_loses_nothing_by_repetition_gets_no_law_of_it():
    fit = fitted(repeated_table(planted_law("data decay", 1e12)))
    assert isinstance(fit, Refusal)
    assert fit.kind is RefusalKind.NOT_IDENTIFIED
    assert "told from none" in fit.sentence


def test_one_corpus_says_nothing_of_repetition():
    fit = fitted(repeated_table(planted_law("data decay", 12.0), corpora=(1e7,)))
    assert isinstance(fit, Refusal)
    assert "one corpus" in fit.sentence


@pytest.mark.parametrize(
    ("narrower", "words"),
    [
        ({"sizes": (1e5,)}, "1 distinct size"),
        ({"sizes": (1e5, 3e5), "corpora": (1e7, 3e7), "passes": (8,)}, "4 runs finished"),
    ],
)
def test_a_constant_column_and_too_few_runs_are_refused_in_a_sentence(narrower, words):
    fit = fitted(repeated_table(planted_law("data decay", 12.0), **narrower))
    assert isinstance(fit, Refusal)
    assert words in fit.sentence


def test_other_fits_do_not_see_what_repeats():
    table = repeated_table(planted_law("overfitting", 0.02))
    fresh = table.filter(pl.col("tokens") <= 4 * pl.col("unique_tokens"))
    both, alone = study_of(table), study_of(fresh)
    assert alone.repeated == {}
    assert sorted(both.points.frame["loss"].to_list()) == sorted(alone.points.frame["loss"].to_list())
    one, other = (study.frontiers[0].surface.law for study in (both, alone))
    # Runs come in another order, and a descent ends where a step would gain 1e-13 of the objective.
    assert (one.E, one.alpha, one.beta) == pytest.approx((other.E, other.alpha, other.beta), rel=1e-7)


def test_a_fit_says_and_writes_what_repetition_does():
    study = study_of(repeated_table(planted_law("overfitting", 0.02)))
    assert "## Repeated text" in study_as_markdown(study)
    written = study_as_json(study)["repeated"]["all runs"]
    assert written["form"] == "overfitting"
    assert [score["form"] for score in written["scores"]] == ["fresh", *CONSTANTS]


def test_a_small_corpus_calls_for_a_smaller_model_and_a_large_one_for_that_of_fresh_text():
    law = planted_law("overfitting", 0.02)
    contour = proportional_contour([1e5, 1e7])
    fresh = law.fresh.optimum(1e15, contour)
    small, large = (law.optimum(1e15, contour, corpus) for corpus in (1e6, 1e12))
    assert large.params_k == pytest.approx(fresh.params_k, rel=1e-3)
    assert small.params_k < fresh.params_k
    assert small.loss_k > fresh.loss_k


@pytest.mark.parametrize("form", PLANTED)
@pytest.mark.parametrize("corpus", [1e6, 1e7, 1e9])
def test_the_optimum_of_a_corpus_is_the_least_loss_along_the_contour(form, corpus):
    law, contour = planted_law(form, *PLANTED[form]), proportional_contour([1e5, 1e7])
    sizes = np.geomspace(1e3, 1e9, 4001)
    best = law.optimum(1e15, contour, corpus)
    assert best.loss_k[0] <= law.loss(sizes, contour.tokens(sizes, 1e15), corpus).min() + 1e-9


def test_fresh_text_has_the_law_of_fresh_text_in_every_form():
    for form, constants in PLANTED.items():
        law = planted_law(form, *constants)
        fresh = law.fresh.constants()
        # Half of the size that the corpus calls for: α A / N^α = β B / U^β.
        called = (fresh.alpha * fresh.A / (fresh.beta * fresh.B) * 1e8**fresh.beta) ** (1 / fresh.alpha)
        params = called / 2
        assert law.loss(params, 1e8, 1e9)[0, 0] == pytest.approx(law.fresh.loss(params, 1e8)[0], rel=1e-12)


def test_repeats_beyond_a_few_r_star_are_worth_nothing():
    law = planted_law("data decay", 5.0)
    assert law.loss(1e6, 1e7 * 500, 1e7)[0, 0] == pytest.approx(law.fresh.loss(1e6, 1e7 * 6)[0], rel=1e-9)


@pytest.mark.parametrize("form", PLANTED)
@pytest.mark.parametrize(("residual", "delta"), [("log", 0.05), ("loss", float("inf"))])
def test_the_derivatives_agree_with_differences(form, residual, delta):
    rng = np.random.default_rng(0)
    n = 12
    log_unique = rng.normal(14, 1, n)
    points = RepeatedPoints(
        form=form,
        log_params=rng.normal(13, 2, n),
        log_tokens=log_unique + rng.choice([0.0, 1.0, 3.0], n),
        log_unique=log_unique,
        loss=rng.uniform(2, 4, n),
    )
    theta = np.array([[-0.5, -0.4, 0.6, 0.3, 0.4, *np.log(PLANTED[form])]])
    problem = Problem(
        points=points,
        centre=points.centre,
        loss_kn=points.loss[None],
        weights_kn=rng.uniform(0, 2, (1, n)),
        delta=delta,
        residual=residual,
    )
    assert_derivatives_are_those_of_differences(problem, theta)
