"""A toy sweep in a fresh results folder, the same sweep undisturbed for reference, a bucket in a local S3 server."""

import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_server import FaultyServer
from remote_machine import Machine
from toy_sweep import ToySweep

from mor_core.data.shards import prepare
from mor_core.data.snapshot import DataSnapshot
from mor_core.data.spec import DataSpec


@pytest.fixture
def toy(tmp_path: Path, toy_text: Path, toy_cache: Path) -> ToySweep:
    """A fresh results folder."""
    return ToySweep(results=tmp_path / "results", text=toy_text, cache=toy_cache)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, toy_text: Path, toy_cache: Path) -> ToySweep:
    """The toy sweep, run once without disturbance in one process. Nobody may change it."""
    sweep = ToySweep(results=tmp_path_factory.mktemp("reference") / "results", text=toy_text, cache=toy_cache)
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    return sweep


@pytest.fixture(scope="session")
def data(toy_text: Path, toy_cache: Path) -> DataSnapshot:
    """The toy corpus, prepared."""
    return prepare(DataSpec(corpus=str(toy_text), vocab_size=300, max_megabytes=None), toy_cache)


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


@pytest.fixture
def machine(bucket: str, tmp_path: Path, toy_text: Path, toy_cache: Path) -> Machine:
    """A machine and an empty bucket."""
    return Machine(url=f"{bucket}/study", scratch=tmp_path / "one", text=toy_text, cache=toy_cache)


@pytest.fixture
def other(machine: Machine, tmp_path: Path) -> Machine:
    """Another machine with the same bucket."""
    return replace(machine, scratch=tmp_path / "two")
