"""A sweep as a Ray job: submitted to a cluster's head from outside, run there, waited for."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disturbances import wait_for
from tests.helpers.ray_cluster import CLUSTER_ENVIRONMENT
from tests.helpers.toy_sweep import ToySweep

RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _head() -> Iterator[tuple[str, int]]:
    """A head with a dashboard on 127.0.0.1: where jobs are submitted, and the port where drivers connect."""
    folder = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))  # A socket's path may have 107 bytes at most.
    port, dashboard, agent = _free_port(), _free_port(), _free_port()
    command = [*RAY, "start", "--head", "--block", "--num-cpus", "2", "--object-store-memory", str(80 * 2**20)]
    command += ["--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    command += ["--dashboard-agent-listen-port", str(agent), "--temp-dir", str(folder), "--disable-usage-stats"]
    environment = os.environ | CLUSTER_ENVIRONMENT
    with (folder / "head.txt").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(lambda: process.poll() is None and _answers(f"{address}/api/version"), 200)
        yield address, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_submitted_job_runs_the_sweep_and_the_same_job_again_finds_it_done(toy: ToySweep) -> None:
    one_cell = ("--sizes", "13k", "--arms", "vanilla", "--budgets", "6e8")
    with _head() as (address, port):
        environment = toy.environment | CLUSTER_ENVIRONMENT | {"RAY_ADDRESS": address}
        sweep = toy.command("--address", f"127.0.0.1:{port}", "--no-mlflow", *one_cell)
        told = []
        for name in ("first", "again"):
            submitted = [*RAY, "job", "submit", "--submission-id", f"toy-{name}", "--", *sweep]
            done = subprocess.run(submitted, env=environment, capture_output=True, text=True, timeout=400, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            told.append(done.stdout + done.stderr)
    assert "1 of 1 cells finished" in told[0]
    assert "nothing to train: every segment of this plan is published" in told[1]
    assert toy.science()["status"].to_list() == ["finished"]
    assert len(toy.published()) == 3
