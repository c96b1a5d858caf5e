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
from analysis.statistics.trunk_noise import TrunkNoise, residual_maker, same_trunk, split_noise


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
    designs = [np.linalg.pinv(quadratic.solver_3n) for quadratic in quadratics]
    return ArmResiduals(
        residual_n=np.concatenate([quadratic.residuals for quadratic in quadratics]),
        jacobian_nq=np.asarray(block_diag(*designs), dtype=np.float64),
        trunk_keys=tuple(key for quadratic in quadratics for key in quadratic.curve.trunk_keys),
    )


def shared_between_arms(arms: list[ArmResiduals]) -> float:
    """Share of the trunks' noise variance that is surely common to the arms, 0 to 1; 0 where nothing can be said."""
    product = expected_product = variance = 0.0
    parts = [(arm, arm.noise, residual_maker(arm.jacobian_nq)) for arm in arms]
    noisy_parts = [(arm, noise, left_nn) for arm, noise, left_nn in parts if noise.sd > 0]
    for (arm, noise, left_nn), (other, other_noise, other_left_nn) in combinations(noisy_parts, 2):
        same = same_trunk(arm.trunk_keys, other.trunk_keys)
        product += float(arm.residual_n @ same @ other.residual_n) / (noise.sd * other_noise.sd)
        common = np.sqrt(noise.shared * other_noise.shared)
        expected_product += common * float(np.sum((left_nn @ same) * (same @ other_left_nn)))
        covariance, other_covariance = _covariance(arm, noise, left_nn), _covariance(other, other_noise, other_left_nn)
        variance += float(np.sum((covariance @ same) * (same @ other_covariance)))
    if expected_product <= 0:
        return 0.0
    return float(np.clip((product - np.sqrt(variance)) / expected_product, 0.0, 1.0))


def _covariance(arm: ArmResiduals, noise: TrunkNoise, left_nn: Floats) -> Floats:
    """Of the residuals, over the variance of a run."""
    same_nn = same_trunk(arm.trunk_keys, arm.trunk_keys)
    mixed_nn = (1 - noise.shared) * np.eye(len(arm.residual_n)) + noise.shared * same_nn
    return left_nn @ mixed_nn @ left_nn
