"""A small sweep beside an empty MLflow store."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.mirror_samples import ODD_FOLDER, Sample, sample


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def small(tmp_path: Path, schema: Path) -> Iterator[Sample]:
    """Four cells (vanilla and mor-2, two budgets) whose results are not published yet, and an empty MLflow store. In a
    folder with an odd name, and no other folder may appear beside it."""
    made = sample(tmp_path / ODD_FOLDER / "results", "1.5e11", "5e11", sizes=("70k",))
    shutil.copyfile(schema, made.database)
    yield made
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("a") and path.name != ODD_FOLDER]
