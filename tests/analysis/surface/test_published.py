"""The surface against published reanalyses of published runs."""

import polars as pl
import pytest

from analysis.frontier.paper import paper_runs
from analysis.frontier.study import FitSettings, fit_study
from analysis.runs.column_map import parse_columns
from analysis.runs.import_table import import_table
from analysis.statistics.bootstrap import Resampling
from analysis.surface.contour import contour_of_runs, proportional_contour
from analysis.surface.draws import redraw_surface
from analysis.surface.optimum import SurfaceRules, fit_optimum
from analysis.surface.problem import plain_points
from tests.helpers.runs.published_tables import epoch_points, published


def test_epochs_240_points_reach_the_true_optimum_from_every_start():
    params, tokens, flops, loss = epoch_points()
    best = fit_optimum(plain_points(params, tokens, loss), SurfaceRules())
    assert best.objective <= 0.00101827401782
    assert best.law.alpha == pytest.approx(0.347310, abs=1e-6)
    assert best.law.beta == pytest.approx(0.367172, abs=1e-6)
    assert pytest.approx(1.817218, abs=1e-6) == best.law.E
    assert pytest.approx(477.825868, rel=1e-6) == best.law.A
    assert pytest.approx(2143.417354, rel=1e-6) == best.law.B
    assert best.share_reached == 1.0
    assert best.gradient_norm < 1e-4
    contour = contour_of_runs(params, tokens, flops)
    assert contour.factor == pytest.approx(6)
    assert best.law.n_opt(5.76e23, contour) == pytest.approx(73.19e9, rel=1e-3)


def test_epochs_bootstrap_errors_are_reproduced():
    params, tokens, _, loss = epoch_points()
    best = fit_optimum(plain_points(params, tokens, loss), SurfaceRules())
    keys = tuple(str(index) for index in range(len(loss)))
    draws = redraw_surface(best, keys, "chinchilla", Resampling(draws=4000))
    assert draws.method == "weights"
    assert draws.law.alpha.std() == pytest.approx(0.01540, rel=0.05)
    assert draws.law.beta.std() == pytest.approx(0.02060, rel=0.05)
    assert draws.law.E.std() == pytest.approx(0.02566, rel=0.05)


@pytest.mark.parametrize(
    ("delta", "exponent"), [(1e-4, 0.5126), (1e-3, 0.5139), (1e-2, 0.5184), (float("inf"), 0.5298)]
)
def test_the_exponent_follows_delta_as_measured(delta, exponent):
    params, tokens, _, loss = epoch_points()
    best = fit_optimum(plain_points(params, tokens, loss), SurfaceRules(delta=delta))
    assert best.law.exponent == pytest.approx(exponent, abs=1e-4)


def test_gadres_extrapolation_errors_are_reproduced_from_five_runs():
    runs = published("gadre_overtraining/runs.csv").filter(pl.col("dataset_name") == "rpj")
    small = pl.col("model_name").str.contains("d=96_|d=512_|d=576_|d=1024_")
    widest = pl.col("model_name").str.contains("d=96_")
    five = runs.filter(((pl.col("tok_mult") == 20) & small) | ((pl.col("tok_mult") == 320) & widest))
    columns = (five[name].to_numpy().astype(float) for name in ("N", "D", "loss_c4_val"))
    rules = SurfaceRules(tied=True, delta=float("inf"), residual="loss")
    law = fit_optimum(plain_points(*columns), rules).law
    for model, multiple, published_error in (("open_lm_1b", 640, 0.007103), ("open_lm_7b", 20, 0.007320)):
        large = runs.filter((pl.col("model_name") == model) & (pl.col("tok_mult") == multiple)).row(0, named=True)
        error = abs(law.loss(large["N"], large["D"]) / large["loss_c4_val"] - 1)
        assert error == pytest.approx(published_error, abs=1e-6)


def test_porians_exponent_lies_in_the_interval_and_ours_in_theirs():
    table = published("porian_refinedweb/isoflop_points.csv")
    columns = parse_columns("params=n,tokens=tokens,loss=loss,flops=flops")
    imported = import_table(table, columns)
    assert imported.on_budgets
    settings = FitSettings(approaches=("parabola", "akima"), resampling=Resampling(draws=500))
    parabola, akima = fit_study(imported.frame, settings).frontiers
    assert parabola.params_law.exponent.low <= 0.497 <= parabola.params_law.exponent.high
    assert len(akima.params_law.budgets) >= 10
    assert 0.49 <= akima.params_law.exponent.value <= 0.505


@pytest.mark.parametrize("arm", ["vanilla", "recursive-3", "mor-3"])
def test_every_start_on_the_papers_twelve_cells_of_an_arm_finds_one_optimum(arm):
    cells = paper_runs().filter(pl.col("arm") == arm)
    n, tokens, loss = (cells[name].to_numpy().astype(float) for name in ("unique_params", "tokens", "loss"))
    best = fit_optimum(plain_points(n, tokens, loss), SurfaceRules(tied=True))
    assert best.share_reached == 1.0
    assert best.law.n_opt(5e18, proportional_contour(n)) > 0
