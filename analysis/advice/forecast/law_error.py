"""How far a law can be wrong beyond its budgets, from how far it was wrong one budget ahead.

Rolled over a study's own budgets, a law fitted to the first k predicts the next. Its error there is the noise of the
runs plus what the law itself misses. That part is taken as the path of an exponent that drifts as a random walk in
ln C, whose standard deviation grows as h^(3/2) with h = ln(budget / largest budget fitted) (integrated random walk:
Harvey 1989, *Forecasting, structural time series models and the Kalman filter*, section 2.3):

    error ~ N(0, noise² + τ² h³),    τ² ~ scaled inverse chi-squared (PRIOR_DOF, prior²).

τ is integrated over a grid, so that few past errors leave much of the prior and many leave little. The same density,
taken one error after the other, is what approaches are weighted by (prequential: Dawid 1984, *JRSS A* 147, 278). An
approach that could not answer at a step keeps its weight there (sleeping experts: Freund et al. 1997, STOC, 334).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.bootstrap import Resampling, generator, normals
from analysis.statistics.quadratic import Floats

PRIOR_DOF = 3.0
PRIOR = {"loss": 0.0004, "params": 0.04, "tokens": 0.04}
"""τ before any error was seen, relative, over a factor of e in compute: chosen so that intervals of L* hold the truth
in about 95 % of simulated studies with true and with wrong laws (`tests/analysis/advice/forecast_study.py`)."""
GROWTH = 1.5
NUM_TAUS = 161
TAUS_OVER_PRIOR = np.geomspace(0.1, 300.0, NUM_TAUS)


@dataclass(frozen=True, kw_only=True)
class PastError:
    """What an approach missed one budget ahead."""

    budget: str
    """The one that it predicted, decimal FLOPs."""
    step: float
    """ln(that budget / the largest fitted)."""
    error: float
    """ln(predicted / measured)."""
    noise: float
    """Standard deviation of that by the noise of the runs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LawError:
    """What is known of τ of one approach and quantity."""

    tau_t: Floats
    """The grid."""
    log_share_t: Floats
    """ln of the share of belief in each, which sum to one."""

    def log_density(self, past: PastError) -> float:
        """ln of the density of an error before it is seen."""
        return float(np.logaddexp.reduce(self.log_share_t + self._log_normals_t(past)))

    def after(self, past: PastError) -> "LawError":
        """What is known with one error more."""
        log_t = self.log_share_t + self._log_normals_t(past)
        return LawError(tau_t=self.tau_t, log_share_t=log_t - np.logaddexp.reduce(log_t))

    def draws(self, step: float, resampling: Resampling, *name: str) -> Floats:
        """(draws,) errors of ln y at `step` beyond the largest budget; zero within the budgets."""
        quantile_k = generator(resampling, "law error", *name).uniform(size=resampling.draws)
        share_t = np.cumsum(np.exp(self.log_share_t))
        tau_k = self.tau_t[np.minimum(np.searchsorted(share_t, quantile_k), len(self.tau_t) - 1)]
        return tau_k * max(step, 0.0) ** GROWTH * normals(resampling, "law error", *name, "size")

    def _log_normals_t(self, past: PastError) -> Floats:
        variance_t = past.noise**2 + self.tau_t**2 * past.step ** (2 * GROWTH)
        return -0.5 * (np.log(2 * np.pi * variance_t) + past.error**2 / variance_t)


def prior_error(quantity: str) -> LawError:
    """What is known of τ before any error: "loss", "params" or "tokens"."""
    scale = PRIOR[quantity]
    tau_t = scale * TAUS_OVER_PRIOR
    # Density of ln τ, as the grid is even in it: τ^-dof exp(-dof scale² / (2 τ²)).
    log_t = -PRIOR_DOF * np.log(tau_t) - PRIOR_DOF * scale**2 / (2 * tau_t**2)
    return LawError(tau_t=tau_t, log_share_t=log_t - np.logaddexp.reduce(log_t))


def law_error(quantity: str, past: Sequence[PastError]) -> LawError:
    """What is known of τ after the errors of one approach."""
    belief = prior_error(quantity)
    for error in past:
        belief = belief.after(error)
    return belief


def weights(quantity: str, past: Mapping[str, Sequence[PastError]]) -> dict[str, float]:
    """Approach -> its weight, which sum to one, after the past errors of each; no error leaves all alike."""
    beliefs = {approach: prior_error(quantity) for approach in past}
    log_weight = {approach: -float(np.log(len(past))) for approach in past}
    for budget in sorted({error.budget for errors in past.values() for error in errors}, key=int):
        awake = {approach: error for approach, errors in past.items() for error in errors if error.budget == budget}
        density = {approach: beliefs[approach].log_density(error) for approach, error in awake.items()}
        before = np.logaddexp.reduce([log_weight[approach] for approach in awake])
        after = np.logaddexp.reduce([log_weight[approach] + density[approach] for approach in awake])
        for approach, error in awake.items():
            log_weight[approach] += density[approach] - after + before
            beliefs[approach] = beliefs[approach].after(error)
    return {approach: float(np.exp(value)) for approach, value in log_weight.items()}
