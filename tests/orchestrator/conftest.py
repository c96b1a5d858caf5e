"""A prepared data snapshot as plans see it, sweeps with a few flags, a bucket in a local S3 server, an MLflow store."""

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.faults.faulty_server import FaultyServer
from tests.helpers.made_up_data import MADE_UP_DATA
from tests.helpers.mirror_samples import Sample, change, sample
from tests.helpers.paths import SMALL_PRESET


@pytest.fixture(scope="session")
def snapshot():
    return MADE_UP_DATA


@pytest.fixture(scope="session")
def small_sweep():
    """small.toml with dotted keys replaced: small_sweep({"budgets": ["1e12"], "train.batch_size": 8})."""

    def sweep(changes=None):
        changes = changes or {}
        return load_spec(
            str(SMALL_PRESET), [Override(flag=key, path=tuple(key.split(".")), value=changes[key]) for key in changes]
        )

    return sweep


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on 127.0.0.1."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def faulty(s3_server: str) -> Iterator[FaultyServer]:
    """A server that passes requests on, until it is told otherwise."""
    with FaultyServer(s3_server) as server:
        yield server


@pytest.fixture
def bucket(faulty: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3:// address of an empty bucket, which this process and every command that it starts reach through `faulty`."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("MOR_SWEEP_SCRATCH", str(tmp_path / "scratch"))
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def planned_store(shared: Path) -> Sample:
    """A sweep of four cells, nothing trained, sent to a fresh MLflow store where the making of one was cut short.

    Nobody may change it: where several processes share the tests, one of them makes it for all, since its schema takes
    seconds.
    """
    from orchestrator.tracking.mirror import sync

    made = shared / "planned-is-made"
    with (shared / "planned.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        planned = sample(shared / "planned", "1.5e11", "5e11", sizes=("70k",))
        if not made.exists():
            change(planned.folder / "mlflow.db.creating", "CREATE TABLE runs (torn)")
            sync(planned.store, planned.sweep, planned.uri)
            made.touch()
    return planned


@pytest.fixture(scope="session")
def schema(planned_store: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow SQLite file with a schema and without a sweep's runs, to be copied."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    shutil.copyfile(planned_store.database, path)
    for table in ("tags", "params", "metrics", "latest_metrics", "runs", "experiment_tags"):
        change(path, f"DELETE FROM {table}")
    change(path, "DELETE FROM experiments WHERE experiment_id <> 0")
    return path
