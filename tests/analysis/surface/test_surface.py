import numpy as np
import polars as pl
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from analysis.surface.contour import contour_of_runs, proportional_contour
from analysis.surface.fit import SurfaceFit, refuse_reach
from analysis.surface.law import LossSurface
from mor_core.config.sizes import SMALL_LADDER, model_config
from mor_core.flops import training_flops_per_token, unique_params
from tests.helpers.runs.shape_contours import contour_of_shapes

LAW = LossSurface(E=1.8172, A=482.0, alpha=0.3478, B=2085.0, beta=0.3658)
SURFACE = FitSettings(approaches=("surface",), resampling=Resampling(draws=300))


def surface_of(table, settings=SURFACE):
    (frontier,) = fit_study(table, settings).frontiers
    return frontier


@pytest.mark.parametrize("name", ["symmetric", "chinchilla", "asymmetric"])
def test_a_planted_surface_is_recovered_from_every_start(planted, truths, name):
    truth = truths[name]
    frontier = surface_of(planted(truth, sizes=9, step=0.2))
    law = frontier.surface.law
    assert (law.alpha, law.beta) == pytest.approx((truth.params_power, truth.tokens_power), rel=1e-3)
    assert pytest.approx(truth.bottom, abs=0.01) == law.E
    assert frontier.surface.best.share_reached == 1.0
    assert frontier.surface.residuals.explained > 0.999999
    assert frontier.params_law.law.exponent == pytest.approx(truth.exponent, abs=1e-3)
    for optimum in frontier.optima:
        assert optimum.params.value == pytest.approx(truth.best_params(float(optimum.budget)), rel=2e-3)


def test_the_minimum_along_a_contour_is_where_the_derivative_vanishes():
    proportional = proportional_contour([1e6, 1e9])
    closed = LAW.n_opt(1e20, proportional)
    ratio = (LAW.alpha * LAW.A / LAW.beta / LAW.B) ** (1 / (LAW.alpha + LAW.beta))
    assert closed == pytest.approx(ratio * (1e20 / 6) ** LAW.exponent, rel=1e-9)
    assert LAW.d_opt(1e20, proportional) == pytest.approx(1e20 / 6 / closed, rel=1e-9)


def test_real_shapes_move_the_optimum_off_six_n_d():
    configs = [model_config(size, vocab_size=4096, context_length=256) for size in SMALL_LADDER]
    shapes = contour_of_shapes(configs, "exact")
    assert shapes.factor is None
    for config in configs:
        cost = float(training_flops_per_token(config, "exact"))
        assert shapes.flops_per_token(np.array(float(unique_params(config)))) == pytest.approx(cost, rel=1e-9)
    law = LossSurface(E=1.8, A=100.0, alpha=0.34, B=277.0, beta=0.34)
    flops = 1e13
    best = law.n_opt(flops, shapes)
    around = best * np.exp(np.linspace(-1, 1, 201))
    assert (
        law.loss(best, shapes.tokens(np.array(best), flops))
        <= law.loss(around, shapes.tokens(around, flops)).min() + 1e-9
    )
    assert abs(np.log(best / law.n_opt(flops, proportional_contour([1e6])))) > 0.05


def test_the_contour_of_runs_is_the_shapes_own_where_runs_are_on_it():
    configs = [model_config(size, vocab_size=4096, context_length=256) for size in SMALL_LADDER]
    params = np.array([float(unique_params(config)) for config in configs])
    cost = np.array([float(training_flops_per_token(config, "exact")) for config in configs])
    runs = contour_of_runs(params, 1e13 / cost, np.full(len(params), 1e13))
    shapes = contour_of_shapes(configs, "exact")
    between = np.sqrt(params[1:] * params[:-1])
    assert runs.flops_per_token(between) == pytest.approx(shapes.flops_per_token(between), rel=1e-6)


def test_the_optimum_does_not_stick_to_the_shapes_that_were_trained():
    """Between its rungs the ladder rounds widths, so that lines from shape to shape have corners."""
    configs = [model_config(size, vocab_size=512, context_length=64) for size in SMALL_LADDER[1:9]]
    shapes = contour_of_shapes(configs, "exact")
    assert "a quadratic in ln N" in shapes.described
    for config in configs:
        cost = float(training_flops_per_token(config, "exact"))
        assert shapes.flops_per_token(np.array(float(unique_params(config)))) == pytest.approx(cost, rel=0.02)
    law = LossSurface(E=1.6, A=55.0, alpha=0.4, B=135.0, beta=0.4)
    budgets = np.geomspace(8e10, 3.2e11, 40)
    slopes = np.diff(np.log([law.n_opt(flops, shapes) for flops in budgets])) / np.diff(np.log(budgets))
    assert slopes.max() - slopes.min() < 0.02
    beyond = np.exp(shapes.log_params[-1] + np.array([0.0, 1.0, 2.0]))
    steps = np.diff(np.log(shapes.flops_per_token(beyond)))
    assert steps[0] == pytest.approx(steps[1]), "the slope at an end goes on"


def test_intervals_of_a_noisy_surface_hold_the_truth(planted, truths):
    truth = truths["chinchilla"]
    surface = surface_of(planted(truth, sizes=9, step=0.25, seeds=4, cell_noise=0.01)).surface
    assert surface.draws.method == "weights"
    assert surface.parameters["alpha"].low < truth.params_power < surface.parameters["alpha"].high
    assert surface.parameters["beta"].low < truth.tokens_power < surface.parameters["beta"].high
    bounds = {each.name: each.interval for each in surface.profiles}
    assert bounds["alpha"].low < truth.params_power < bounds["alpha"].high


def test_a_budget_left_out_is_predicted(planted, truths):
    surface = surface_of(planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.005)).surface
    assert [each.num_points for each in surface.held_out] == [9, 9, 9, 9]
    assert [each.extrapolates for each in surface.held_out] == [False, False, False, True]
    assert all(each.mean_size < 0.005 for each in surface.held_out)


def test_one_more_run_is_less_certain_than_the_law(planted, truths):
    surface = surface_of(planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.01)).surface
    law_k, run_k = surface.loss_draws(1e6, 1e8)
    assert np.ptp(np.percentile(run_k, [2.5, 97.5])) > np.ptp(np.percentile(law_k, [2.5, 97.5]))
    low, high = np.percentile(law_k, [2.5, 97.5])
    assert low < truths["chinchilla"].loss(1e6, 1e8) < high


def test_a_law_is_not_read_more_than_a_hundredfold_beyond_its_budgets():
    assert refuse_reach(1e21, 1.1e19, forced=False) is None
    assert refuse_reach(1.2e21, 1.1e19, forced=False).kind is RefusalKind.EXTRAPOLATION
    assert refuse_reach(1.2e21, 1.1e19, forced=True) is None


def test_tied_exponents_serve_a_table_too_small_for_two(planted, truths):
    table = planted(truths["symmetric"], sizes=3, budgets=("1000000000000", "10000000000000"), step=0.3)
    free, tied = (
        surface_of(table, FitSettings(approaches=("surface",), surface=rules, resampling=Resampling(draws=200))).surface
        for rules in (SURFACE.surface, type(SURFACE.surface)(tied=True))
    )
    assert isinstance(free, Refusal)
    assert isinstance(tied, SurfaceFit)
    assert tied.law.alpha == tied.law.beta == pytest.approx(0.34, abs=0.01)


def degenerate(planted, truths, name):
    """Tables that support no surface, and the kind of refusal of each."""
    whole = planted(truths["chinchilla"], sizes=7, step=0.2)
    match name:
        case "one width":
            chosen = whole["unique_params"][3]
            rows = [whole.filter(pl.col("unique_params") == chosen)] * 9
            table = pl.concat(rows).with_row_index("row")
            return table.with_columns(
                cell_id=pl.format("c{}", "row"),
                seed=pl.col("row").cast(pl.Int64),
                tokens=pl.col("tokens") * (pl.col("row") + 1),
            ).drop("row")
        case "one budget":
            return whole.filter(pl.col("budget") == "1000000000000")
        case "constant loss":
            return whole.with_columns(loss=pl.lit(3.0))
        case "three points":
            return whole.head(3)
        case "a maximum":
            return whole.with_columns(loss=8 - pl.col("loss") * 0.5)
        case _:
            return whole.with_columns(loss=pl.lit(3.0) + 0.3 * (pl.int_range(pl.len()) * 7919 % 13) / 13)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("one width", {RefusalKind.NOT_IDENTIFIED}),
        ("one budget", {RefusalKind.NOT_IDENTIFIED, RefusalKind.TOO_FEW_POINTS}),
        ("constant loss", {RefusalKind.DOES_NOT_FIT}),
        ("three points", {RefusalKind.TOO_FEW_POINTS}),
        ("a maximum", {RefusalKind.DOES_NOT_FIT, RefusalKind.NOT_IDENTIFIED}),
        ("scatter", {RefusalKind.DOES_NOT_FIT, RefusalKind.NOT_IDENTIFIED}),
    ],
)
def test_degenerate_tables_are_refused_with_their_kind(planted, truths, name, kinds):
    table = degenerate(planted, truths, name)
    study = fit_study(table, FitSettings(approaches=("surface", "parabola", "akima", "envelope")))
    surface = study.frontiers[0].surface
    assert isinstance(surface, Refusal), surface
    assert surface.kind in kinds
    assert all(isinstance(frontier.params_law, Refusal) for frontier in study.frontiers)


def test_one_seed_is_enough_and_says_how_it_was_redrawn(planted, truths):
    surface = surface_of(planted(truths["chinchilla"], sizes=5, step=0.25, cell_noise=0.003)).surface
    assert isinstance(surface, SurfaceFit)
    assert surface.draws.method == "parametric"


def test_an_envelope_needs_cooled_runs(planted):
    envelope = FitSettings(approaches=("envelope",))
    table = planted(sizes=9, cell_noise=0.001)
    (unknown,) = fit_study(table, envelope).frontiers
    assert {optimum.params.kind for optimum in unknown.optima} == {RefusalKind.NOT_COOLED}
    (constant,) = fit_study(table.with_columns(cooled=pl.lit(False)), envelope).frontiers
    assert {optimum.params.kind for optimum in constant.optima} == {RefusalKind.NOT_COOLED}
    (cooled,) = fit_study(table.with_columns(cooled=pl.lit(True)), envelope).frontiers
    assert all(isinstance(optimum.params, Estimate) for optimum in cooled.optima)


def test_the_spline_agrees_with_the_parabola_on_centred_sizes(planted, truths):
    settings = FitSettings(approaches=("parabola", "akima"))
    parabola, akima = fit_study(planted(truths["chinchilla"], sizes=9, step=0.1), settings).frontiers
    for ours, check in zip(parabola.optima, akima.optima, strict=True):
        assert check.params.value == pytest.approx(ours.params.value, rel=0.03)
        assert check.loss.value == pytest.approx(ours.loss.value, rel=1e-3)


def covered(estimate, truth):
    return estimate.low <= truth <= estimate.high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "seeds", "shared"), [(5, 1, 0.0), (7, 1, 0.0), (7, 1, 0.5), (7, 3, 0.5), (9, 4, 0.5)]
)
def test_surface_intervals_hold_the_truth_over_the_grids_of_sweeps(planted, truths, sizes, seeds, shared):
    truth, noise = truths["chinchilla"], 0.006
    hits = {"alpha": [], "beta": [], "exponent": [], "params": [], "loss": []}
    for number in range(100):
        noises = {"trunk_noise": noise * shared**0.5, "cell_noise": noise * (1 - shared) ** 0.5}
        frontier = surface_of(planted(truth, sizes=sizes, seeds=seeds, step=0.2, random_seed=number, **noises))
        if isinstance(frontier.surface, Refusal):
            continue
        hits["alpha"].append(covered(frontier.surface.parameters["alpha"], truth.params_power))
        hits["beta"].append(covered(frontier.surface.parameters["beta"], truth.tokens_power))
        hits["exponent"].append(covered(frontier.surface.parameters["exponent"], truth.exponent))
        optimum = frontier.optima[-1]
        flops = float(optimum.budget)
        best = truth.best_params(flops)
        hits["params"].append(covered(optimum.params, best))
        hits["loss"].append(covered(optimum.loss, truth.loss(best, flops / 6 / best)))
    shares = {name: float(np.mean(each)) for name, each in hits.items()}
    print(f"{sizes} sizes, {seeds} seeds, {shared:.0%} along trunks, {len(hits['alpha'])} studies: {shares}")
    assert len(hits["alpha"]) > 25
    # From so few trunks little can be said about what they share: hence the room below.
    assert all(share >= 0.8 for share in shares.values()), shares
