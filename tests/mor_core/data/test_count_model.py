"""Count models: probabilities, as they were counted, under any vocabulary; and what two of them show of a text."""

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.statistics.concentration import EVEN_CONCENTRATION, FEW_WINDOWS, concentration, deciding_token
from mor_core.data.tokens.count_model import PRIOR_TOKENS, count_model

V, T = 60, 32


def text(seed: int, windows: int, rare: float = 0.0) -> NDArray[np.int64]:
    """Windows [windows, T + 1] in which an id is followed by one of three; in a share `rare` of them every other id is
    the last one, as in a drawn table."""
    generator = np.random.default_rng(seed)
    ids_ST1 = np.empty((windows, T + 1), dtype=np.int64)
    ids_ST1[:, 0] = generator.integers(0, V - 1, windows)
    for place in range(T):
        ids_ST1[:, place + 1] = (ids_ST1[:, place] * 7 + generator.integers(1, 4, windows)) % (V - 1)
    tables = generator.random(windows) < rare
    ids_ST1[tables, ::2] = V - 1
    return ids_ST1


def test_what_may_follow_a_token_has_probabilities_that_sum_to_one():
    model = count_model(text(0, 50), V)
    every_pair = np.stack(np.meshgrid(np.arange(V), np.arange(V), indexing="ij"), axis=-1).reshape(-1, 2)
    probabilities = np.exp(-model.losses(every_pair)).reshape(V, V)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


def test_a_pair_has_the_probability_of_its_count():
    model = count_model(np.array([[1, 2, 1, 2, 1, 3]]), V)
    single = (2 + 1) / (5 + V)  # Two of the five ids that follow one are 2.
    expected = (2 + PRIOR_TOKENS * single) / (3 + PRIOR_TOKENS)
    assert model.losses(np.array([[1, 2]]))[0, 0] == pytest.approx(-np.log(expected))


def test_a_large_vocabulary_keeps_the_pairs_that_occur():
    ids_ST1 = np.random.default_rng(0).integers(0, 49_152, size=(20, 101))
    model = count_model(ids_ST1, 49_152)
    assert len(model.pairs) <= 2000
    known, unknown = model.losses(ids_ST1).mean(), model.losses(49_151 - ids_ST1).mean()
    assert known < unknown < 2 * np.log(49_152)


def test_two_models_tell_a_text_of_which_few_windows_decide_from_one_without_such_windows():
    valid_ST1 = text(1, 1000)
    even = count_model(text(2, 2000), V).losses(valid_ST1) - count_model(text(3, 2000), V).losses(valid_ST1)
    assert concentration(even.mean(axis=1)) == pytest.approx(EVEN_CONCENTRATION, abs=0.04)
    with_tables_ST1 = text(1, 1000, rare=0.01)
    models = [count_model(text(2, 2000, rare=0.001), V), count_model(text(3, 2000, rare=0.004), V)]
    uneven = models[0].losses(with_tables_ST1) - models[1].losses(with_tables_ST1)
    share = concentration(uneven.mean(axis=1))
    assert share
    assert share < FEW_WINDOWS
    assert deciding_token(uneven, with_tables_ST1[:, 1:])[0] == V - 1
