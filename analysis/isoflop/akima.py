"""The check on the parabola: an Akima spline of ln loss against ln N at one budget, and its lowest point.

As in Porian et al. 2024 (arXiv:2406.19146): every size enters, no shape is assumed, and a minimum at the first or last
size is refused. It follows noise that a parabola averages out, so its intervals are wider: a check, not the answer.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
from scipy.interpolate import Akima1DInterpolator

from analysis.isoflop.approach import NO_PARABOLA, curve_of, well_shaped
from analysis.isoflop.parabola import ParabolaRules, mean_by_place, refuse_few_sizes
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.approach import ApproachFit, SampledOptimum, refused_optimum
from analysis.statistics.bootstrap import Resampling, normals, refuse_unstable, sample, tails
from analysis.statistics.quadratic import Axis, Curve, Floats, Noise, pool_noise
from analysis.surface.contour import Contour
from analysis.surface.fit import contour_of_points

POINTS_PER_GAP = 25
MIN_PLACES = 5
"""Akima's slopes look two places to either side."""


def fit_akima(
    frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: ParabolaRules, resampling: Resampling
) -> ApproachFit:
    """N*, D* and L* at every budget of `arm`; the noise of the redrawn losses is that of the windowed parabolas."""
    curves = {budget: curve_of(frame.filter(pl.col("budget") == budget), Axis.PARAMS) for budget in budgets}
    fitted = well_shaped(curves.values(), rules)
    if not fitted:
        return ApproachFit(optima=tuple(refused_optimum(budget, NO_PARABOLA) for budget in budgets))
    noise = pool_noise(fitted)
    contour = contour_of_points(frame)
    return ApproachFit(
        optima=tuple(_optimum(curves[budget], budget, arm, noise, contour, rules, resampling) for budget in budgets)
    )


def _optimum(
    curve: Curve, budget: str, arm: str, noise: Noise, contour: Contour, rules: ParabolaRules, resampling: Resampling
) -> SampledOptimum:
    too_few = refuse_few_sizes(curve, replace(rules, min_sizes=max(rules.min_sizes, MIN_PLACES)))
    if too_few:
        return refused_optimum(budget, too_few)
    places, mean_loss = mean_by_place(curve)
    place, lowest, inside = _minima(places, mean_loss[:, None])
    if not inside[0]:
        return refused_optimum(
            budget,
            Refusal(
                kind=RefusalKind.MINIMUM_AT_EDGE,
                sentence="the spline is lowest at its first or last size: the minimum may lie beyond it.",
            ),
        )
    drawn_place, drawn_lowest, drawn_inside = _minima(places, _redrawn(curve, arm, budget, noise, resampling))
    unstable = refuse_unstable(float(drawn_inside.mean()), resampling, "splines have a minimum inside the sizes")
    if unstable:
        return refused_optimum(budget, unstable)
    params, params_k = np.exp(place), np.exp(drawn_place)
    tokens, tokens_k = (contour.tokens(sizes, float(budget)) for sizes in (params, params_k))
    level = resampling.level
    return SampledOptimum(
        budget=budget,
        params=sample(float(params[0]), params_k, level),
        tokens=sample(float(tokens[0]), tokens_k, level),
        loss=sample(float(lowest[0]), drawn_lowest, level),
    )


def _redrawn(curve: Curve, arm: str, budget: str, noise: Noise, resampling: Resampling) -> Floats:
    """(places, draws) mean losses with noise of their own; around the measured means, not a fit: a spline has none."""
    places, index = np.unique(curve.log_x, return_inverse=True)
    _, mean_loss = mean_by_place(curve)
    noise_nk = np.stack([normals(resampling, "cell", arm, budget, trunk) for trunk in curve.trunk_keys])
    noise_nk *= noise.sd * tails(resampling, noise.dof).T
    sums = np.zeros((len(places), resampling.draws))
    np.add.at(sums, index, noise_nk)
    return mean_loss[:, None] + sums / np.bincount(index)[:, None]


def _minima(places: Floats, loss_mk: Floats) -> tuple[Floats, Floats, Floats]:
    """ln N of the lowest point of K splines (K,), the loss there (K,), and whether it lies inside (K,)."""
    spline = Akima1DInterpolator(places, np.log(loss_mk), axis=0)
    grid = np.concatenate([np.linspace(low, high, POINTS_PER_GAP, endpoint=False) for low, high in pairwise(places)])
    grid = np.append(grid, places[-1])
    log_loss = spline(grid)
    lowest = log_loss.argmin(axis=0)
    return grid[lowest], np.exp(log_loss.min(axis=0)), (lowest > 0) & (lowest < len(grid) - 1)
