"""Approach 2: a parabola at every budget of an arm, in ln N and in ln D, and the optimum it gives with its draws."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.isoflop.parabola import (
    Parabola,
    ParabolaRules,
    choose_window,
    judge_curvature,
    refuse_few_sizes,
    refuse_shape,
)
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.approach import ApproachFit, SampledOptimum
from analysis.statistics.bootstrap import MinimumDraws, Resampling, Sample, redraw_minima, refuse_unstable, sample
from analysis.statistics.pairing import ArmResiduals, arm_residuals
from analysis.statistics.quadratic import Axis, Curve, Quadratic, least_squares, pool_noise

NO_PARABOLA = Refusal(kind=RefusalKind.NOISE_UNKNOWN, sentence="no budget has a parabola from which to know the noise.")


@dataclass(frozen=True, kw_only=True)
class Isoflop:
    """The two parabolas of one (arm, budget)."""

    budget: str
    """FLOPs, an exact decimal integer."""
    params: Parabola | Refusal
    """Loss against ln N."""
    tokens: Parabola | Refusal
    """Loss against ln D."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IsoflopFit(ApproachFit):
    """What a parabola per budget says about one arm."""

    isoflops: tuple[Isoflop, ...]
    """One per budget, ascending."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Minimum:
    """What one budget says along one axis: each a refusal where there is none."""

    parabola: Parabola | Refusal
    place: Sample | Refusal
    loss: Sample | Refusal


def fit_isoflops(
    frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: ParabolaRules, resampling: Resampling
) -> IsoflopFit:
    """Fit every budget of `arm`; `frame` holds that arm's points (see `analysis.runs.points.Points.frame`)."""
    params, tokens = (_fit_axis(frame, axis, arm, budgets, rules, resampling) for axis in Axis)
    return IsoflopFit(
        optima=tuple(
            SampledOptimum(
                budget=budget, params=params[budget].place, tokens=tokens[budget].place, loss=params[budget].loss
            )
            for budget in budgets
        ),
        isoflops=tuple(
            Isoflop(budget=budget, params=params[budget].parabola, tokens=tokens[budget].parabola) for budget in budgets
        ),
    )


def _fit_axis(
    frame: pl.DataFrame,
    axis: Axis,
    arm: str,
    budgets: tuple[str, ...],
    rules: ParabolaRules,
    resampling: Resampling,
) -> dict[str, _Minimum]:
    """Budget -> its minimum along an axis."""
    curves = {budget: curve_of(frame.filter(pl.col("budget") == budget), axis) for budget in budgets}
    fits = {budget: first_fit(curve, rules) for budget, curve in curves.items()}
    fitted = {budget: quadratic for budget, quadratic in fits.items() if isinstance(quadratic, Quadratic)}
    minima = {budget: _refused(refusal) for budget, refusal in fits.items() if isinstance(refusal, Refusal)}
    if not fitted:
        return minima
    pooled = pool_noise(list(fitted.values()))
    noise = arm_residuals(list(fitted.values())).noise
    for budget, quadratic in fitted.items():
        parabola = judge_curvature(curves[budget], quadratic, pooled, rules)
        if isinstance(parabola, Refusal):
            minima[budget] = _refused(parabola)
        else:
            draws = redraw_minima(quadratic, noise=noise, arm=arm, budget=budget, resampling=resampling)
            minima[budget] = _minimum(parabola, draws, resampling)
    return minima


def _refused(refusal: Refusal) -> _Minimum:
    return _Minimum(parabola=refusal, place=refusal, loss=refusal)


def _minimum(parabola: Parabola, draws: MinimumDraws, resampling: Resampling) -> _Minimum:
    unstable = refuse_unstable(draws.interior_share, resampling)
    within = (parabola.lowest, parabola.highest)
    place = sample(parabola.optimum, np.exp(draws.log_optimum), resampling.level, within=within)
    loss = sample(parabola.minimum_loss, draws.minimum_loss, resampling.level)
    return _Minimum(parabola=parabola, place=unstable or place, loss=unstable or loss)


def first_fit(curve: Curve, rules: ParabolaRules) -> Quadratic | Refusal:
    """The fit of one curve within its window, where its shape allows a minimum."""
    too_few = refuse_few_sizes(curve, rules)
    if too_few:
        return too_few
    quadratic = least_squares(choose_window(curve, rules))
    return refuse_shape(curve, quadratic, rules) or quadratic


def parabola_residuals(frame: pl.DataFrame, rules: ParabolaRules) -> ArmResiduals | None:
    """What the parabolas of one arm's points leave, over ln N at every budget; None where no budget has one."""
    curves = (curve_of(points, Axis.PARAMS) for _, points in frame.group_by("budget", maintain_order=True))
    fitted = well_shaped(curves, rules)
    return arm_residuals(fitted) if fitted else None


def well_shaped(curves: Iterable[Curve], rules: ParabolaRules) -> list[Quadratic]:
    """The first fits of those curves whose shape allows a minimum."""
    return [quadratic for curve in curves if isinstance(quadratic := first_fit(curve, rules), Quadratic)]


def curve_of(frame: pl.DataFrame, axis: Axis) -> Curve:
    """The points of one (arm, budget) along an axis."""
    return Curve(
        axis=axis,
        log_x=np.log(frame[axis.value].to_numpy()),
        loss=frame["loss"].to_numpy(),
        cell_ids=tuple(frame["cell_id"].to_list()),
        trunk_keys=tuple(frame["trunk_key"].to_list()),
    )
