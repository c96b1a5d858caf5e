"""A prepared data snapshot as plans see it, and sweeps with a few flags."""

from pathlib import Path

import pytest
from made_up_data import MADE_UP_DATA

from orchestrator.spec import load_spec
from orchestrator.sweep_file import Override

SMALL = str(Path(__file__).parent / "small.toml")


@pytest.fixture(scope="session")
def snapshot():
    return MADE_UP_DATA


@pytest.fixture(scope="session")
def small_sweep():
    """small.toml with dotted keys replaced: small_sweep({"budgets": ["1e12"], "train.batch_size": 8})."""

    def sweep(changes=None):
        changes = changes or {}
        return load_spec(SMALL, [Override(flag=key, path=tuple(key.split(".")), value=changes[key]) for key in changes])

    return sweep
