"""A prepared data snapshot as plans see it, and sweeps with a few flags."""

from pathlib import Path

import pytest

from mor_core.data.snapshot import DataSnapshot
from orchestrator.spec import load_spec
from orchestrator.sweep_file import Override

SMALL = str(Path(__file__).parent / "small.toml")


@pytest.fixture(scope="session")
def snapshot():
    return DataSnapshot(
        name="python-sources",
        fingerprint="a" * 64,
        tokenizer_fingerprint="b" * 64,
        vocab_size=512,
        train_tokens=20_000_000,
        valid_tokens=1_000_000,
        train_bytes=48_000_000,
        valid_bytes=2_400_000,
        folder=Path("unused"),
    )


@pytest.fixture(scope="session")
def small_sweep():
    """small.toml with dotted keys replaced: small_sweep({"budgets": ["1e12"], "train.batch_size": 8})."""

    def sweep(changes=None):
        changes = changes or {}
        return load_spec(SMALL, [Override(flag=key, path=tuple(key.split(".")), value=changes[key]) for key in changes])

    return sweep
