"""Whole toy sweeps beside a tracking store that fails, or under a driver that is killed."""

import subprocess
import time

import pytest

from tests.faults.misbehaving import misbehaving
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep

pytestmark = pytest.mark.slow


def check(toy: ToySweep, *verb: str) -> subprocess.CompletedProcess[str]:
    """A verb of the mirror on the toy sweep, with the store in the sweep's own folder."""
    environment = {name: value for name, value in toy.environment.items() if name != "MLFLOW_TRACKING_URI"}
    command = [*MOR_SWEEP, "mlflow", "sync", "toy", *verb, "--results", str(toy.results)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


@pytest.mark.parametrize("mode", ["500", "cut", "hang"])
def test_a_sweep_beside_a_failing_server_trains_every_cell_and_a_sync_makes_it_good(
    toy: ToySweep, reference: ToySweep, mode: str, monkeypatch
):
    with misbehaving(None, mode) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        done = toy.run(mlflow=True)
    assert done.returncode == 0, done.stderr
    assert "12 of 12 cells finished" in done.stderr
    assert done.stderr.count("MLflow mirror incomplete") == 1
    assert toy.science().equals(reference.science())
    assert check(toy, "--check").returncode == 1
    assert check(toy).returncode == 0
    assert check(toy, "--check").returncode == 0


def test_after_a_killed_driver_and_a_resume_each_step_stands_once_in_mlflow(toy: ToySweep):
    for _ in range(3):
        driver = toy.start(executor="in-process")
        published = len(toy.published())
        deadline = time.monotonic() + 120
        while len(toy.published()) < min(published + 6, 30) or not list(toy.results.glob("sweeps/toy/mlflow.db")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        driver.kill()
        driver.communicate(timeout=30)
    done = toy.run(mlflow=True)
    assert done.returncode == 0, done.stderr
    compared = check(toy, "--check")
    assert compared.returncode == 0, compared.stderr
    assert "equals the results of 12 cells" in compared.stdout
    (toy.results / "sweeps/toy/mlflow.db").unlink()
    assert check(toy, "--check").returncode == 1
    assert check(toy).returncode == 0
    assert check(toy, "--check").returncode == 0
