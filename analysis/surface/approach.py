"""Approach 3 as a fitting approach: the optimum at every budget from one surface per arm."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.approach import ApproachFit, SampledOptimum, refused_optimum
from analysis.statistics.bootstrap import Resampling, refuse_unstable, sample
from analysis.surface.fit import FLAGGED_REACH, SurfaceFit, contour_of_points, fit_surface
from analysis.surface.optimum import SurfaceRules


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceApproachFit(ApproachFit):
    """What a loss surface says about one arm."""

    surface: SurfaceFit | Refusal
    """The surface behind the optima."""


def fit_surface_approach(
    frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: SurfaceRules, resampling: Resampling
) -> SurfaceApproachFit:
    """N*, D* and L* of `arm` at `budgets` (decimal FLOPs); `frame` holds that arm's points."""
    surface: SurfaceFit | Refusal
    if frame.is_empty():
        surface = Refusal(kind=RefusalKind.TOO_FEW_POINTS, sentence="no run of this arm is finished.")
    else:
        surface = fit_surface(frame, arm, contour_of_points(frame), rules, resampling)
    if isinstance(surface, Refusal):
        return SurfaceApproachFit(optima=tuple(refused_optimum(budget, surface) for budget in budgets), surface=surface)
    return SurfaceApproachFit(optima=tuple(surface_optimum(surface, budget) for budget in budgets), surface=surface)


def surface_optimum(surface: SurfaceFit, budget: str, *, forced: bool = False) -> SampledOptimum:
    """The optimum of a fitted surface at `budget` (decimal FLOPs), or the refusal of draws that mostly have none.

    A doubted surface has none where no run was (`SurfaceFit.refuse_beyond`), unless `forced`.
    """
    contour, resampling = surface.contour, surface.resampling
    fitted, drawn = (law.optimum(float(budget), contour) for law in (surface.best.as_law, surface.draws.law))
    params, tokens, loss = float(fitted.params_k[0]), float(fitted.tokens_k[0]), float(fitted.loss_k[0])
    sizes = contour.lowest / FLAGGED_REACH, contour.highest * FLAGGED_REACH
    is_inside = surface.draws.law.falls & (drawn.params_k > sizes[0]) & (drawn.params_k < sizes[1])
    refusal = refuse_unstable(
        float(np.mean(is_inside)), resampling, "surfaces have their minimum within a factor of ten of the sizes trained"
    )
    refusal = refusal or (None if forced else surface.refuse_beyond(params, tokens))
    if refusal:
        return refused_optimum(budget, refusal)
    fewest, most = (float(bought) for bought in contour.tokens(np.array(sizes[::-1]), float(budget)))
    return SampledOptimum(
        budget=budget,
        params=sample(params, drawn.params_k, resampling.level, within=sizes),
        tokens=sample(tokens, drawn.tokens_k, resampling.level, within=(fewest, most)),
        loss=sample(loss, drawn.loss_k, resampling.level),
    )
