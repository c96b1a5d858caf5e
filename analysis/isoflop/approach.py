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
from analysis.statistics.trunk_noise import TrunkNoise

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
    """A parabola that is believed, and the draws of its minimum."""

    parabola: Parabola
    draws: MinimumDraws

    def place(self, resampling: Resampling) -> Sample | Refusal:
        """N* or D*."""
        within = (self.parabola.lowest, self.parabola.highest)
        return refuse_unstable(self.draws, resampling) or sample(
            self.parabola.optimum, np.exp(self.draws.log_optimum), resampling.level, within=within
        )

    def loss(self, resampling: Resampling) -> Sample | Refusal:
        """L*."""
        return refuse_unstable(self.draws, resampling) or sample(
            self.parabola.minimum_loss, self.draws.minimum_loss, resampling.level
        )


def fit_isoflops(
    frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: ParabolaRules, resampling: Resampling
) -> IsoflopFit:
    """Fit every budget of `arm`; `frame` holds that arm's points (see `analysis.runs.points.Points.frame`)."""
    params, tokens = (_fit_axis(frame, axis, arm, budgets, rules, resampling) for axis in Axis)
    return IsoflopFit(
        optima=tuple(_optimum(budget, params[budget], tokens[budget], resampling) for budget in budgets),
        isoflops=tuple(
            Isoflop(budget=budget, params=_parabola(params[budget]), tokens=_parabola(tokens[budget]))
            for budget in budgets
        ),
    )


def _fit_axis(
    frame: pl.DataFrame,
    axis: Axis,
    arm: str,
    budgets: tuple[str, ...],
    rules: ParabolaRules,
    resampling: Resampling,
) -> dict[str, _Minimum | Refusal]:
    """Budget -> its minimum along an axis."""
    curves = {budget: curve_of(frame.filter(pl.col("budget") == budget), axis) for budget in budgets}
    fits = {budget: first_fit(curve, rules) for budget, curve in curves.items()}
    minima: dict[str, _Minimum | Refusal] = {
        budget: refusal for budget, refusal in fits.items() if isinstance(refusal, Refusal)
    }
    fitted = {budget: quadratic for budget, quadratic in fits.items() if isinstance(quadratic, Quadratic)}
    if not fitted:
        return minima
    pooled = pool_noise(list(fitted.values()))
    noise = arm_residuals(list(fitted.values())).noise
    for budget, quadratic in fitted.items():
        parabola = judge_curvature(curves[budget], quadratic, pooled, rules)
        minima[budget] = _with_draws(parabola, quadratic, noise, arm, budget, resampling)
    return minima


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


def _with_draws(
    parabola: Parabola | Refusal,
    quadratic: Quadratic,
    noise: TrunkNoise,
    arm: str,
    budget: str,
    resampling: Resampling,
) -> _Minimum | Refusal:
    if isinstance(parabola, Refusal):
        return parabola
    draws = redraw_minima(quadratic, noise=noise, arm=arm, budget=budget, resampling=resampling)
    return _Minimum(parabola=parabola, draws=draws)


def _parabola(minimum: _Minimum | Refusal) -> Parabola | Refusal:
    return minimum if isinstance(minimum, Refusal) else minimum.parabola


def _optimum(
    budget: str, params: _Minimum | Refusal, tokens: _Minimum | Refusal, resampling: Resampling
) -> SampledOptimum:
    return SampledOptimum(
        budget=budget,
        params=params if isinstance(params, Refusal) else params.place(resampling),
        tokens=tokens if isinstance(tokens, Refusal) else tokens.place(resampling),
        loss=params if isinstance(params, Refusal) else params.loss(resampling),
    )
