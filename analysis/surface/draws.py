"""Redrawn studies for a fitted surface: by trunk, with arms paired, and parametric where trunks are few.

- **weights**, from `Resampling.min_trunks` trunks on: every trunk counts a Poisson number of times with mean one, which
  is drawing trunks with replacement but for their total, and the same in every arm that trained that size with that
  seed.
- **parametric** below that: normal noise, of which a part is shared by the runs of a trunk
  (`analysis.statistics.trunk_noise`) and a part of that by arms (`analysis.statistics.pairing`). Every draw carries one
  factor sqrt(dof / chi-squared(dof)), as in `analysis.statistics.bootstrap`, with the degrees of freedom that the
  variance is known with.

Weights on few trunks would lose whole sizes. A wild bootstrap, which serves parabolas of many trunks, does not serve
here: Huber's loss with a small delta is nearly that of absolute values, whose spread is set by the density of residuals
at zero. Normal multipliers gave half the spread on Epoch's 240 points, random signs intervals that held β in 80 % of
studies of five sizes.
"""

from dataclasses import dataclass, replace

import numpy as np

from analysis.statistics.bootstrap import SMALLEST_LOSS, Resampling, generator, mixed_noise
from analysis.statistics.descent import descend
from analysis.statistics.quadratic import Floats
from analysis.statistics.trunk_noise import split_noise
from analysis.surface.law import SurfaceLaw
from analysis.surface.optimum import SurfaceOptimum
from analysis.surface.problem import Problem

TOGETHER = 200
"""Draws fitted side by side: as many as stay in a core's cache."""
TOLERANCE = 1e-8
MOST_STEPS = 80


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceDraws:
    """The law in every redrawn study."""

    law: SurfaceLaw
    """One law a draw, about the fit's own centre."""
    method: str
    """"weights" or "parametric"."""
    noise: float
    """Standard deviation of a run around the law, in ln L (or units of loss, where the fit was of L itself)."""


def redraw_surface(
    best: SurfaceOptimum,
    trunk_keys: tuple[str, ...],
    arm: str,
    resampling: Resampling,
    start_p: Floats | None = None,
) -> SurfaceDraws:
    """Refit each redrawn study from `start_p` (P,), the optimum by default; trunk_keys (n,) name the points' trunks."""
    jacobian_nq = best.problem.slopes(best.theta[None])[0] @ best.free_pq
    noise = split_noise(best.problem.residuals(best.theta[None])[0], jacobian_nq, trunk_keys)
    if len(set(trunk_keys)) >= resampling.min_trunks:
        method, problem = "weights", _weighted(best, trunk_keys, resampling)
    else:
        names = [("point", arm, str(index)) for index in range(len(trunk_keys))]
        method, problem = "parametric", relossed(best, mixed_noise(noise, names, trunk_keys, arm, resampling))
    start_p = best.theta if start_p is None else start_p
    law = SurfaceLaw(theta_kp=refit(best, problem, resampling.draws, start_p), centre=best.problem.centre)
    return SurfaceDraws(law=law, method=method, noise=noise.sd)


def refit(best: SurfaceOptimum, problem: Problem, draws: int, start_p: Floats) -> Floats:
    """(draws, P) optima of `problem` along the directions that the study was free in, each from `start_p` (P,)."""
    optima = []
    for first in range(0, draws, TOGETHER):
        chosen = np.arange(first, min(first + TOGETHER, draws))
        starts_kp = np.repeat(start_p[None], len(chosen), axis=0)
        subset = problem.subset(chosen)
        ended = descend(subset, starts_kp, best.free_pq, tolerance=TOLERANCE, most_steps=MOST_STEPS)
        optima.append(ended.theta_kp)
    return np.concatenate(optima)


def _weighted(best: SurfaceOptimum, trunk_keys: tuple[str, ...], resampling: Resampling) -> Problem:
    weight = {
        key: generator(resampling, "weight", key).poisson(1.0, size=resampling.draws).astype(np.float64)
        for key in sorted(set(trunk_keys))
    }
    return replace(best.problem, weights_kn=np.stack([weight[key] for key in trunk_keys], axis=1))


def relossed(best: SurfaceOptimum, offset_kn: Floats) -> Problem:
    """The same places with the fitted losses, moved by `offset_kn` on the scale of the residual."""
    problem = best.problem
    residual_1n = problem.residuals(best.theta[None])
    if problem.residual == "log":
        return replace(problem, loss_kn=problem.loss_kn * np.exp(residual_1n + offset_kn))
    return replace(problem, loss_kn=np.maximum(problem.loss_kn + residual_1n + offset_kn, SMALLEST_LOSS))
