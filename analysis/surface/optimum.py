"""Approach 3: the surface L(N, D) = E + A / N^α + B / D^β fitted to all runs of an arm -> `SurfaceOptimum`.

Hoffmann et al. 2022 (arXiv:2203.15556, section 3.3): Huber's loss with delta = 1e-3 on residuals of ln L, summed, not
averaged (with an average, default tolerances stop early: Besiroglu et al. 2024, arXiv:2404.10102).

Starts come from variable projection: on a grid of (α, β), the law is linear in (E, A, B), which are solved for with
none negative. Each is then taken to the optimum of least squares, roughly, and from there polished to that of Huber's
loss (`analysis.statistics.descent`), all side by side: from far away Huber's loss is a sum of absolute values, whose
kinks slow every method down.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from analysis.statistics.descent import Descent, descend
from analysis.statistics.quadratic import Floats
from analysis.surface.law import LossSurface, Residual, SurfaceLaw, parameter_vector
from analysis.surface.problem import Problem, SurfacePoints

SAME_OPTIMUM = 1e-6
"""Relative difference in the objective up to which two descents ended at the same optimum."""
START_EXPONENTS = (0.15, 0.3, 0.5, 0.9)
SMALLEST_TERM = 0.03
SEEN_SHARE = 0.05
"""E over the smallest loss from which searches near an optimum start, where the optimum has less."""
ROUGHLY = 1e-4
MEETING_DIGITS = 1
"""Starts whose parameters agree to so many decimals after the rough part are polished once."""


@dataclass(frozen=True, kw_only=True)
class SurfaceRules:
    """How a surface is fitted."""

    delta: float = 1e-3
    """Where Huber's loss turns from a parabola into a line, on the scale of the residual; inf for least squares."""
    residual: Residual = "log"
    """What is made small: "log" for ln L, "loss" for L itself."""
    tied: bool = False
    """One exponent for parameters and tokens, α = β: for tables too small for two."""
    min_spare: int = 2
    """Fewest points beyond the number of parameters."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfaceOptimum:
    """The best fit, and how the search for it went."""

    theta: Floats
    """(P,) parameters about `problem.centre`."""
    problem: Problem
    """What was minimised."""
    free_pq: Floats
    """(P, Q) directions that were free: fewer than P where exponents are tied."""
    objective: float
    """Sum of Huber's loss over the residuals."""
    gradient_norm: float
    """Largest derivative of the objective along a free direction, over the objective."""
    num_starts: int
    """Starts tried."""
    share_reached: float
    """Share of them that ended at this optimum."""
    condition: float
    """Condition number of the Hessian with its diagonal scaled to one; inf where it is not positive definite."""

    @property
    def as_law(self) -> SurfaceLaw:
        """The fitted law as one of K = 1, about `problem.centre`."""
        return SurfaceLaw(theta_kp=self.theta[None], centre=self.problem.centre)

    @property
    def law(self) -> LossSurface:
        """The fitted law by its constants; of an extended law, the part that is common to all."""
        return self.as_law.constants()

    @property
    def floor_direction(self) -> Floats:
        """(P,) ln E is this · θ."""
        (floor,) = (constant for constant in self.problem.constants if constant.name == "E")
        return floor.direction

    @property
    def seen_theta(self) -> Floats:
        """(P,) the optimum with an E of at least `SEEN_SHARE` of the smallest loss.

        Where E went to nothing its logarithm is anywhere, and the objective is flat along it: a search from there
        leaves E at nothing or not, as the last bits of a CPU say. From here it may go back to nothing by itself.
        """
        seen = float(np.log(SEEN_SHARE * self.problem.points.loss.min()))
        missing = max(seen - float(self.theta @ self.floor_direction), 0.0)
        return self.theta + missing * self.floor_direction


def fit_optimum(points: SurfacePoints, rules: SurfaceRules) -> SurfaceOptimum:
    """The best of all starts. The points must be enough (see `analysis.surface.fit`)."""
    return fit_from(points, rules, projected_starts(points, points.centre, rules.tied))


def fit_from(
    points: SurfacePoints, rules: SurfaceRules, starts_kp: Floats, free_pq: Floats | None = None
) -> SurfaceOptimum:
    """The best of descents from `starts_kp` (K, P), about the centre of the points, along `free_pq` (P, Q): every
    parameter by default."""
    problem = Problem(
        points=points,
        centre=points.centre,
        loss_kn=points.loss[None],
        weights_kn=np.ones((1, len(points))),
        delta=rules.delta,
        residual=rules.residual,
    )
    free_pq = points.free_directions(rules.tied) if free_pq is None else free_pq
    squares = replace(problem, delta=float("inf"))
    smooth = descend(squares, starts_kp, free_pq, tolerance=ROUGHLY, most_steps=30, newton=False)
    _, first, met = np.unique(np.round(smooth.theta_kp, MEETING_DIGITS), axis=0, return_index=True, return_counts=True)
    return _best(descend(problem, smooth.theta_kp[first], free_pq), met, problem, free_pq)


def _best(descent: Descent, met: NDArray[np.int64], problem: Problem, free_pq: Floats) -> SurfaceOptimum:
    best = int(np.argmin(descent.objective_k))
    reached = descent.objective_k <= descent.objective_k[best] * (1 + SAME_OPTIMUM) + np.finfo(float).tiny
    theta = descent.theta_kp[best]
    objective = float(descent.objective_k[best])
    _, gradient_kp, hessian_kpp, _ = problem.derivatives(theta[None])
    hessian = free_pq.T @ hessian_kpp[0] @ free_pq
    scale = np.sqrt(np.maximum(np.diag(hessian), np.finfo(float).tiny))
    values = np.linalg.eigvalsh(hessian / np.outer(scale, scale))
    return SurfaceOptimum(
        theta=theta,
        problem=problem,
        free_pq=free_pq,
        objective=objective,
        gradient_norm=float(np.abs(gradient_kp[0] @ free_pq).max() / max(objective, np.finfo(float).tiny)),
        num_starts=int(met.sum()),
        share_reached=float(met[reached].sum() / met.sum()),
        condition=float(values[-1] / values[0]) if values[0] > 0 else float("inf"),
    )


def projected_starts(points: SurfacePoints, centre: tuple[float, float], tied: bool) -> Floats:
    """(K, 5) starts on a grid of exponents, with E, A and B solved for with none negative."""
    x_n, y_n = points.log_params - centre[0], points.log_tokens - centre[1]
    starts = []
    for alpha in START_EXPONENTS:
        for beta in (alpha,) if tied else START_EXPONENTS:
            terms_3n = np.stack([np.exp(-alpha * x_n), np.exp(-beta * y_n), np.ones_like(x_n)])
            # Least squares of 1, relative to the losses.
            coefficients_3, _ = optimize.nnls((terms_3n / points.loss).T, np.ones(len(points)), maxiter=100)
            a, b, e = np.log(coefficients_3 + SMALLEST_TERM * points.loss.min())
            starts.append(parameter_vector(a, b, e, alpha, beta))
    return np.array(starts)
