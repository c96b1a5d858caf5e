"""L(C) = E + exp(a - c (ln C - centre)) through the minima of an arm's budgets, once in every redrawn study.

E, the loss that no compute removes, is free, pinned (at a surface's E, or at a number of the user's) or absent (E = 0,
the power law of Kaplan et al. 2020, arXiv:2001.08361, equation 1.3). Without an asymptote a law that has one is
underestimated the more the farther it is read; a free one costs a parameter, which three budgets can hardly pay.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np

from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.bootstrap import Sample, sample
from analysis.statistics.quadratic import Floats
from mor_core.units import counted_text

Asymptote = Literal["free", "pinned", "absent"]

SLOWEST_DECAY, FASTEST_DECAY = 0.02, 0.5
"""Bounds of c where E is free. On the frontier of a surface c = αβ / (α + β) (Hoffmann et al. 2022, arXiv:2203.15556,
equation 4), which exponents up to 1 keep up to 0.5; below 0.02 the law is a power law within any range measured."""
NUM_DECAYS = 400
CLOSEST = 0.02
"""Least share of the lowest minimum by which it lies above an asymptote: E, itself uncertain, is never at a run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AsymptoticLaw:
    """The law, and its draws."""

    asymptote: Asymptote
    """How E came about."""
    fitted_3: Floats
    """(3,) E, a and c of the study."""
    draws_k3: Floats
    """(draws, 3) the same in every redrawn study."""
    centre: float
    """Mean of ln C."""
    level: float
    """Nominal coverage of its intervals."""

    def loss(self, flops: float) -> Sample:
        """L* at a compute of `flops`, nats/token."""
        value, draws = (
            law_m3[:, 0] + np.exp(law_m3[:, 1] - law_m3[:, 2] * (np.log(flops) - self.centre))
            for law_m3 in (self.fitted_3[None], self.draws_k3)
        )
        return sample(float(value[0]), draws, self.level)


def fewest_budgets(asymptote: Asymptote) -> int:
    """As many minima as the law has parameters."""
    return 3 if asymptote == "free" else 2


def fit_asymptotic_law(
    minima: dict[str, Sample], asymptote: Asymptote, level: float, pinned: Sample | None = None
) -> AsymptoticLaw | Refusal:
    """Fit the minima (budget, decimal FLOPs -> sample of L*); `pinned` is E where it is pinned."""
    budgets = sorted(minima, key=int)
    if len(budgets) < fewest_budgets(asymptote):
        return Refusal(
            kind=RefusalKind.TOO_FEW_BUDGETS,
            sentence=f"{counted_text(len(budgets), 'budget')} with a minimum; a loss law with its asymptote "
            f"{asymptote} needs {fewest_budgets(asymptote)}.",
        )
    log_c_b = np.array([float(Decimal(budget).ln()) for budget in budgets])
    centre = float(log_c_b.mean())
    value_1b = np.array([[minima[budget].estimate.value for budget in budgets]])
    draws_kb = np.stack([minima[budget].draws for budget in budgets], axis=1)
    if asymptote == "free":
        laws = [_free(losses_kb, log_c_b - centre) for losses_kb in (value_1b, draws_kb)]
    else:
        value_1, draws_k = (np.zeros(1), np.zeros(1)) if pinned is None else (pinned.estimate.value, pinned.draws)
        floor, lowest = float(np.max(value_1)), float(value_1b.min())
        if floor > (1 - CLOSEST) * lowest:
            return Refusal(
                kind=RefusalKind.DOES_NOT_FIT,
                sentence=f"the asymptote, {floor:.4f}, is not below the lowest minimum, {lowest:.4f}.",
            )
        laws = [
            _about(losses_kb, log_c_b - centre, floor_k)
            for losses_kb, floor_k in ((value_1b, value_1), (draws_kb, draws_k))
        ]
    return AsymptoticLaw(asymptote=asymptote, fitted_3=laws[0][0], draws_k3=laws[1], centre=centre, level=level)


def _about(losses_kb: Floats, x_b: Floats, floor_k: Floats | float) -> Floats:
    """(K, 3) laws about the asymptotes `floor_k`: a line through ln(L - E), least squares in relative losses."""
    floor_k = np.minimum(np.broadcast_to(floor_k, len(losses_kb)), (1 - CLOSEST) * losses_kb.min(axis=1))
    above_kb = losses_kb - floor_k[:, None]
    weight_kb = (above_kb / losses_kb) ** 2
    weight_kb /= weight_kb.sum(axis=1, keepdims=True)
    y_kb = np.log(above_kb)
    x_k, y_k = weight_kb @ x_b, (weight_kb * y_kb).sum(axis=1)
    from_x_kb = x_b - x_k[:, None]
    slope_k = (weight_kb * from_x_kb * y_kb).sum(axis=1) / (weight_kb * from_x_kb**2).sum(axis=1)
    return np.stack([floor_k, y_k - slope_k * x_k, -slope_k], axis=1)


def _free(losses_kb: Floats, x_b: Floats) -> Floats:
    """(K, 3) laws of least squares in relative losses: for each c on a grid E and exp(a) are linear, E not negative."""
    best_k3 = np.zeros((len(losses_kb), 3))
    least_k = np.full(len(losses_kb), np.inf)
    for decay in np.geomspace(SLOWEST_DECAY, FASTEST_DECAY, NUM_DECAYS):
        falling_b = np.exp(-decay * x_b)
        floor_k, scale_k = _two_terms(1 / losses_kb, falling_b / losses_kb)
        misfit_kb = 1 - (floor_k[:, None] + scale_k[:, None] * falling_b) / losses_kb
        misfit_k = (misfit_kb**2).sum(axis=1)
        better_k = (misfit_k < least_k) & (scale_k > 0)
        least_k[better_k] = misfit_k[better_k]
        law_k3 = np.stack([floor_k, np.log(np.maximum(scale_k, 1e-300)), np.full_like(floor_k, decay)], axis=1)
        best_k3[better_k] = law_k3[better_k]
    rising_k = ~np.isfinite(least_k)
    best_k3[rising_k] = _about(losses_kb[rising_k], x_b, 0.0)
    return best_k3


def _two_terms(one_kb: Floats, other_kb: Floats) -> tuple[Floats, Floats]:
    """(K,) twice: least squares of 1 on two columns, the first coefficient not negative."""
    aa, ab, bb = (one_kb**2).sum(1), (one_kb * other_kb).sum(1), (other_kb**2).sum(1)
    a, b = one_kb.sum(1), other_kb.sum(1)
    determinant = np.maximum(aa * bb - ab**2, 1e-300)
    first, second = (bb * a - ab * b) / determinant, (aa * b - ab * a) / determinant
    return np.maximum(first, 0.0), np.where(first > 0, second, b / bb)
