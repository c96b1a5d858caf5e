"""The mirror as a process: it ends with its driver, leaves nothing behind and never costs the sweep anything."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from orchestrator.records.curves import curve
from orchestrator.tracking.cursor import is_current
from orchestrator.tracking.process import bring_up_to_date, following
from tests.faults.misbehaving import misbehaving
from tests.helpers.mirror_samples import NAME, Sample, active_runs, history, query, sample

DRIVER = """
import sys, time
from pathlib import Path
from orchestrator.tracking.process import following
from orchestrator.store.store import Store
with following(Store(root=Path(sys.argv[1])), sys.argv[2]) as mirror:
    print(mirror.process.pid, flush=True)
    time.sleep(600)
"""

IDLE = """
import sys
import os
from pathlib import Path
from orchestrator.tracking.follower import follow
from orchestrator.tracking.cursor import tracking_uri
from orchestrator.store.store import Store
store = Store(root=Path(sys.argv[1]))
code = follow(store, sys.argv[2], tracking_uri(store, sys.argv[2]), os.getppid())
sys.exit(code or "mlflow" in sys.modules)
"""


def mirror_process(made: Sample) -> subprocess.Popen[bytes]:
    """A mirror whose input has ended already: it makes its passes and leaves."""
    command = [
        sys.executable,
        "-m",
        "orchestrator.tracking.follower",
        "--results",
        str(made.store.root),
        "--sweep",
        NAME,
    ]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_ended(pid: int, seconds: float) -> bool:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        deadline = time.monotonic() + seconds
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
    return True


@pytest.mark.slow
def test_what_was_published_before_the_end_of_a_sweep_is_in_mlflow_after_it(small: Sample):
    with following(small.store, NAME) as mirror:
        small.publish_all()
    assert mirror.warning == "", mirror.log.read_text()
    assert has_ended(mirror.process.pid, 0)
    assert is_current(small.store, small.sweep, small.uri)
    (small.folder / "tuned.json").write_text("{}")
    assert bring_up_to_date(small.store, NAME) == ""
    assert [path.read_text() for path in (small.folder / "artifacts").rglob("tuned.json")] == ["{}"]
    idle = [sys.executable, "-c", IDLE, str(small.store.root), NAME]
    assert subprocess.run(idle, stdin=subprocess.DEVNULL, check=False).returncode == 0  # and without importing mlflow


@pytest.mark.slow
@pytest.mark.parametrize("racers", [2, 8])
def test_mirrors_that_race_on_a_fresh_database_leave_it_whole(tmp_path, racers: int):
    made = sample(tmp_path, "1.5e11", sizes=("70k",))
    made.publish_all()
    processes = [mirror_process(made) for _ in range(racers)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * racers, said
    assert query(made.database, "PRAGMA integrity_check") == [("ok",)]
    runs = active_runs(made.database)
    for cell in made.sweep.cells:
        expected = [(row["step"], row["loss"]) for row in curve(made.store, made.sweep, cell)]
        assert history(made.database, runs[str(cell.cell_id)], "train/loss") == expected


@pytest.mark.parametrize(
    "kind",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGINT, id="interrupted", marks=pytest.mark.slow)],
)
def test_the_mirror_finishes_and_ends_when_its_driver_does(small: Sample, kind: signal.Signals):
    command = [sys.executable, "-c", DRIVER, str(small.store.root), NAME]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert driver.stdout is not None
    mirror = int(driver.stdout.readline())
    assert os.getpgid(mirror) != os.getpgid(driver.pid)
    wait_for(lambda: is_current(small.store, small.sweep, small.uri))  # It has loaded mlflow.
    small.publish_all()
    driver.send_signal(kind)
    assert driver.wait(100) != 0
    assert has_ended(mirror, 10)
    assert is_current(small.store, small.sweep, small.uri)


@pytest.mark.slow
def test_a_mirror_of_a_killed_driver_ends_in_time_whatever_it_is_at(small: Sample, monkeypatch):
    """Here a server that takes a request and never answers; the store is sent to it later."""
    small.publish_all()
    with misbehaving(None, "hang") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        command = [sys.executable, "-c", DRIVER, str(small.store.root), NAME]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
            assert driver.stdout is not None
            mirror = int(driver.stdout.readline())
            wait_for(lambda: server.requests > 0)
            driver.kill()
        assert has_ended(mirror, 10)
    assert not is_current(small.store, small.sweep, small.uri)


@pytest.mark.slow
def test_an_outage_costs_a_sweep_one_line(small: Sample, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    with following(small.store, NAME) as mirror:
        small.publish_all()
    assert mirror.warning.startswith("MLflow mirror incomplete: http://127.0.0.1:9 did not take everything")
    command = mirror.warning.partition("`")[2].rstrip("`")
    assert shlex.split(command) == ["mor-sweep", "mlflow", "sync", NAME, "--results", str(small.store.root)]
    assert len(mirror.log.read_text().splitlines()) == 1
    assert "secret" not in mirror.log.read_text()


def test_a_mirror_that_hangs_is_ended(small: Sample, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.process.LAST_PASS_SECONDS", 0.5)
    with following(small.store, NAME) as mirror:
        mirror.process.send_signal(signal.SIGSTOP)
    assert has_ended(mirror.process.pid, 0)
    assert "still sending" in mirror.warning


@pytest.mark.slow
def test_a_mirror_killed_while_it_makes_the_database_does_no_harm(tmp_path):
    made = sample(tmp_path, "1.5e11", sizes=("70k",))
    made.publish_all()
    for seconds in (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0):
        process = mirror_process(made)
        time.sleep(seconds)
        process.kill()
        process.communicate()
    process = mirror_process(made)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert is_current(made.store, made.sweep, made.uri)
