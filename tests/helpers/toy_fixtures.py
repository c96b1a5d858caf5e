"""A toy sweep in a fresh results folder, the same sweep undisturbed for reference, and its corpus, as fixtures."""

import fcntl
from pathlib import Path

import pytest

from mor_core.data.prepare import prepare
from mor_core.data.snapshot import DataSnapshot
from mor_core.data.spec import DataSpec
from tests.helpers.toy_sweep import ToySweep


@pytest.fixture
def toy(tmp_path: Path, toy_text: Path, toy_cache: Path) -> ToySweep:
    """A fresh results folder."""
    return ToySweep(results=tmp_path / "results", text=toy_text, cache=toy_cache)


@pytest.fixture(scope="session")
def reference(shared: Path, toy_text: Path, toy_cache: Path) -> ToySweep:
    """The toy sweep, run once without disturbance in one process. Nobody may change it: where several processes share
    the tests, one of them trains it for all."""
    sweep = ToySweep(results=shared / "reference" / "results", text=toy_text, cache=toy_cache)
    trained = shared / "reference-is-trained"
    with (shared / "reference.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not trained.exists():
            done = sweep.run()
            assert done.returncode == 0, done.stderr
            trained.touch()
    return sweep


@pytest.fixture(scope="session")
def data(toy_text: Path, toy_cache: Path) -> DataSnapshot:
    """The toy corpus, prepared."""
    return prepare(DataSpec(corpus=str(toy_text), vocab_size=300, max_megabytes=None), toy_cache)
