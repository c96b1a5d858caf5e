"""Analytic derivatives of a fit's objective, held to differences of its values."""

import numpy as np
import pytest

from analysis.surface.problem import Problem


def assert_derivatives_are_those_of_differences(problem: Problem, theta: np.ndarray) -> None:
    """The gradient and the Hessian at `theta` [1, p]."""
    _, gradient, hessian, _ = problem.derivatives(theta)
    for index in range(theta.shape[1]):
        # Central differences: error of order step² against rounding of order 1e-16 / step.
        move = np.zeros_like(theta)
        move[0, index] = 1e-5
        up, down = problem.derivatives(theta + move), problem.derivatives(theta - move)
        assert gradient[0, index] == pytest.approx((up[0] - down[0])[0] / 2e-5, rel=1e-6, abs=1e-8)
        assert hessian[0, index] == pytest.approx((up[1] - down[1])[0] / 2e-5, rel=1e-4, abs=1e-6)
