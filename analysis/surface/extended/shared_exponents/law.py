"""One law for several arms, with exponents in common: L = E + A / (ρ_N N)^α + B / (ρ_D D)^β.

Volkova et al. 2026 (arXiv:2602.07712, abstract) propose exponents in common with factors of its own for every
optimiser; here an arm is any architecture. E, A, B, α and β are common, every arm has a ρ_N and a ρ_D, and those of one
arm, the reference, are 1. A parameter of an arm is then worth ρ_N parameters of the reference, and a token ρ_D of its
tokens, at every size.

Legend: K laws side by side, n points, S arms besides the reference, P = 5 + 2 S parameters: those of
`analysis.surface.law`, then ln ρ_N and ln ρ_D of each of those arms in turn.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.quadratic import Floats
from analysis.surface.law import ALPHA, BETA, NUM_BASE, A, B, SurfaceLaw
from analysis.surface.problem import Part, SumOfParts, SurfacePoints, floor_part

PARAMS, TOKENS = 0, 1
"""Which of an arm's two factors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmPoints(SurfacePoints):
    """Runs of several arms."""

    arms: tuple[str, ...]
    """All of them; the first is the reference."""
    arm: NDArray[np.int64]
    """(n,) the place of each run's arm in `arms`."""

    @property
    def names_beyond(self) -> tuple[str, ...]:
        """rho_N(ARM) and rho_D(ARM) of the arms besides the reference."""
        return tuple(name(arm) for arm in self.arms[1:] for name in (rho_params_name, rho_tokens_name))

    def terms(self, theta_kp: Floats, centre: tuple[float, float]) -> SumOfParts:
        """The law of `theta_kp` (K, P), about `centre`."""
        parts = (
            self._rescaled(theta_kp, (A, ALPHA), self.log_params - centre[0], PARAMS),
            self._rescaled(theta_kp, (B, BETA), self.log_tokens - centre[1], TOKENS),
            floor_part(theta_kp),
        )
        return SumOfParts(parts=parts, num_parameters=theta_kp.shape[1])

    def _rescaled(self, theta_kp: Floats, places: tuple[int, int], log_count_n: Floats, which: int) -> Part:
        """a - α (x + ln ρ_N), or b - β (y + ln ρ_D), with the ρ of each run's arm."""
        top, power = places
        members_sn = (self.arm == np.arange(1, len(self.arms))[:, None]).astype(np.float64)
        columns = [_place(number, which) for number in range(1, len(self.arms))]
        power_k1 = theta_kp[:, power, None]
        x_kn = log_count_n + theta_kp[:, columns] @ members_sn
        factors = list(zip(columns, members_sn, strict=True))
        return Part(
            log_value=theta_kp[:, top, None] - power_k1 * x_kn,
            slopes={top: np.ones((1, 1)), power: -x_kn}
            | {column: -power_k1 * of_arm_n for column, of_arm_n in factors},
            bends={(power, column): -of_arm_n for column, of_arm_n in factors},
        )


def rho_params_name(arm: str) -> str:
    """What ρ_N of an arm is called among the constants of the law."""
    return f"rho_N({arm})"


def rho_tokens_name(arm: str) -> str:
    """What ρ_D of an arm is called among the constants of the law."""
    return f"rho_D({arm})"


def _place(number: int, which: int) -> int:
    """Of ln ρ of arm `number` (1 for the first besides the reference) among the parameters."""
    return NUM_BASE + 2 * (number - 1) + which


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedLaw:
    """K laws of several arms side by side, such as one for every redrawn study."""

    arms: tuple[str, ...]
    """All arms; the first is the reference."""
    theta_kp: Floats
    """(K, P) parameters."""
    centre: tuple[float, float]
    """ln N₀ and ln D₀."""

    def rho_params(self, arm: str) -> Floats:
        """(K,) ρ_N: how many parameters of the reference one of the arm's is worth."""
        return np.exp(self._log_rho(arm, PARAMS))

    def rho_tokens(self, arm: str) -> Floats:
        """(K,) ρ_D: how many tokens of the reference one of the arm's is worth."""
        return np.exp(self._log_rho(arm, TOKENS))

    def of_arm(self, arm: str) -> SurfaceLaw:
        """The laws as those of one arm, in its own N and D: A / ρ_N^α and B / ρ_D^β in the place of A and B."""
        theta_kp = self.theta_kp[:, :NUM_BASE].copy()
        theta_kp[:, A] -= theta_kp[:, ALPHA] * self._log_rho(arm, PARAMS)
        theta_kp[:, B] -= theta_kp[:, BETA] * self._log_rho(arm, TOKENS)
        return SurfaceLaw(theta_kp=theta_kp, centre=self.centre)

    def _log_rho(self, arm: str, which: int) -> Floats:
        number = self.arms.index(arm)
        return self.theta_kp[:, _place(number, which)] if number else np.zeros(len(self.theta_kp))
