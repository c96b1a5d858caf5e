"""Whether a richer law fits better than the noise of the runs explains: a ratio test, calibrated by redrawn studies.

T = (S - S') / S' with S the least sum of Huber's loss under the simpler law and S' that under the richer one: the F
statistic with Huber's loss in the place of squares (Schrader and Hettmansperger 1980, Biometrika 67, pages 93-101).
The F distribution does not hold here: runs of one size have noise in common, exponents are not linear, and Huber's
delta is far below the noise. So studies are drawn whose truth is the simpler law, both laws are fitted to each, and
p = (1 + number of T* ≥ T) / (1 + number of studies) (Davison and Hinkley 1997, Bootstrap Methods and their
Application, section 4.2).

Redrawn noise is that of each arm around its own law, and what the runs of one size have in common counts as noise: the
merit of a shape, whatever its budget and seed, is no difference between exponents. Errors on budgets left out were the
other choice. They are what a reader wants in the end, but a study has three to five budgets, of which one or two
extrapolate: too few to calibrate a decision by.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from analysis.statistics.bootstrap import Resampling, mixed_noise
from analysis.statistics.quadratic import Floats
from analysis.statistics.trunk_noise import TrunkNoise, split_noise
from analysis.surface.draws import refit, relossed
from analysis.surface.identifiability import residuals_around
from analysis.surface.optimum import SurfaceOptimum

EXACT = 1e-6
"""Residual up to which a law fits exactly: what is left there is rounding."""
SMALLEST_SD = 1e-12


@dataclass(frozen=True, kw_only=True)
class RatioTest:
    """How much better a richer law fits than a simpler one that it contains."""

    statistic: float
    """T: what the simpler law leaves over what the richer one leaves, less 1."""
    p_value: float
    """Share of studies redrawn from the simpler law with at least that T."""
    num_studies: int
    """How many were redrawn."""

    @property
    def gained(self) -> float:
        """Share of what the simpler law leaves that the richer one does not."""
        return self.statistic / (1 + self.statistic)


@dataclass(frozen=True, kw_only=True, eq=False)
class PartialFit:
    """A law fitted to some of the runs, all of them or those of an arm."""

    best: SurfaceOptimum
    """The optimum, of a problem whose points are these runs."""
    rows: NDArray[np.int64]
    """(m,) their places among all runs."""
    truth: Floats
    """(P,) the same law's parameters where the simpler law is true: where searches in redrawn studies start."""


def ratio_test(simpler: SurfaceOptimum, richer: Sequence[PartialFit], noise_kn: Floats) -> RatioTest:
    """Test `simpler`, fitted to n runs, against a law in one or more parts that contains it; `noise_kn` (K, n), on the
    scale of the residual, is what K redrawn studies add to the simpler law."""
    loss_kn = relossed(simpler, noise_kn).loss_kn
    simpler_k = _least(simpler, loss_kn, simpler.seen_theta)
    richer_k = np.sum([_least(part.best, loss_kn[:, part.rows], part.truth) for part in richer], axis=0)
    left_by_richer = sum(part.best.objective for part in richer)
    floor = len(simpler.problem.points) * EXACT**2 / 2
    statistic = (simpler.objective - left_by_richer) / max(left_by_richer, floor)
    statistic_k = (simpler_k - richer_k) / np.maximum(richer_k, floor)
    return RatioTest(
        statistic=float(statistic),
        p_value=float((1 + np.sum(statistic_k >= statistic)) / (1 + len(statistic_k))),
        num_studies=len(statistic_k),
    )


def _least(best: SurfaceOptimum, loss_kn: Floats, start_p: Floats) -> Floats:
    """(K,) the least objective of the law of `best` on losses (K, n), searched from `start_p`."""
    problem = replace(best.problem, loss_kn=loss_kn)
    return problem.objective(refit(best, problem, len(loss_kn), start_p))


def redrawn_noise(fits: dict[str, PartialFit], sizes: tuple[str, ...], resampling: Resampling) -> Floats:
    """(draws, n) noise of the runs of all arms; `fits` holds the own law of each, `sizes` (n,) the size of each run.

    Each arm has noise of its own size. What part of it the runs of one size have in common is one number, estimated
    from all arms together: one arm of six sizes says little about it, and less than the truth lets exponents pass for
    different. Of that part, arms of one size share `resampling.paired`.
    """
    noise = _noise_of_arms(fits, sizes)
    noise_kn = np.zeros((resampling.draws, len(sizes)))
    for arm, part in fits.items():
        keys = tuple(sizes[row] for row in part.rows)
        names = [("point", arm, str(row)) for row in part.rows]
        noise_kn[:, part.rows] = mixed_noise(noise[arm], names, keys, arm, resampling)
    return noise_kn


def _noise_of_arms(fits: dict[str, PartialFit], sizes: tuple[str, ...]) -> dict[str, TrunkNoise]:
    """The noise of each arm around its own law."""
    parts = {arm: residuals_around(part.best) for arm, part in fits.items()}
    scales = {
        arm: max(float(np.sqrt(residual_n @ residual_n / max(len(residual_n) - slopes_nq.shape[1], 1))), SMALLEST_SD)
        for arm, (residual_n, slopes_nq) in parts.items()
    }
    pooled = split_noise(
        np.concatenate([residual_n / scales[arm] for arm, (residual_n, _) in parts.items()]),
        np.asarray(block_diag(*(slopes_nq for _, slopes_nq in parts.values())), dtype=np.float64),
        tuple(f"{arm}/{sizes[row]}" for arm, part in fits.items() for row in part.rows),
    )
    return {arm: replace(pooled, sd=pooled.sd * scale) for arm, scale in scales.items()}
