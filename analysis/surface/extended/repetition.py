"""What repeated text and surplus parameters are worth: the formulas, with their derivatives, and what they are called.

U is the number of distinct tokens that a run saw, R = D / U - 1 how often it saw them again (0 for fresh text).

- **decay** (Muennighoff et al. 2023, arXiv:2305.16264, section 3, equations 5 and 6): a repeated token is worth less
  and less, D' = U (1 + R_D* (1 - e^(-R / R_D*))), and so is a parameter beyond N_U, the size that U tokens call for,
  N' = N_U (1 + R_N* (1 - e^(-R_N / R_N*))) with R_N = N / N_U - 1 and α A / N_U^α = β B / U^β.
- **data decay**: the same for tokens alone, N' = N.
- **overfitting**: L grows by κ R^(1/3) (N / U)^(2/3). One coefficient above what fresh text would give, as Lovelace et
  al. 2026 (arXiv:2605.01640) propose; the exponents are this project's choice among six (`results/published/repeated`).

Each is the law of fresh text where nothing repeats, and at R_D*, R_N* = ∞ and κ = 0.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.statistics.quadratic import Floats

Form = Literal["overfitting", "data decay", "decay"]
OVERFIT_POWERS = (1 / 3, 2 / 3)
"""Of R and of N / U in what overfitting adds."""
CONSTANTS: dict[Form, tuple[str, ...]] = {
    "overfitting": ("kappa",),
    "data decay": ("R_D",),
    "decay": ("R_D", "R_N"),
}
"""By form, what it has beyond E, A, α, B and β; the logarithm of each is a parameter."""
FORMULAS: dict[Form, str] = {
    "overfitting": "L = E + A / N^α + B / D^β + κ R^(1/3) (N / U)^(2/3)",
    "data decay": "L = E + A / N^α + B / D'^β, D' = U (1 + R_D* (1 - e^(-R / R_D*)))",
    "decay": "L = E + A / N'^α + B / D'^β, D' = U (1 + R_D* (1 - e^(-R / R_D*))), N' alike beyond N_U with R_N*",
}
LARGEST_LOG = 50.0
"""ln of R_D*, R_N* and 1 / κ at which they count as no effect at all."""
LARGEST_RATIO = 700.0
SMALL_RATIO = 1e-4
SMALLEST_EXPONENT = 1e-6


def repeats(log_tokens: Floats, log_unique: Floats) -> Floats:
    """R = D / U - 1, never below 0; shapes that broadcast."""
    return np.maximum(np.expm1(np.minimum(log_tokens - log_unique, LARGEST_LOG)), 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Worth:
    """W = R* (1 - e^(-R / R*)), what R repeats are worth, and its derivatives by R and by ρ = ln R*."""

    value: Floats
    """W."""
    by_again: Floats
    """dW / dR."""
    by_scale: Floats
    """dW / dρ."""
    by_again_twice: Floats
    """d²W / dR²."""
    by_scale_twice: Floats
    """d²W / dρ²."""
    by_both: Floats
    """d²W / dR dρ."""

    @property
    def log_slope(self) -> Floats:
        """d ln(1 + W) / dρ."""
        return self.by_scale / (1 + self.value)

    @property
    def log_bend(self) -> Floats:
        """d² ln(1 + W) / dρ²."""
        return self.by_scale_twice / (1 + self.value) - self.log_slope**2


def worth_of(again: Floats, log_scale: Floats) -> Worth:
    """What R = `again` repeats are worth at ρ = `log_scale`; shapes that broadcast."""
    scale = np.exp(np.clip(log_scale, -LARGEST_LOG, LARGEST_LOG))
    ratio = np.minimum(again / scale, LARGEST_RATIO)
    fading = np.exp(-ratio)
    # The difference of two numbers that are nearly one has no digits left where R* is large.
    change = np.where(ratio < SMALL_RATIO, ratio**2 / 2, -np.expm1(-ratio) - ratio * fading)
    return Worth(
        value=-scale * np.expm1(-ratio),
        by_again=fading,
        by_scale=scale * change,
        by_again_twice=-fading / scale,
        by_scale_twice=scale * (change - ratio**2 * fading),
        by_both=ratio * fading,
    )
