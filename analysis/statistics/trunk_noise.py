"""How much of the noise of runs is shared along a trunk, from the residuals of a fit that has absorbed a part of it.

Residuals are r = M e with M = I - H for the projection H on the fit's directions, so that pairs of residuals within
trunks say less about pairs of errors the more parameters there are for few trunks: with errors of variance
a + b, of which b is common to a trunk (Z the indicators of trunks),

    E rᵀ r = a tr M + b tr M Z Zᵀ,    E rᵀ Z Zᵀ r = a tr Z Zᵀ M + b tr (Z Zᵀ M)²,

which are solved for a and b, neither negative (Henderson 1953, method of fitting constants). The degrees of freedom of
a + b are Satterthwaite's: 2 mean² / variance of that quadratic form.
"""

from dataclasses import dataclass

import numpy as np

from analysis.statistics.quadratic import Floats

MOST_SHARED = 0.95
FEWEST_DOF = 2.0
"""Below this the tails of a t-distribution say nothing."""


@dataclass(frozen=True, kw_only=True)
class TrunkNoise:
    """The noise of a run around a law."""

    sd: float
    """Standard deviation, on the scale of the residuals."""
    shared: float
    """Share of the variance that is common to the runs of a trunk."""
    dof: float
    """Degrees of freedom with which the variance is known."""


def split_noise(residual_n: Floats, jacobian_nq: Floats, trunk_keys: tuple[str, ...]) -> TrunkNoise:
    """The noise behind residuals (n,) of a fit along the columns of `jacobian_nq`; keys (n,) name the trunks."""
    n, num_free = jacobian_nq.shape
    spare = max(n - num_free, 1)
    left_nn = residual_maker(jacobian_nq)
    same_nn = same_trunk(trunk_keys, trunk_keys)
    independent = TrunkNoise(sd=float(np.sqrt(residual_n @ residual_n / spare)), shared=0.0, dof=float(spare))
    if same_nn.sum() == n or not residual_n.any():
        return independent
    mixed_nn = same_nn @ left_nn
    moments_22 = np.array(
        [[np.trace(left_nn), np.trace(mixed_nn)], [np.trace(mixed_nn), np.sum(mixed_nn * mixed_nn.T)]]
    )
    squares_2 = np.array([residual_n @ residual_n, residual_n @ same_nn @ residual_n])
    if np.linalg.cond(moments_22) > 1e10:
        return independent
    alone, common = np.linalg.solve(moments_22, squares_2)
    if common <= 0:
        return independent
    shared = min(float(common / (common + max(alone, 0.0))), MOST_SHARED)
    # The share decides the shape of the covariance; the size then follows from the sum of squares.
    covariance_nn = (1 - shared) * np.eye(n) + shared * same_nn
    spread_nn = left_nn @ covariance_nn
    expected = float(np.trace(spread_nn))
    dof = expected**2 / float(np.sum(spread_nn * spread_nn.T))
    return TrunkNoise(sd=float(np.sqrt(squares_2[0] / expected)), shared=shared, dof=max(dof, FEWEST_DOF))


def residual_maker(jacobian_nq: Floats) -> Floats:
    """(n, n) the matrix M that turns errors into residuals of a fit along the columns of `jacobian_nq`."""
    basis_nq, _ = np.linalg.qr(jacobian_nq)
    return np.eye(len(jacobian_nq)) - basis_nq @ basis_nq.T


def same_trunk(keys: tuple[str, ...], other_keys: tuple[str, ...]) -> Floats:
    """(n, m) 1 where two runs have one trunk, else 0."""
    return (np.array(keys, dtype=str)[:, None] == np.array(other_keys, dtype=str)[None, :]).astype(np.float64)
