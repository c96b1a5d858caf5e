"""Run tables drawn from planted truths, as fixtures."""

from collections.abc import Callable

import polars as pl
import pytest

from tests.helpers.runs.planted_runs import Bowl, Truth, planted_table


@pytest.fixture(scope="session")
def planted() -> Callable[..., pl.DataFrame]:
    return planted_table


@pytest.fixture(scope="session")
def truths() -> dict[str, Truth | Bowl]:
    return {
        "symmetric": Truth(),
        "chinchilla": Truth(
            bottom=1.8172, params_scale=482, params_power=0.3478, tokens_scale=2085, tokens_power=0.3658
        ),
        "asymmetric": Truth(params_power=0.46, params_scale=500, tokens_power=0.23, tokens_scale=60),
        "bowl": Bowl(),
    }
