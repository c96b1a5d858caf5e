"""How few windows make half of a squared difference, and which token does."""

import numpy as np
import pytest

from analysis.statistics.concentration import EVEN_CONCENTRATION, FEW_WINDOWS, concentration, deciding_token


def test_even_noise_has_the_concentration_that_normal_differences_have():
    noise_S = np.random.default_rng(0).normal(0.0, 0.01, 200_000)
    assert concentration(noise_S) == pytest.approx(EVEN_CONCENTRATION, abs=0.002)


def test_even_noise_on_the_windows_of_a_sweep_is_not_taken_for_few_windows():
    generator = np.random.default_rng(1)
    shares = [concentration(generator.normal(size=1024)) or 0.0 for _ in range(200)]
    assert 0.1 < min(shares) < max(shares) < 0.15


def test_windows_that_decide_are_counted():
    difference_S = np.random.default_rng(2).normal(0.0, 0.01, 1000)
    difference_S[::100] = 1.0  # Ten of a thousand, alike: five of them make half.
    assert concentration(difference_S) == 6 / 1000 < FEW_WINDOWS  # And the noise of the others takes a sixth.


def test_the_size_of_a_difference_does_not_matter_and_no_difference_has_no_concentration():
    difference_S = np.random.default_rng(3).standard_cauchy(500)
    assert concentration(difference_S) == concentration(-1e-3 * difference_S)
    assert concentration(np.zeros(10)) is None
    assert concentration(np.zeros(0)) is None


def test_the_token_on_which_a_difference_falls_is_named_with_its_share():
    generator = np.random.default_rng(4)
    tokens_ST = generator.integers(0, 50, size=(400, 32))
    difference_ST = np.where(tokens_ST == 7, 1.0, generator.normal(0.0, 0.1, tokens_ST.shape))
    token, share = deciding_token(difference_ST, tokens_ST)
    assert token == 7
    assert 0.7 < share <= 1.0
    assert deciding_token(np.where(tokens_ST == 7, 1.0, 0.0), tokens_ST) == (7, pytest.approx(1.0))
