"""Many small robust fits side by side: damped Newton steps that only ever go down.

Far from the optimum a step is that of iteratively reweighted least squares, whose majorant M is positive definite;
near it, Newton's, which converges quadratically. The two are blended in the metric of M: with M = C Cᵀ and the
eigenvalues μ of C⁻¹ H C⁻ᵀ, each eigendirection is divided by |μ| + λ, so that no step climbs towards a saddle, and λ
falls after a step that goes down and rises after one that does not.

Legend: K fits, P parameters, Q free ones.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.quadratic import Floats

FIRST_DAMPING = 0.03
LARGEST_DAMPING = 1e12
SMALLEST_EIGENVALUE = 1e-10
LONGEST_STEP = 3.0
RIDGE = 1e-12


class Objectives(Protocol):
    """K objectives of P parameters each."""

    def objective(self, theta_kp: Floats) -> Floats:
        """(K,)."""
        ...

    def derivatives(self, theta_kp: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Objective (K,), gradient (K, P), Hessian and positive-definite majorant (K, P, P)."""
        ...

    def subset(self, chosen: NDArray) -> "Objectives":
        """The objectives at indices `chosen`."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Descent:
    """Where K descents ended."""

    theta_kp: Floats
    """(K, P) the parameters."""
    objective_k: Floats
    """(K,) the objective there."""


def descend(
    problem: Objectives,
    start_kp: Floats,
    free_pq: Floats,
    *,
    tolerance: float = 1e-13,
    most_steps: int = 200,
    newton: bool = True,
) -> Descent:
    """Minimise K objectives from `start_kp` (K, P) along the columns of `free_pq` (P, Q).

    A descent ends when Newton's step promises less than `tolerance` of the objective, or when no step goes down.
    `newton=False` uses the majorant alone, which is quicker from far away.
    """
    theta_kp = np.array(start_kp, dtype=np.float64)
    num_fits = len(theta_kp)
    objective_k = np.asarray(problem.objective(theta_kp))
    promise_k = np.full(num_fits, np.inf)  # The decrease that Newton's step promises, relative to the objective.
    damping_k = np.full(num_fits, FIRST_DAMPING)
    active = np.arange(num_fits)
    for _ in range(most_steps):
        subproblem = problem if len(active) == num_fits else problem.subset(active)
        step_kp, promise = _step(subproblem, theta_kp[active], free_pq, damping_k[active], newton)
        promise_k[active] = promise / np.maximum(objective_k[active], np.finfo(float).tiny)
        trial_kp = theta_kp[active] + step_kp
        trial_k = subproblem.objective(trial_kp)
        better = trial_k < objective_k[active]
        moved = active[better]
        theta_kp[moved], objective_k[moved] = trial_kp[better], trial_k[better]
        damping_k[active] = np.where(better, damping_k[active] / 5, damping_k[active] * 6)
        stuck = damping_k[active] > LARGEST_DAMPING
        active = active[~stuck & ((promise_k[active] > tolerance) | better) & (objective_k[active] > 0)]
        settled = (promise_k[active] <= tolerance) & (damping_k[active] < FIRST_DAMPING)
        active = active[~settled]
        if not len(active):
            break
    return Descent(theta_kp=theta_kp, objective_k=objective_k)


def _step(
    problem: Objectives, theta_kp: Floats, free_pq: Floats, damping_k: Floats, newton: bool
) -> tuple[Floats, Floats]:
    """The damped step (K, P) and what an undamped one would gain (K,)."""
    _, gradient_kp, hessian_kpp, majorant_kpp = problem.derivatives(theta_kp)
    gradient_kq = gradient_kp @ free_pq
    hessian_kqq, majorant_kqq = free_pq.T @ hessian_kpp @ free_pq, free_pq.T @ majorant_kpp @ free_pq
    diagonal_kq = np.maximum(np.einsum("kqq->kq", majorant_kqq), np.finfo(float).tiny)
    scale_kq = 1 / np.sqrt(diagonal_kq)
    scaled_kqq = majorant_kqq * scale_kq[:, :, None] * scale_kq[:, None, :] + RIDGE * np.eye(free_pq.shape[1])
    values_kq, vectors_kqq = np.linalg.eigh(scaled_kqq)
    whiten_kqq = scale_kq[:, :, None] * vectors_kqq / np.sqrt(np.maximum(values_kq, RIDGE))[:, None, :]
    bend_kq, turn_kqq = np.linalg.eigh(
        np.swapaxes(whiten_kqq, 1, 2) @ (hessian_kqq if newton else majorant_kqq) @ whiten_kqq
    )
    basis_kqq = whiten_kqq @ turn_kqq
    slope_kq = np.einsum("kqr,kq->kr", basis_kqq, gradient_kq)
    size_kq = np.maximum(np.abs(bend_kq), SMALLEST_EIGENVALUE)
    step_kq = -np.einsum("kqr,kr->kq", basis_kqq, slope_kq / (size_kq + damping_k[:, None]))
    step_kp = step_kq @ free_pq.T
    longest_k = np.abs(step_kp).max(axis=1)
    step_kp *= np.minimum(1.0, LONGEST_STEP / np.maximum(longest_k, LONGEST_STEP))[:, None]
    return step_kp, 0.5 * np.sum(slope_kq**2 / size_kq, axis=1)
