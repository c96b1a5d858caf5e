"""Surfaces, residuals, comparisons, lifetimes and curves: drawn whatever the study, with what they show as JSON."""

import json
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from analysis.figures.advice.lifetime import LifetimeStudy, plot_lifetime, study_lifetime
from analysis.figures.compare import plot_compare
from analysis.figures.curves import mean_over_seeds, smoothed
from analysis.figures.drawing import loss_name
from analysis.figures.figure_data import curves_data, figure_document, frontier_data
from analysis.figures.isoflop import plot_isoflop
from analysis.figures.layout import Sheet
from analysis.figures.surface import plot_residuals, plot_surface
from analysis.frontier.study import FitSettings, fit_study
from analysis.report.provenance import provenance_of
from analysis.report.text import study_as_json
from analysis.runs.curves import CellCurve
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from orchestrator.cli.main import app
from orchestrator.records.curves import cell_curves
from orchestrator.records.revisions import load_sweep
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides

LONG = "rw__tuned__short__const__standard__val__"
ARMS = ("mor-2", "recursive-2", "vanilla")
SETTINGS = FitSettings(approaches=("parabola", "surface"), resampling=Resampling(draws=100))
CASES = {
    "two arms": {"arms": ARMS[:2], "cell_noise": 0.01, "arm_gap": 0.05, "sizes": 5},
    "one arm, one budget": {"budgets": ("1000000000000",)},
    "one size a budget": {"sizes": 1},
}
FIGURES = [
    "curves",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("surface", "isoflop", "frontier", "residuals", "compare", "lifetime")
    ),
]


def origin(study, **changes):
    return provenance_of(study, **({"source": "a sweep", "data": "a corpus", "version": "9.9"} | changes))


def sheet(study, path, **changes):
    return Sheet(out_paths=[path], provenance=origin(study, **changes))


def draw(study, folder):
    """Everything that a table can be drawn as; svg files by name."""
    plots = {"surface": plot_surface, "residuals": plot_residuals}
    for name, plot in plots.items():
        plot(study, sheet(study, folder / f"{name}.svg"))
    plot_compare([study], sheet(study, folder / "compare.svg"))
    lifetime = study_lifetime(study, None)
    if isinstance(lifetime, LifetimeStudy):
        plot_lifetime(study, lifetime, sheet(study, folder / "lifetime.svg"))
    return {path.stem: path.read_text() for path in folder.glob("*.svg")}


@pytest.mark.parametrize("case", CASES)
def test_figures_are_drawn_whatever_the_study_and_say_where_they_come_from(planted, tmp_path, case):
    study = fit_study(planted(**CASES[case]), SETTINGS)
    for name, text in draw(study, tmp_path).items():
        assert "a sweep on a corpus" in text, name
        assert study.points.inputs_sha256[:16] in text, name
        assert f"{study.points.frame.height} cells used, 0 left out" in text, name


def test_refused_surfaces_are_words_on_the_figures_and_no_lifetime(planted, tmp_path):
    study = fit_study(planted(sizes=1), SETTINGS)
    drawn = draw(study, tmp_path)
    assert "no surface: " in drawn["surface"]
    assert "no surface: " in drawn["residuals"]
    assert "lifetime" not in drawn
    assert isinstance(study_lifetime(study, None), Refusal)


def test_an_empty_table_draws_words(planted, tmp_path):
    drawn = draw(fit_study(planted().clear(), SETTINGS), tmp_path)
    assert "no points to draw" in drawn["surface"]
    assert "nothing to compare" in drawn["compare"].replace("\n", " ")


def test_reasons_for_rows_left_out_are_counted_in_the_provenance(planted):
    table = planted(sizes=5)
    reasons = {0: ("diverged", "diverged"), 1: ("pending", ""), 2: ("pending", "")}
    rows = [
        row | ({"status": reasons[number][0], "reason": reasons[number][1]} if number in reasons else {})
        for number, row in enumerate(table.to_dicts())
    ]
    study = fit_study(pl.DataFrame(rows, schema_overrides={"reason": pl.Utf8}))
    assert origin(study).left_out == {"diverged": 1, "pending": 2}
    assert "3 left out (diverged 1, pending 2)" in origin(study).lines()[0]


def test_a_name_with_dollar_signs_is_no_formula(planted, tmp_path):
    study = fit_study(planted(arms=("$\\frac{a}$", "vanilla"), sizes=5), SETTINGS)
    plot_surface(study, sheet(study, tmp_path / "surface.png", source="$\\frac{x}$"))
    assert (tmp_path / "surface.png").stat().st_size > 10_000


def test_a_lifetime_moves_to_smaller_models_as_more_is_served(planted, truths):
    study = fit_study(planted(truths["chinchilla"], sizes=9, cell_noise=0.004), SETTINGS)
    found = study_lifetime(study, None)
    params = [each.answer.params.value for each in found.places]
    assert all(later < earlier for earlier, later in pairwise(params))
    surface = study.frontiers[1].surface
    assert found.target == pytest.approx(surface.law.l_opt(surface.largest_flops, surface.contour))
    assert study_lifetime(study, 1.0).refused


def test_a_number_of_tokens_served_is_a_place_of_its_own_and_is_marked(planted, truths, tmp_path):
    table = planted(truths["chinchilla"], sizes=7, cell_noise=0.004)
    path = tmp_path / "runs.csv"
    table.select(N="unique_params", D="tokens", L="loss", C=pl.col("budget").cast(pl.Float64)).write_csv(path)
    where = ["--table", path, "--columns", "params=N,tokens=D,loss=L,flops=C", "--out", tmp_path / "drawn"]
    done = run("plot", "lifetime", *where, "--served-tokens", "3e9")
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "drawn" / "lifetime.json").read_text())["data"]
    assert data["served_tokens"] == 3e9
    assert [place["served"] for place in data["places"]].count(3e9) == 1


@pytest.mark.parametrize("verb", [("lifetime", "--served-tokens", "1e9"), ("plot", "lifetime")])
@pytest.mark.parametrize("loss", ["nan", "inf", "0", "-1"])
def test_a_loss_that_is_none_is_a_usage_error(verb, loss, tmp_path):
    done = run(*verb, "--target-loss", loss, "--results", tmp_path)
    assert done.exit_code == 2
    assert "expected a number above 0" in done.output


def test_the_line_through_a_curve_follows_it_to_its_last_step_and_leaves_noise_out():
    tokens = 512.0 * np.arange(1, 1001)
    truth = 3 + 2 / np.sqrt(tokens / 512) - 0.4 * np.clip((tokens / tokens[-1] - 0.8) / 0.2, 0, 1)
    noise = 0.1 * np.random.default_rng(5).standard_normal(1000)
    line = smoothed(tokens, truth + noise)
    assert np.abs(line[-1] - truth[-1]) < 0.06, "no lag where it falls up to its end"
    assert np.std((line - truth)[100:]) < 0.25 * np.std(noise)
    assert smoothed(tokens[:2], truth[:2]) == pytest.approx(truth[:2])
    assert smoothed(tokens[:1], truth[:1]) == pytest.approx(truth[:1])


def test_a_straight_line_in_ln_tokens_is_left_as_it_is():
    tokens = np.geomspace(1e4, 1e6, 300)
    loss = 9 - 0.5 * np.log(tokens)
    assert smoothed(tokens, loss) == pytest.approx(loss)


def curve(seed, loss, **changes):
    tokens = 1000.0 * np.arange(1, len(loss) + 1)
    given = {"cell": f"a/10k/8e10/{seed}", "arm": "a", "size": "10k", "params": 1e4, "budget": "80000000000"}
    given |= {"tokens": tokens, "loss": np.array(loss), "cooldown_from": None, "final_loss": loss[-1]}
    return CellCurve(**(given | changes))


def test_seeds_are_drawn_as_their_mean_and_one_that_stopped_early_is_left_out_of_it():
    curves = [curve(0, [5.0, 4.0, 3.0]), curve(1, [6.0, 5.0, 4.0]), curve(2, [9.0], final_loss=None)]
    (mean,) = mean_over_seeds(curves)
    assert mean.loss.tolist() == [5.5, 4.5, 3.5]
    assert mean.final_loss == 3.5
    assert len(mean_over_seeds([*curves, curve(0, [5.0], size="13k")])) == 2


def laid_out(plot, monkeypatch, study, **options):
    """A figure as it is written, and its legend."""
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    plot(study, Sheet(out_paths=[Path("drawn.png")], **options))
    (legend,) = figures[0].legends
    return figures[0], legend.get_window_extent()


@pytest.mark.parametrize("width", [None, 3.25, 6.75])
@pytest.mark.parametrize("plot", [plot_isoflop, plot_surface, plot_residuals], ids=["isoflop", "surface", "residuals"])
def test_the_one_legend_lies_below_all_panels_and_above_the_foot(planted, monkeypatch, plot, width):
    study = fit_study(planted(arms=("mor-2", LONG), sizes=7, cell_noise=0.004), SETTINGS)
    figure, legend = laid_out(plot, monkeypatch, study, provenance=origin(study), width=width)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert legend.y1 <= min(axes.get_tightbbox().y0 for axes in panels if axes.get_label() != "<colorbar>")
    assert all(text.get_window_extent().y1 < legend.y0 for text in figure.texts if "cells used" in text.get_text())
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1
    assert width is None or figure.get_figwidth() == width


def test_a_comparison_says_a_word_where_a_column_would_be_empty_and_shows_the_mean_gap(planted, tmp_path):
    table = planted(arms=("mor-2", "vanilla"), sizes=7, cell_noise=0.004)
    study = fit_study(table, SETTINGS)
    plot_compare([study], Sheet(out_paths=[tmp_path / "compare.svg"]))
    assert "mean gap over budgets, 95% interval" in (tmp_path / "compare.svg").read_text()
    refusal = Refusal(kind=RefusalKind.NO_OPTIMUM, sentence="none.")
    first, *others = study.comparisons
    bare = replace(study, comparisons=(replace(first, gap=refusal, compute=refusal, params=None), *others))
    plot_compare([bare], Sheet(out_paths=[tmp_path / "bare.svg"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # As where words are longer than a panel is high.
        plot_compare([bare], Sheet(out_paths=[tmp_path / "bare-double.svg"], width=6.75))
    text = (tmp_path / "bare.svg").read_text()
    assert text.count("none: no supported optimum") == 3
    assert "none: no supported optimum" not in (tmp_path / "compare.svg").read_text()


def test_losses_of_this_tool_have_names_and_those_of_a_table_their_column(planted):
    study = fit_study(planted(sizes=5), SETTINGS)
    assert loss_name(study) == "causal loss"
    assert loss_name(fit_study(planted(sizes=5), replace(SETTINGS, loss_column="loss_topk"))) == (
        "top-k loss (looks ahead)"
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two arms, seven sizes, three budgets, one minimum at an edge."""
    planted = PlantedSweep(store=Store(root=tmp_path_factory.mktemp("results")))
    names = ["10k", "13k", "23k", "35k", "51k", "70k", "115k"]
    planned = planted.plan(SNAPSHOT, overrides(budgets=["8e10", "1.6e11", "3.2e11"], sizes={"names": names}))
    planted.publish(planned)
    return planted


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_of_a_sweep_is_a_picture_a_vector_file_and_its_data(sweep, figure):
    done = run("plot", figure, sweep.name, "--results", sweep.store.root)
    assert done.exit_code == 0, done.output
    folder = sweep.store.sweep_folder(sweep.name) / "figures"
    assert (folder / f"{figure}.png").stat().st_size > 20_000
    assert "planted on data snapshot" in (folder / f"{figure}.svg").read_text()
    document = json.loads((folder / f"{figure}.json").read_text())
    assert (document["schema"], document["figure"]) == ("mor-sweep.figure/1", figure)
    assert document["provenance"]["num_used"] == 42
    assert document["provenance"]["budget_convention"] == "exact"
    assert document["data"]


def test_a_figure_for_a_paper_is_also_a_pdf_under_a_name_of_its_own(sweep):
    done = run("plot", "isoflop", sweep.name, "--results", sweep.store.root, "--format", "pdf", "--width", "single")
    assert done.exit_code == 0, done.output
    folder = sweep.store.sweep_folder(sweep.name) / "figures"
    assert {path.suffix for path in folder.glob("isoflop-single.*")} == {".png", ".svg", ".pdf", ".json"}
    assert (folder / "isoflop-single.pdf").read_bytes().startswith(b"%PDF")
    assert run("plot", "isoflop", sweep.name, "--width", "triple").exit_code == 2


def test_the_data_of_a_figure_are_the_numbers_of_the_fit(planted):
    study = fit_study(planted(sizes=5, cell_noise=0.004))
    document = json.loads(json.dumps(figure_document("frontier", origin(study), frontier_data(study))))
    fitted = json.loads(json.dumps(study_as_json(study)))["frontiers"]
    assert [each["optima"] for each in document["data"]] == [each["optima"] for each in fitted]


def test_curves_end_at_the_cells_own_tokens_and_losses(sweep):
    loaded = load_sweep(sweep.store, sweep.name)
    curves = json.loads(json.dumps(curves_data(cell_curves(sweep.store, loaded, "loss"))))
    assert len(curves) == 42
    one = next(each for each in curves if each["cell"] == "mor-2/23k/8e10/0")
    assert one["final_loss"] == pytest.approx(one["line"][-1], abs=0.5)
    assert one["tokens"] == sorted(one["tokens"])


@pytest.mark.parametrize("figure", ["surface", "residuals", "compare", "lifetime", "curves"])
def test_what_cannot_be_drawn_ends_with_5_and_a_reason(tmp_path, figure):
    planted = PlantedSweep(store=Store(root=tmp_path))
    planted.plan(SNAPSHOT, overrides(budgets=["8e10"], sizes={"names": ["10k"]}))
    done = run("plot", figure, planted.name, "--results", tmp_path)
    assert done.exit_code == 5, done.output
    assert "refused: " in done.output


def test_an_outside_table_is_drawn_into_a_folder(planted, tmp_path):
    path = tmp_path / "runs.csv"
    table = planted(sizes=7, cell_noise=0.004)
    table.select(N="unique_params", D="tokens", L="loss", C=pl.col("budget").cast(pl.Float64)).write_csv(path)
    columns = "params=N,tokens=D,loss=L,flops=C"
    done = run("plot", "surface", "--table", path, "--columns", columns, "--out", tmp_path / "drawn")
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "drawn" / "surface.json").read_text())
    assert document["provenance"]["source"] == "runs.csv"
    assert isinstance(document["data"][0]["surface"]["law"]["alpha"], float)
    assert Estimate.__name__ not in json.dumps(document)
