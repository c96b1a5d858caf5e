"""`mor-sweep eval` on Ray, ended half-way: the same command goes on, and the scores are those of one go."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.store.store import Store
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep
from tests.orchestrator.inference.test_tasks import CELLS, ask, tasks

__all__ = ["tasks"]  # The fixture.

pytestmark = pytest.mark.slow


def command(sweep: ToySweep, folder: Path) -> list[str]:
    flags = ["--tasks", "verbs,many", "--task-files", str(folder), "--workers", "2", "--json"]
    return [*MOR_SWEEP, "eval", *CELLS, *flags, "--results", str(sweep.results)]


def under_way(store: Store) -> int:
    """Most batches that any attempt has done."""
    return max(
        (said.step for each in (store.root / "attempts").iterdir() if (said := store.attempts(each.name).progress())),
        default=0,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_driver_that_is_ended_half_way_leaves_work_that_the_same_command_takes_over(
    reference: ToySweep, tasks: Path, tmp_path: Path, number: signal.Signals, code: int
):
    folders = {name: replace(reference, results=tmp_path / name) for name in ("alone", "ray")}
    for sweep in folders.values():
        shutil.copytree(reference.results, sweep.results)
        shutil.rmtree(sweep.results / "attempts")
        (sweep.results / "attempts").mkdir()
    asked = ask(folders["alone"], tasks, "--json", names="verbs,many")
    expected = {row["segment"]: row for row in json.loads(asked.stdout)["data"]["rows"]}
    sweep = folders["ray"]
    store = Store(root=sweep.results)
    # A batch that hangs would never look for the request to stop; one that is slow does.
    fault = "hang step=5 kind=evaluate attempts=1" if number == signal.SIGKILL else "slow kind=evaluate attempts=1"
    driver = subprocess.Popen(
        command(sweep, tasks), env=sweep.environment | {"MOR_SWEEP_REHEARSE": fault}, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while under_way(store) < 3:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.05)
    os.kill(driver.pid, number)
    driver.communicate(timeout=100)
    assert driver.returncode == code
    done = subprocess.run(
        command(sweep, tasks), env=sweep.environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {row["segment"]: row for row in json.loads(done.stdout)["data"]["rows"]}
    assert rows == expected
    resumed = [result for name in rows if (result := store.result(name))]
    assert any(0 < result.batches_executed < result.batches for result in resumed)
