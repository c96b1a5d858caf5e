from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.advice.forecast.forecast import forecasts, roll_study
from analysis.advice.forecast.frozen_law import FrozenLaw
from analysis.advice.lifetime import lifetime_study
from analysis.advice.predict import predict_budget
from analysis.frontier.multiplier import parameter_multiplier
from analysis.frontier.study import FitSettings, fit_study
from analysis.report.surface import surface_as_json, surface_lines
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling
from analysis.surface.fit import SurfaceFit
from analysis.surface.identifiability import Doubt, DoubtKind
from tests.analysis.surface.identifiability_study import GRIDS, SILENT, TELLING, Grid, fitted, measure, points, rates
from tests.helpers.runs.published_tables import epoch_points

NARROW = Grid(name="sizes within 1.2", tells=False, sizes=5, step=0.02, follows=False, seeds=3, merit=0.01)
SURFACE = FitSettings(approaches=("surface",), resampling=Resampling(draws=100))


def narrow_surface() -> SurfaceFit:
    """The first study of sizes within a factor of 1.2 that gives a law."""
    found = (fitted(points(NARROW, number), 100) for number in range(20))
    return next(each for each in found if isinstance(each, SurfaceFit))


def doubted(surface: SurfaceFit) -> SurfaceFit:
    """The same surface with a doubt that no run gave."""
    return replace(surface, doubts=(Doubt(kind=DoubtKind.LOOSE_EXPONENT, sentence="α may be anything."),))


@pytest.fixture
def sound(planted, truths):
    study = fit_study(planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.004), SURFACE)
    assert isinstance(study.frontiers[0].surface, SurfaceFit)
    return study


def with_doubt(study):
    (frontier,) = study.frontiers
    return replace(study, frontiers=(replace(frontier, surface=doubted(frontier.surface)),))


@pytest.mark.parametrize("grid", TELLING[:2], ids=lambda grid: grid.name)
def test_a_wide_grid_is_not_doubted(grid):
    surface = fitted(points(grid, 0), 100)
    assert isinstance(surface, SurfaceFit)
    assert surface.doubts == ()


def test_the_merit_of_shapes_within_a_narrow_range_of_sizes_does_not_pass_for_size():
    surface = narrow_surface()
    kinds = {each.kind for each in surface.doubts}
    assert {DoubtKind.NARROW_RANGE, DoubtKind.SIZE_OR_SHAPE, DoubtKind.UNHEARD_EXPONENT} <= kinds
    (narrow,) = (each.sentence for each in surface.doubts if each.kind is DoubtKind.NARROW_RANGE)
    assert "5 sizes within a factor of 1.2 in N" in narrow
    lines = surface_lines(surface)
    assert [line for line in lines if line.startswith("doubted")] == [
        f"doubted, and refused beyond its runs: {each.sentence}" for each in surface.doubts
    ]
    assert surface_as_json(surface)["doubts"] == surface.doubts


@pytest.fixture
def bent(planted, truths):
    """Losses of the largest budget 3 % above the law: what was learnt below does not hold there."""
    table = planted(truths["chinchilla"], sizes=9, step=0.2, cell_noise=0.004)
    above = pl.when(pl.col("budget") == "30000000000000").then(pl.col("loss") * 1.03).otherwise(pl.col("loss"))
    return fit_study(table.with_columns(loss=above), SURFACE)


def test_a_law_that_bends_beyond_the_largest_budget_misses_it(bent):
    surface = bent.frontiers[0].surface
    assert isinstance(surface, SurfaceFit)
    assert DoubtKind.BUDGET_MISSED in {each.kind for each in surface.doubts}
    assert surface.held_out[-1].mean_error == pytest.approx(-0.03, abs=0.01)


def test_only_the_largest_budget_left_out_has_an_interval_and_a_sound_law_holds_zero():
    studies = [fitted(points(TELLING[0], number), 100).held_out for number in range(6)]
    assert all([each.interval is not None for each in held_out] == [False, False, False, True] for held_out in studies)
    last = [held_out[-1] for held_out in studies]
    assert all(each.interval.low < each.mean_error < each.interval.high for each in last)
    assert sum(each.interval.holds_zero for each in last) >= 5


def test_the_runs_of_a_size_that_share_a_merit_widen_what_an_exponent_may_be():
    """Three seeds say the same merit three times: intervals that take them as three runs are too narrow."""
    odd = next(grid for grid in SILENT if grid.name == "sizes within 3")
    surfaces = [fitted(points(odd, number), 100) for number in range(3)]
    assert all(isinstance(each, SurfaceFit) for each in surfaces)
    assert all(DoubtKind.SIZE_OR_SHAPE in {doubt.kind for doubt in each.doubts} for each in surfaces)


def test_a_doubted_surface_is_read_within_its_runs_and_refused_beyond(sound, bent):
    inside, beyond = predict_budget(bent, "20000000000000"), predict_budget(bent, "60000000000000")
    assert isinstance(inside[0].params, Estimate)
    assert beyond[0].refused
    assert beyond[0].loss.kind is RefusalKind.EXTRAPOLATION
    assert bent.frontiers[0].surface.doubts[0].sentence in beyond[0].loss.sentence
    assert isinstance(predict_budget(sound, "60000000000000")[0].loss, Estimate)
    assert isinstance(predict_budget(bent, "60000000000000", forced=True)[0].loss, Estimate)


def test_a_forecast_mixes_no_doubted_surface_in_unless_forced(bent):
    frame, rolled = bent.points.frame, roll_study(bent)["vanilla"]
    for forced in (False, True):
        by_name = {each.approach: each for each in forecasts(frame, rolled, "60000000000000", forced=forced)}
        assert isinstance(by_name["surface"].law, FrozenLaw) is forced
        assert by_name["minima-free"].law.parts.keys() == {"minima-free"}
        mixed = by_name["combined"]
        assert ("surface" in mixed.law.parts) is (forced and by_name["surface"].weight > 0)
        optimum = mixed.law.loss_of(mixed.params.value, mixed.tokens.value, 6e13).estimate.value
        assert optimum == pytest.approx(mixed.loss.value, rel=1e-3)


def test_the_law_of_a_doubted_surface_is_read_within_its_runs(sound):
    surface = with_doubt(sound).frontiers[0].surface
    middle = float(np.exp(surface.best.problem.points.log_params.mean()))
    assert surface.refuse_beyond(middle, 1e12 / 6 / middle) is None
    assert isinstance(surface.refuse_beyond(1e3, 1e7), Refusal)
    assert sound.frontiers[0].surface.refuse_beyond(1e3, 1e7) is None


def test_a_lifetime_beyond_the_runs_of_a_doubted_surface_is_refused(sound):
    (frontier,) = sound.frontiers
    target = frontier.surface.law.l_opt(6e13, frontier.surface.contour)
    assert not isinstance(lifetime_study(sound, target, 1e6)["vanilla"], Refusal)
    refused = lifetime_study(with_doubt(sound), target, 1e6)["vanilla"]
    assert isinstance(refused, Refusal)
    assert refused.kind is RefusalKind.EXTRAPOLATION
    assert not isinstance(lifetime_study(with_doubt(sound), target, 1e6, forced=True)["vanilla"], Refusal)


def test_a_multiplier_is_given_where_a_doubted_surface_interpolates(sound):
    surface = sound.frontiers[0].surface
    assert isinstance(parameter_multiplier(doubted(surface), surface, "3000000000000", 0.95), Estimate)
    beyond = parameter_multiplier(surface, doubted(surface), "90000000000000", 0.95)
    assert isinstance(beyond, Refusal)
    assert beyond.kind is RefusalKind.EXTRAPOLATION


def test_epochs_table_is_not_doubted():
    params, tokens, flops, loss = epoch_points()
    frame = pl.DataFrame(
        {
            "cell_id": [f"run {number}" for number in range(len(loss))],
            "trunk_key": [f"run {number}" for number in range(len(loss))],
            "budget": [f"{round(each)}" for each in flops],
            "flops": flops, "params": params, "tokens": tokens, "loss": loss,
        }
    )  # fmt: skip
    surface = fitted(frame, 100)
    assert isinstance(surface, SurfaceFit)
    assert surface.doubts == ()


@pytest.mark.slow
def test_doubts_are_few_where_a_law_is_sound_and_miss_few_that_are_wrong():
    rows = [measure(grid, 8) for grid in GRIDS]
    false_alarms, misses = rates(rows)
    print(f"false alarms {false_alarms:.1%}, misses {misses:.1%}")
    assert sum(row["wrong"] for row in rows) > 20
    assert false_alarms < 0.05
    assert misses < 0.1
