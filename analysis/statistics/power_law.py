"""y = k·x^a by least squares in log-log, with the exponent's interval taken from redrawn studies."""

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Sample, interval
from analysis.statistics.quadratic import Floats
from mor_core.units import counted_text

MIN_BUDGETS = 3


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """y = coefficient · x^exponent."""

    coefficient: float
    """y at x = 1, in the unit of y."""
    exponent: float
    """d ln y / d ln x."""

    def __call__(self, x: Floats) -> Floats:
        """y at `x` (any shape)."""
        return self.coefficient * x**self.exponent


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedPowerLaw:
    """A power law in compute for one quantity of one arm."""

    law: PowerLaw
    """Least squares through the optima."""
    exponent: Estimate
    """The exponent with its interval."""
    budgets: tuple[str, ...]
    """Budgets it was fitted to, decimal FLOPs in ascending order."""
    scatter: float
    """Standard deviation of ln y around the law, with len(budgets) - 2 degrees of freedom; 0 with two budgets."""
    centre: float
    """Mean of ln C, about which the draws are stored."""
    draws_k2: Floats
    """(draws, 2) ln y at the centre and exponent in every redrawn study."""

    def predict(self, flops: float) -> Estimate:
        """y at a compute of `flops` with its interval; beyond the budgets fitted this extrapolates."""
        low, high = self.band(np.array([flops]))
        return Estimate(
            value=float(self.law(np.array(flops))), low=float(low[0]), high=float(high[0]), level=self.exponent.level
        )

    def band(self, flops: Floats) -> tuple[Floats, Floats]:
        """Pointwise interval of y at `flops` (m,): two arrays (m,)."""
        log_y_km = self.draws_k2[:, :1] + self.draws_k2[:, 1:] * (np.log(flops) - self.centre)
        tail = 50 * (1 - self.exponent.level)
        low, high = np.exp(np.percentile(log_y_km, [tail, 100 - tail], axis=0))
        return low, high


def fit_power_law(samples: dict[str, Sample], level: float, *, fewest: int = MIN_BUDGETS) -> FittedPowerLaw | Refusal:
    """Fit y = k·C^a to the samples of one quantity, by budget (decimal FLOPs -> sample of a positive quantity).

    `fewest` budgets are asked for: of two, a line says nothing of its own misfit, and of one its exponent is 0.
    """
    budgets = tuple(sorted(samples, key=int))
    if len(budgets) < fewest:
        return Refusal(
            kind=RefusalKind.TOO_FEW_BUDGETS,
            sentence=f"{counted_text(len(budgets), 'budget')} with an optimum; an exponent needs {fewest} or more.",
        )
    log_c_b = np.array([float(Decimal(budget).ln()) for budget in budgets])
    centre = float(log_c_b.mean())
    solver_2b = np.linalg.pinv(np.stack([np.ones_like(log_c_b), log_c_b - centre], axis=1)).astype(np.float64)
    log_y_b = np.log([samples[budget].estimate.value for budget in budgets])
    log_y_kb = np.log(np.stack([samples[budget].draws for budget in budgets], axis=1))
    middle, exponent = (float(number) for number in solver_2b @ log_y_b)
    draws_k2 = log_y_kb @ solver_2b.T
    misfit_b = log_y_b - middle - exponent * (log_c_b - centre)
    return FittedPowerLaw(
        law=PowerLaw(coefficient=float(np.exp(middle - exponent * centre)), exponent=exponent),
        exponent=interval(exponent, draws_k2[:, 1], level),
        budgets=budgets,
        scatter=float(np.sqrt(misfit_b @ misfit_b / max(len(budgets) - 2, 1))),
        centre=centre,
        draws_k2=draws_k2,
    )
