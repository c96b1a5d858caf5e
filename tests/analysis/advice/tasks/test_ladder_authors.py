"""The authors' first step finds a planted law, and the two parts of an error add up."""

import numpy as np
import pytest

from analysis.statistics.quadratic import Floats
from tests.analysis.advice.tasks.ladder_authors import PARAMS, Procedure, authors_law, steps_apart
from tests.analysis.advice.tasks.ladder_forms import Sigmoid


def planted(params: Floats, tokens: Floats) -> Floats:
    return 0.45 + np.exp(4.5) / params**0.3 + np.exp(5.0) / tokens**0.25


def test_the_authors_first_step_recovers_a_planted_law_far_beyond_its_runs() -> None:
    params_n = np.repeat(np.array(list(PARAMS.values()), dtype=np.float64), 4)
    tokens_n = params_n * np.tile([20.0, 40.0, 100.0, 200.0], 4)
    bits = authors_law(params_n, tokens_n, planted(params_n, tokens_n))
    (expected,) = planted(np.array([7e9]), np.array([4e12]))
    assert bits(7e9, 4e12) == pytest.approx(expected, rel=1e-3)


def test_a_law_that_is_right_leaves_an_error_to_the_second_step_alone() -> None:
    curve = Sigmoid(floor=0.25, top=1.0, midpoint=0.6, slope=5.0)
    right = Procedure(name="right", bits=lambda params, tokens: 0.75, curve=curve)
    numbers = steps_apart(right, bits_measured=0.75, score_measured=float(curve.score(np.array([0.75]))[0]) + 0.03)
    assert numbers["by_first_step"] == 0
    assert numbers["by_second_step"] == pytest.approx(-0.03)
    assert numbers["error"] == numbers["by_second_step"]


def test_a_curve_that_is_right_leaves_an_error_to_the_first_step_alone() -> None:
    curve = Sigmoid(floor=0.25, top=1.0, midpoint=0.6, slope=5.0)
    high = Procedure(name="high", bits=lambda params, tokens: 0.78, curve=curve)
    numbers = steps_apart(high, bits_measured=0.75, score_measured=float(curve.score(np.array([0.75]))[0]))
    assert numbers["bits_error"] == pytest.approx(0.04)
    assert numbers["by_first_step"] < 0
    assert numbers["by_second_step"] == 0
