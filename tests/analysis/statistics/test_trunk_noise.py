"""The part of the noise that a trunk shares, from residuals of a fit with nearly as many directions as trunks."""

import numpy as np
import pytest

from analysis.statistics.trunk_noise import MOST_SHARED, split_noise

TRUNKS, RUNS = 8, 3
KEYS = tuple(str(trunk) for trunk in range(TRUNKS) for _ in range(RUNS))


def residuals(shared, seed, directions=5):
    """Residuals of least squares on a smooth design, and that design."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.linspace(-1, 1, TRUNKS), RUNS) + 0.02 * np.tile(np.arange(RUNS), TRUNKS)
    design = np.stack([place**power for power in range(directions - 1)] + [np.tile(np.arange(RUNS), TRUNKS)], axis=1)
    noise = np.sqrt(shared) * np.repeat(rng.normal(size=TRUNKS), RUNS)
    noise += np.sqrt(1 - shared) * rng.normal(size=TRUNKS * RUNS)
    basis, _ = np.linalg.qr(design)
    return noise - basis @ (basis.T @ noise), design


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
def test_size_and_share_are_right_on_average_although_the_fit_absorbs_a_part(shared):
    found = [split_noise(*residuals(shared, seed), KEYS) for seed in range(300)]
    assert np.mean([each.sd**2 for each in found]) == pytest.approx(1.0, abs=0.15)
    assert np.median([each.shared for each in found]) == pytest.approx(shared, abs=0.2)
    naive = [np.sum(residuals(shared, seed)[0] ** 2) / (TRUNKS * RUNS - 5) for seed in range(300)]
    if shared > 0.4:
        assert np.mean(naive) < 0.95 * np.mean([each.sd**2 for each in found]), "what the old estimate left out"


def test_a_variance_that_few_trunks_decide_is_known_with_few_degrees_of_freedom():
    alone, together = (split_noise(*residuals(shared, 3), KEYS) for shared in (0.0, 0.95))
    assert together.dof < alone.dof <= TRUNKS * RUNS - 5
    assert together.shared <= MOST_SHARED


def test_runs_without_company_have_noise_of_their_own():
    residual_n, design = residuals(0.5, 1)
    noise = split_noise(residual_n, design, tuple(map(str, range(len(residual_n)))))
    assert noise.shared == 0.0
    assert noise.dof == len(residual_n) - 5
    assert noise.sd == pytest.approx(np.sqrt(residual_n @ residual_n / noise.dof))
    assert split_noise(0 * residual_n, design, KEYS).sd == 0.0
