"""An MLflow store that is created once for all tests, since its schema takes seconds, and copied for each."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.tracking.mirror import sync
from tests.helpers.mirror_samples import ODD_FOLDER, Sample, change, sample


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def planned_store(tmp_path_factory) -> Sample:
    """A sweep of four cells, nothing trained, sent to a fresh MLflow store."""
    planned = sample(tmp_path_factory.mktemp("planned"), "1.5e11", "5e11", sizes=("70k",))
    sync(planned.store, planned.sweep, planned.uri)
    return planned


@pytest.fixture
def schema(planned_store: Sample, tmp_path_factory) -> Path:
    """An MLflow SQLite file with a schema and without a sweep's runs."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    shutil.copyfile(planned_store.database, path)
    for table in ("tags", "params", "metrics", "latest_metrics", "runs", "experiment_tags"):
        change(path, f"DELETE FROM {table}")
    change(path, "DELETE FROM experiments WHERE experiment_id <> 0")
    return path


@pytest.fixture
def small(tmp_path: Path, schema: Path) -> Iterator[Sample]:
    """Four cells (vanilla and mor-2, two budgets) whose results are not published yet, and an empty MLflow store. In a
    folder with an odd name, and no other folder may appear beside it."""
    made = sample(tmp_path / ODD_FOLDER / "results", "1.5e11", "5e11", sizes=("70k",))
    shutil.copyfile(schema, made.database)
    yield made
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("a") and path.name != ODD_FOLDER]
