"""How much of the noise of trunks is common to arms that trained one size on the same data with the same seed.

Where arms share noise, it drops out of the gap between them. How much they share is seen in the product of their
residuals around the parabolas of each arm: with residuals r = M e (see `analysis.statistics.trunk_noise`), K the
indicators of pairs of runs on one size and seed, and a part c of the trunk variances s_a and s_b in common,

    E r_a' K r_b = c sqrt(s_a s_b) tr(M_a K M_b K').

Few trunks say little about c, and taking noise as common that is not makes intervals too narrow: what is used is the
estimate less its standard error without anything in common, and none below zero.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.linalg import block_diag

from analysis.statistics.quadratic import Floats, Quadratic
from analysis.statistics.trunk_noise import TrunkNoise, split_noise


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmResiduals:
    """What the parabolas of an arm leave, over all of its budgets."""

    residual_n: Floats
    """(n,) units of loss."""
    jacobian_nq: Floats
    """(n, q) the directions that the parabolas absorb."""
    trunk_keys: tuple[str, ...]
    """(n,) trunks; equal for arms that trained one size with one seed."""

    @property
    def noise(self) -> TrunkNoise:
        """Its size, and how much of it a trunk shares."""
        return split_noise(self.residual_n, self.jacobian_nq, self.trunk_keys)


def arm_residuals(quadratics: list[Quadratic]) -> ArmResiduals:
    """Of the parabolas of one arm, at least one."""
    designs = [np.linalg.pinv(each.solver_3n) for each in quadratics]
    return ArmResiduals(
        residual_n=np.concatenate([each.residuals for each in quadratics]),
        jacobian_nq=np.asarray(block_diag(*designs), dtype=np.float64),
        trunk_keys=tuple(key for each in quadratics for key in each.curve.trunk_keys),
    )


def shared_between_arms(arms: list[ArmResiduals]) -> float:
    """Share of the trunks' noise variance that is surely common to the arms, 0 to 1; 0 where nothing can be said."""
    seen = expected = spread = 0.0
    parts = [(arm, arm.noise, _left(arm)) for arm in arms]
    for (one, one_noise, one_left), (other, other_noise, other_left) in combinations(parts, 2):
        if one_noise.sd == 0 or other_noise.sd == 0:
            continue
        same = _same(one.trunk_keys, other.trunk_keys)
        seen += float(one.residual_n @ same @ other.residual_n) / (one_noise.sd * other_noise.sd)
        common = np.sqrt(one_noise.shared * other_noise.shared)
        expected += common * float(np.sum((one_left @ same) * (same @ other_left)))
        covariances = (_covariance(arm, noise, left) for arm, noise, left in
                       ((one, one_noise, one_left), (other, other_noise, other_left)))  # fmt: skip
        first, second = covariances
        spread += float(np.sum((first @ same) * (same @ second)))
    if expected <= 0:
        return 0.0
    return float(np.clip((seen - np.sqrt(spread)) / expected, 0.0, 1.0))


def _left(arm: ArmResiduals) -> Floats:
    basis, _ = np.linalg.qr(arm.jacobian_nq)
    return np.eye(len(arm.residual_n)) - basis @ basis.T


def _same(one: tuple[str, ...], other: tuple[str, ...]) -> Floats:
    return (np.array(one, dtype=str)[:, None] == np.array(other, dtype=str)[None, :]).astype(np.float64)


def _covariance(arm: ArmResiduals, noise: TrunkNoise, left_nn: Floats) -> Floats:
    """Of the residuals, over the variance of a run."""
    own = np.eye(len(arm.residual_n))
    mixed = (1 - noise.shared) * own + noise.shared * _same(arm.trunk_keys, arm.trunk_keys)
    return left_nn @ mixed @ left_nn
