"""Approach 3 as a fitting approach: the optimum at every budget from one surface per arm."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.approach import ApproachFit, SampledOptimum, refused_optimum
from analysis.statistics.bootstrap import Resampling, Sample, interval
from analysis.surface.contour import contour_of_runs
from analysis.surface.fit import SurfaceFit, fit_surface
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
    if frame.is_empty():
        refusal = Refusal(kind=RefusalKind.TOO_FEW_POINTS, sentence="no run of this arm is finished.")
        return SurfaceApproachFit(optima=tuple(refused_optimum(budget, refusal) for budget in budgets), surface=refusal)
    contour = contour_of_runs(*(frame[name].to_numpy() for name in ("params", "tokens", "flops")))
    surface = fit_surface(frame, arm, contour, rules, resampling)
    if isinstance(surface, Refusal):
        return SurfaceApproachFit(optima=tuple(refused_optimum(budget, surface) for budget in budgets), surface=surface)
    return SurfaceApproachFit(optima=tuple(surface_optimum(surface, budget) for budget in budgets), surface=surface)


def surface_optimum(surface: SurfaceFit, budget: str, *, forced: bool = False) -> SampledOptimum:
    """The optimum of a fitted surface at `budget` (decimal FLOPs), or the refusal of draws that mostly have none.

    A doubted surface has none where no run was (`SurfaceFit.refuse_beyond`), unless `forced`.
    """
    (params, params_k), (tokens, tokens_k), (loss, loss_k) = surface.optimum_draws(float(budget))
    share, least = surface.interior_share(params_k), surface.resampling.min_interior_share
    if share < least:
        refusal = Refusal(
            kind=RefusalKind.UNSTABLE_MINIMUM,
            sentence=f"only {share:.0%} of {surface.resampling.draws} redrawn surfaces have their minimum within a "
            f"factor of ten of the sizes trained; an interval needs at least {least:.0%}.",
        )
        return refused_optimum(budget, refusal)
    refusal = None if forced else surface.refuse_beyond(params, tokens)
    if refusal:
        return refused_optimum(budget, refusal)
    level = surface.resampling.level
    sizes = surface.believed_sizes
    data = tuple(
        float(tokens_at_size) for tokens_at_size in surface.contour.tokens(np.array(sizes[::-1]), float(budget))
    )
    return SampledOptimum(
        budget=budget,
        params=Sample(estimate=interval(params, params_k, level, within=sizes), draws=params_k),
        tokens=Sample(estimate=interval(tokens, tokens_k, level, within=(data[0], data[1])), draws=tokens_k),
        loss=Sample(estimate=interval(loss, loss_k, level), draws=loss_k),
    )
