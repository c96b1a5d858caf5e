"""Approach 1: at every budget, the run with the lowest loss (Hoffmann et al. 2022, section 3.1).

Only over runs that are cooled down. Points along one training curve at a constant rate lie above what the same tokens
would give after a cooldown, by an amount that depends on the size, so that their envelope answers another question; it
is refused. The answer is one of the sizes trained: its interval is as coarse as the ladder.
"""

import numpy as np
import polars as pl

from analysis.isoflop.approach import NO_PARABOLA, curve_of, well_shaped
from analysis.isoflop.parabola import ParabolaRules
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.approach import ApproachFit, SampledOptimum, refused_optimum
from analysis.statistics.bootstrap import SMALLEST_LOSS, Resampling, normals, sample, tails
from analysis.statistics.quadratic import Axis, Noise, pool_noise


def fit_envelope(
    frame: pl.DataFrame, arm: str, budgets: tuple[str, ...], rules: ParabolaRules, resampling: Resampling
) -> ApproachFit:
    """N*, D* and L* of the best run at every budget; the noise is that of the parabolas."""
    refusal = _refuse_uncooled(frame)
    curves = (curve_of(frame.filter(pl.col("budget") == budget), Axis.PARAMS) for budget in budgets)
    fitted = [] if refusal else well_shaped(curves, rules)
    if not fitted:
        return ApproachFit(optima=tuple(refused_optimum(budget, refusal or NO_PARABOLA) for budget in budgets))
    noise = pool_noise(fitted)
    return ApproachFit(
        optima=tuple(
            _best_run(frame.filter(pl.col("budget") == budget), budget, arm, noise, resampling) for budget in budgets
        )
    )


def _refuse_uncooled(frame: pl.DataFrame) -> Refusal | None:
    cooled = frame["cooled"]
    if frame.height and cooled.fill_null(False).all():
        return None
    unknown, warm = int(cooled.is_null().sum()), int((~cooled.fill_null(True)).sum())
    counts = f"{warm} of {frame.height} runs ended at a constant learning rate, {unknown} do not say"
    return Refusal(
        kind=RefusalKind.NOT_COOLED,
        sentence=f"{counts}: an envelope needs runs that are all cooled down (column cooled, or schedule, steps and "
        "decay_start).",
    )


def _best_run(rows: pl.DataFrame, budget: str, arm: str, noise: Noise, resampling: Resampling) -> SampledOptimum:
    means = rows.group_by("params").agg(pl.col("tokens").mean(), pl.col("loss").mean(), pl.len().alias("runs"))
    means = means.sort("params")
    loss_m = means["loss"].to_numpy()
    if len(loss_m) == 0 or loss_m.argmin() in (0, len(loss_m) - 1):
        return refused_optimum(
            budget,
            Refusal(
                kind=RefusalKind.MINIMUM_AT_EDGE,
                sentence="the best run is the smallest or the largest: the minimum may lie beyond it.",
            ),
        )
    drawn_km = np.stack(
        [normals(resampling, "size", arm, budget, f"{params:.17g}") for params in means["params"]], axis=1
    )
    drawn_km = loss_m + noise.sd * tails(resampling, noise.dof) * drawn_km / np.sqrt(means["runs"].to_numpy())
    best, best_k = int(loss_m.argmin()), drawn_km.argmin(axis=1)
    params_m, tokens_m = means["params"].to_numpy(), means["tokens"].to_numpy()
    lowest_k = np.maximum(drawn_km.min(axis=1), SMALLEST_LOSS)
    return SampledOptimum(
        budget=budget,
        params=sample(float(params_m[best]), params_m[best_k], resampling.level),
        tokens=sample(float(tokens_m[best]), tokens_m[best_k], resampling.level),
        loss=sample(float(loss_m[best]), lowest_k, resampling.level),
    )
