"""How much compute, or how many parameters, one arm is worth in another: multipliers at equal loss, with intervals.

Compute: the other arm's L*(C) is given; the arm reaches it at C'; the multiplier is C / C'. Between budgets ln L*
is a monotone cubic of ln C (Fritsch and Butland 1984), and its end slopes are continued by at most a factor of
`FARTHEST` in compute.

Parameters: the arm's loss at its own optimum (N, D) is given; the other arm reaches it with N' parameters on the same
D; the multiplier is N' / N. It needs the surfaces of both arms.
"""

from collections.abc import Mapping

import numpy as np
from scipy.interpolate import PchipInterpolator

from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Sample, interval, sample
from analysis.statistics.power_law import fit_power_law
from analysis.statistics.quadratic import Floats
from analysis.surface.fit import SurfaceFit

FARTHEST = 10.0
PLACES = 200
"""Where the curve between the budgets is looked at."""
MIN_SHARE = 0.5
MIN_BUDGETS = 3
"""That show whether a multiplier grows with compute."""


def compute_multiplier(
    losses: dict[str, Sample | Refusal], target: Sample, budget: str, level: float
) -> Sample | Refusal:
    """C / C' at `budget`: `losses` is the arm's budget -> L*, `target` the other arm's L* there."""
    samples = {int(flops): loss for flops, loss in losses.items() if isinstance(loss, Sample)}
    if len(samples) < 2:
        return Refusal(
            kind=RefusalKind.TOO_FEW_BUDGETS,
            sentence=f"{len(samples)} budget with an optimum; a compute multiplier needs at least 2.",
        )
    ordered = sorted(samples)
    log_c_b = np.log([float(flops) for flops in ordered])
    value_b = np.log([[samples[flops].estimate.value for flops in ordered]])
    drawn_kb = np.log(np.stack([samples[flops].draws for flops in ordered], axis=1))
    log_c = float(np.log(float(budget)))
    log_value = log_c - _reached(log_c_b, value_b, np.log([target.estimate.value]))
    log_drawn_k = log_c - _reached(log_c_b, drawn_kb, np.log(target.draws))
    reach = np.log(FARTHEST)
    log_needed_k = log_c - log_drawn_k
    sound_k = np.isfinite(log_needed_k) & (log_needed_k > log_c_b[0] - reach) & (log_needed_k < log_c_b[-1] + reach)
    log_needed = log_c - log_value[0]
    if not (np.isfinite(log_needed) and log_c_b[0] - reach < log_needed < log_c_b[-1] + reach):
        return Refusal(
            kind=RefusalKind.EXTRAPOLATION,
            sentence=f"the same loss lies more than a factor of {FARTHEST:g} in compute beyond the arm's budgets.",
        )
    if sound_k.mean() < MIN_SHARE:
        return Refusal(
            kind=RefusalKind.UNSTABLE_MINIMUM,
            sentence=f"only {sound_k.mean():.0%} of the redrawn studies reach the same loss near the arm's budgets.",
        )
    # A draw that never reaches the loss counts as far away on the side where it was looked for.
    low, high = log_c - (log_c_b[-1] + reach), log_c - (log_c_b[0] - reach)
    multiplier_k = np.exp(np.clip(np.where(np.isnan(log_drawn_k), low, log_drawn_k), low, high))
    return sample(float(np.exp(log_value[0])), multiplier_k, level)


def growth_of_multiplier(multipliers: Mapping[str, Sample], level: float) -> Estimate | Refusal:
    """By what factor the compute multiplier changes for each factor of ten in C; `multipliers` is budget -> multiplier.

    Ten to the exponent of its power law, in every redrawn study.
    """
    fitted = fit_power_law(dict(multipliers), level, fewest=MIN_BUDGETS)
    if isinstance(fitted, Refusal):
        return Refusal(
            kind=RefusalKind.TOO_FEW_BUDGETS,
            sentence=f"{len(multipliers)} budgets with a compute multiplier; a trend needs {MIN_BUDGETS} or more.",
        )
    return interval(10**fitted.exponent.value, 10 ** fitted.draws_k2[:, 1], level)


def _reached(log_c_b: Floats, log_loss_kb: Floats, target_k: Floats) -> Floats:
    """(K,) ln C at which each curve through (ln C, ln L*) falls to its target; nan where it does not fall there."""
    curve = PchipInterpolator(log_c_b, log_loss_kb, axis=1)
    first, last = log_c_b[0], log_c_b[-1]
    x_m = np.union1d(np.linspace(first, last, PLACES), log_c_b)
    places = len(x_m)
    loss_km = curve(x_m)
    rows = np.arange(len(target_k))
    below_km = loss_km <= target_k[:, None]
    # The first place at or below the target; where the first or none is, an end and its slope decide.
    place = np.where(below_km.any(axis=1), below_km.argmax(axis=1), places)
    right = np.clip(place, 1, places - 1)
    above, below = loss_km[rows, right - 1], loss_km[rows, right]
    falls = above > below
    share = np.where(falls, (above - target_k) / np.where(falls, above - below, 1.0), np.nan)
    inside = x_m[right - 1] + share * (x_m[right] - x_m[right - 1])
    before = _continued(first, log_loss_kb[:, 0], curve(first, 1), target_k)
    after = _continued(last, log_loss_kb[:, -1], curve(last, 1), target_k)
    return np.where(place == 0, before, np.where(place == places, after, inside))


def _continued(log_c: float, log_loss_k: Floats, slope_k: Floats, target_k: Floats) -> Floats:
    falling = slope_k < 0
    return np.where(falling, log_c + (target_k - log_loss_k) / np.where(falling, slope_k, -1.0), np.nan)


def parameter_multiplier(arm: SurfaceFit, other: SurfaceFit, budget: str, level: float) -> Estimate | Refusal:
    """N' / N at the arm's optimum at `budget`: how many parameters of `other` one of the arm's is worth."""
    flops = float(budget)
    params = arm.law.n_opt(flops, arm.contour)
    tokens = arm.law.d_opt(flops, arm.contour)
    value = other.best.as_law.params_for(arm.best.as_law.loss(params, tokens), tokens)[0]
    drawn_k = other.draws.law.params_for(arm.draws.law.loss(params, tokens), tokens)
    share = float(np.mean(np.isfinite(drawn_k)))
    if not np.isfinite(value) or share < MIN_SHARE:
        return Refusal(
            kind=RefusalKind.NO_OPTIMUM,
            sentence="no number of the other arm's parameters reaches that loss on these tokens.",
        )
    refusal = arm.refuse_beyond(params, tokens) or other.refuse_beyond(float(value), tokens)
    if refusal:
        return refusal
    drawn_k = np.where(np.isfinite(drawn_k), drawn_k, np.nanmax(drawn_k[np.isfinite(drawn_k)]))
    ratio = interval(value / params, drawn_k / params, level)
    return Estimate(value=ratio.value, low=ratio.low, high=ratio.high, level=level, high_open=share < 1)
