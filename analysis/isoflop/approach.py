"""Approach 2: a parabola at every budget of an arm, in ln N and in ln D, and the optimum it gives with its draws."""

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
from analysis.statistics.answers import Refusal
from analysis.statistics.approach import ApproachFit, SampledOptimum
from analysis.statistics.bootstrap import MinimumDraws, Resampling, Sample, interval, redraw_minima, refuse_unstable
from analysis.statistics.pairing import ArmResiduals, arm_residuals
from analysis.statistics.quadratic import Axis, Curve, Quadratic, least_squares, pool_noise
from analysis.statistics.trunk_noise import TrunkNoise


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
class _Judged:
    """A curve's answer and the draws of its minimum, None where it was refused."""

    answer: Parabola | Refusal
    minima: MinimumDraws | None = None


def fit_isoflops(
    frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: ParabolaRules, resampling: Resampling
) -> IsoflopFit:
    """Fit every budget of `arm`; `frame` holds that arm's points (see `analysis.runs.points.Points.frame`)."""
    params, tokens = (_fit_axis(frame, axis, arm, budgets, rules, resampling) for axis in Axis)
    return IsoflopFit(
        optima=tuple(_optimum(budget, params[budget], tokens[budget], resampling) for budget in budgets),
        isoflops=tuple(
            Isoflop(budget=budget, params=params[budget].answer, tokens=tokens[budget].answer) for budget in budgets
        ),
    )


def _fit_axis(
    frame: pl.DataFrame,
    axis: Axis,
    arm: str,
    budgets: tuple[str, ...],
    rules: ParabolaRules,
    resampling: Resampling,
) -> dict[str, _Judged]:
    curves = {budget: curve_of(frame.filter(pl.col("budget") == budget), axis) for budget in budgets}
    first = {budget: first_fit(curve, rules) for budget, curve in curves.items()}
    judged = {budget: _Judged(answer=answer) for budget, answer in first.items() if isinstance(answer, Refusal)}
    fitted = {budget: answer for budget, answer in first.items() if isinstance(answer, Quadratic)}
    if not fitted:
        return judged
    pooled = pool_noise(list(fitted.values()))
    noise = arm_residuals(list(fitted.values())).noise
    for budget, quadratic in fitted.items():
        answer = judge_curvature(curves[budget], quadratic, pooled, rules)
        judged[budget] = _with_draws(answer, quadratic, noise, arm, budget, resampling)
    return judged


def first_fit(curve: Curve, rules: ParabolaRules) -> Quadratic | Refusal:
    """The fit of one curve within its window, where its shape allows a minimum."""
    too_few = refuse_few_sizes(curve, rules)
    if too_few:
        return too_few
    quadratic = least_squares(choose_window(curve, rules))
    return refuse_shape(curve, quadratic, rules) or quadratic


def parabola_residuals(frame: pl.DataFrame, rules: ParabolaRules) -> ArmResiduals | None:
    """What the parabolas of one arm's points leave, over ln N at every budget; None where no budget has one."""
    curves = (curve_of(mine, Axis.PARAMS) for _, mine in frame.group_by("budget", maintain_order=True))
    fitted = [found for curve in curves if isinstance(found := first_fit(curve, rules), Quadratic)]
    return arm_residuals(fitted) if fitted else None


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
    answer: Parabola | Refusal, quadratic: Quadratic, noise: TrunkNoise, arm: str, budget: str, resampling: Resampling
) -> _Judged:
    if isinstance(answer, Refusal):
        return _Judged(answer=answer)
    minima = redraw_minima(quadratic, noise=noise, arm=arm, budget=budget, resampling=resampling)
    return _Judged(answer=answer, minima=minima)


def _optimum(budget: str, params: _Judged, tokens: _Judged, resampling: Resampling) -> SampledOptimum:
    return SampledOptimum(
        budget=budget,
        params=_place(params, resampling),
        tokens=_place(tokens, resampling),
        loss=_depth(params, resampling),
    )


def _place(judged: _Judged, resampling: Resampling) -> Sample | Refusal:
    """N* or D*."""
    if isinstance(judged.answer, Refusal):
        return judged.answer
    assert judged.minima is not None
    parabola, draws = judged.answer, np.exp(judged.minima.log_optimum)
    within = (parabola.lowest, parabola.highest)
    estimate = interval(parabola.optimum, draws, resampling.level, within=within)
    return refuse_unstable(judged.minima, resampling) or Sample(estimate=estimate, draws=draws)


def _depth(judged: _Judged, resampling: Resampling) -> Sample | Refusal:
    """L*."""
    if isinstance(judged.answer, Refusal):
        return judged.answer
    assert judged.minima is not None
    draws = judged.minima.minimum_loss
    estimate = interval(judged.answer.minimum_loss, draws, resampling.level)
    return refuse_unstable(judged.minima, resampling) or Sample(estimate=estimate, draws=draws)
