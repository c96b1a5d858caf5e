"""Forms of the second step: planted curves are recovered, and the rule chooses what it says it does."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from tests.analysis.advice.tasks.ladder_forms import (
    AUTHORS,
    FORMS,
    OURS,
    SIZES,
    Form,
    Sigmoid,
    chosen,
    fit_form,
    missed,
    smoothed,
    standings,
)

CHANCE = 0.25


def rows_of(curve: Sigmoid, runs: int = 16, of_run: int = 1) -> pl.DataFrame:
    """Rows on a curve, from 1.4 down to 0.7 bits per byte, four runs a size."""
    bits_n = np.linspace(1.4, 0.7, runs * of_run)
    return pl.DataFrame(
        {
            "size": np.repeat(SIZES, runs * of_run // len(SIZES)),
            "bits": bits_n,
            "score": curve.score(bits_n),
            "of_run": np.full(runs * of_run, of_run),
        }
    )


@pytest.mark.parametrize("form", [form for form in FORMS if not form.has_ideal], ids=lambda form: form.name)
def test_a_form_recovers_a_curve_of_its_own_shape(form: Form) -> None:
    floor = 0.2 if form.is_floor_free else CHANCE
    top = 0.8 if form.is_top_free else 1.0
    curve = Sigmoid(floor=floor, top=top, midpoint=0.85, slope=7.0)
    fitted = fit_form(form, rows_of(curve, of_run=3), CHANCE)
    assert (fitted.floor, fitted.top, fitted.midpoint, fitted.slope) == pytest.approx((floor, top, 0.85, 7.0), abs=1e-4)


def test_the_authors_form_recovers_a_curve_that_passes_through_all_right_at_no_bits() -> None:
    curve = Sigmoid(floor=0.22, top=1.0, midpoint=0.7, slope=12.0)
    assert curve.score(np.array([0.0]))[0] == pytest.approx(1.0, abs=1e-3)
    fitted = fit_form(AUTHORS, rows_of(curve), CHANCE)
    bits_n = np.linspace(0.5, 1.4, 10)
    assert fitted.score(bits_n) == pytest.approx(curve.score(bits_n), abs=1e-3)


def test_a_weight_of_one_a_run_is_not_that_of_its_rows() -> None:
    """Two kinds of runs that contradict each other: the one with ten rows wins by rows, and neither by runs."""
    curves = [Sigmoid(floor=CHANCE, top=1.0, midpoint=midpoint, slope=6.0) for midpoint in (0.8, 1.0)]
    rows = pl.concat([rows_of(curves[0], runs=4, of_run=10), rows_of(curves[1], runs=4)])
    by_rows, by_runs = (fit_form(Form(name=weight, weight=weight), rows, CHANCE).midpoint for weight in ("row", "run"))
    assert by_rows == pytest.approx(0.8, abs=0.03)
    assert by_runs == pytest.approx(0.9, abs=0.03)


def test_a_size_left_out_does_not_touch_the_curve() -> None:
    curve = Sigmoid(floor=CHANCE, top=1.0, midpoint=0.9, slope=7.0)
    rows = rows_of(curve)
    shifted = rows.with_columns(pl.when(pl.col("size") == "1B").then(pl.col("score") - 0.1).otherwise("score"))
    error_n = missed(OURS, {"final": shifted}, ("1B",), "1B", CHANCE)
    assert error_n == pytest.approx(np.full(4, 0.1), abs=1e-5)


def test_smoothing_skips_a_tenth_and_averages_what_has_been() -> None:
    run = pl.DataFrame({"tokens": range(20), "bits": np.arange(20.0), "score": np.arange(20.0) / 20})
    rows = smoothed(run)
    assert rows["tokens"].to_list() == list(range(2, 20))
    assert rows["bits"].to_list()[:6] == [2.0, 2.5, 3.0, 3.5, 4.0, 5.0]
    assert rows["bits"][-1] == 17.0


def blocks_of(size_of: Callable[[Form, str, str], float]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"form": form.name, "task": task, "left_out": size, "met": size, "mean_size": size_of(form, task, size)}
            for form in FORMS
            for task in ("a", "b", "c", "d", "e")
            for size in SIZES
        ]
    )


def test_the_rule_chooses_a_form_that_is_better_everywhere_and_the_best_of_two() -> None:
    sizes = {FORMS[1].name: 0.7, FORMS[3].name: 0.5}
    winner = chosen(standings(blocks_of(lambda form, task, size: sizes.get(form.name, 1.0))))
    assert winner is not None
    assert winner.form == FORMS[3].name
    assert winner.gain == pytest.approx(0.5)


@pytest.mark.parametrize(
    "size_of",
    [
        pytest.param(lambda form, task, size: 1.0, id="all alike"),
        pytest.param(lambda form, task, size: 1.0 if form is OURS else 0.9, id="by too little"),
        pytest.param(lambda form, task, size: 0.1 if form is not OURS and task in "abc" else 1.0, id="three tasks"),
        pytest.param(lambda form, task, size: 0.1 if form is not OURS and size == "1B" else 1.0, id="the largest only"),
    ],
)
def test_the_rule_chooses_none_where_forms_are_alike(size_of: Callable[[Form, str, str], float]) -> None:
    assert chosen(standings(blocks_of(size_of))) is None
