"""Profile likelihood: how far each parameter can move when all others are fitted anew at every place.

The likelihood is that of independent residuals with density exp(-Huber(r) / τ) / Z(τ), with τ fitted at every place; at
delta = inf that is the normal one. An end that the likelihood never closes is open: the runs do not bound the parameter
there. Runs that share a trunk are not independent; intervals by resampling take that into account, these do not.

Searches start from an E that is seen (`SurfaceOptimum.seen_theta`); only the profile of E starts where the fit ended.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from analysis.statistics.answers import Estimate
from analysis.statistics.descent import descend
from analysis.statistics.quadratic import Floats
from analysis.surface.optimum import SurfaceOptimum

REACHES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 40.0, 80.0)
"""Places tried on either side, in standard errors of a parabola through the optimum."""
NEARBY = 6
"""How many of them are tried first."""
LOG_TAUS = np.linspace(-30.0, 5.0, 351)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How the runs bound one parameter."""

    name: str
    """E, A, alpha, B, beta, or another constant of the law."""
    interval: Estimate
    """Where twice the log-likelihood is within the chi-squared quantile of its top; open where it never leaves."""

    @property
    def bounded(self) -> bool:
        """True where both ends close."""
        return not (self.interval.low_open or self.interval.high_open)


def profiles(best: SurfaceOptimum, level: float, names: Collection[str] | None = None) -> tuple[Profile, ...]:
    """One per constant of the law; of those in `names` where some are named."""
    bounds = []
    for constant in best.problem.constants:
        if names is not None and constant.name not in names:
            continue
        low, low_open = _end(best, constant.direction, -1.0, level)
        high, high_open = _end(best, constant.direction, 1.0, level)
        value = float(best.theta @ constant.direction)
        ends = [constant.value(np.clip(end, -700, 700)) for end in (low, value, high)]
        interval = Estimate(
            value=ends[1], low=ends[0], high=ends[2], level=level, low_open=low_open, high_open=high_open
        )
        bounds.append(Profile(name=constant.name, interval=interval))
    return tuple(bounds)


def _end(best: SurfaceOptimum, direction: Floats, side: float, level: float) -> tuple[float, bool]:
    """Where the profile crosses the threshold, and whether it never does."""
    along_q = best.free_pq.T @ direction
    value = float(best.theta @ direction)
    start = best.theta if direction @ best.floor_direction else best.seen_theta
    offsets = side * _standard_error(best, start, along_q) * np.array(REACHES)
    move_p = best.free_pq @ along_q / (along_q @ along_q)
    starts_kp = start + offsets[:, None] * move_p
    threshold = float(np.sqrt(stats.chi2.ppf(level, 1)))
    # Places far away take the most steps, and are asked only where those nearby do not close the interval.
    root_k = _roots(best, starts_kp[:NEARBY], along_q)
    if root_k.max() < threshold:
        root_k = np.concatenate([root_k, _roots(best, starts_kp[NEARBY:], along_q)])
    beyond = np.flatnonzero(root_k >= threshold)
    if not len(beyond):
        return value + offsets[-1], True
    first = int(beyond[0])
    before_root, before = (root_k[first - 1], offsets[first - 1]) if first else (0.0, 0.0)
    share = (threshold - before_root) / max(root_k[first] - before_root, 1e-12)
    return value + before + share * (offsets[first] - before), False


def _roots(best: SurfaceOptimum, starts_kp: Floats, along_q: Floats) -> Floats:
    """(K,) signed roots of twice what the log-likelihood loses at places held at `starts_kp` (K, P) along `along_q`:
    about linear in the parameter, so that interpolation between places is good."""
    refits = descend(best.problem, starts_kp, best.free_pq @ _orthogonal(along_q), tolerance=1e-9)
    top = log_likelihood(np.array([best.objective]), best)[0]
    return np.sqrt(np.maximum(2 * (top - log_likelihood(refits.objective_k, best)), 0.0))


def _standard_error(best: SurfaceOptimum, theta: Floats, along_q: Floats) -> float:
    """Of a parabola at θ (P,), about the optimum, with the majorant in place of the Hessian, and unit-free fallback."""
    _, _, _, majorant_kpp = best.problem.derivatives(theta[None])
    majorant = best.free_pq.T @ majorant_kpp[0] @ best.free_pq
    spare = max(len(best.problem.points) - len(along_q), 1)
    scale = 2 * max(best.objective, 1e-24) / spare
    variance = float(along_q @ np.linalg.pinv(majorant, rcond=1e-14, hermitian=True) @ along_q) * scale
    return float(np.clip(np.sqrt(max(variance, 0.0)), 1e-9, 10.0))


def _orthogonal(along_q: Floats) -> Floats:
    """(Q, Q - 1) directions that leave the quantity as it is."""
    _, _, vectors = np.linalg.svd(along_q[None])
    return vectors[1:].T


def log_likelihood(objective_k: Floats, best: SurfaceOptimum) -> Floats:
    """(K,) the log-likelihood at objectives (K,), with τ at its best."""
    n, delta = len(best.problem.points), best.problem.delta
    floor_k = np.maximum(objective_k, 1e-300)
    if np.isinf(delta):
        return -0.5 * n * np.log(floor_k)
    # In units of delta²; the best τ is stationary, so that a fine grid with a parabola at its top is exact enough.
    tau_t = np.exp(LOG_TAUS)
    log_core_t = 0.5 * np.log(2 * np.pi * tau_t) + np.log(special.erf(np.sqrt(1 / (2 * tau_t))))
    log_tails_t = np.log(2 * tau_t) - 1 / (2 * tau_t)
    log_z_t = np.logaddexp(log_core_t, log_tails_t)
    value_kt = -(floor_k[:, None] / delta**2) / tau_t - n * log_z_t
    return _peaks(value_kt)


def _peaks(value_kt: Floats) -> Floats:
    """The top of a parabola through the highest value of each row and its neighbours."""
    middle = np.clip(value_kt.argmax(axis=1), 1, value_kt.shape[1] - 2)
    rows = np.arange(len(value_kt))
    left, centre, right = (value_kt[rows, middle + shift] for shift in (-1, 0, 1))
    bend, slope = left - 2 * centre + right, (right - left) / 2
    return centre - np.where(bend < 0, slope**2 / (2 * np.minimum(bend, -1e-300)), 0.0)
