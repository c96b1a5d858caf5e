"""Workers and processes of a local Ray that are frozen or killed under a running sweep, and what its driver notices."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.running.stalls.detection import MARGIN_SECONDS
from orchestrator.running.stalls.watchdog import stalled_run
from orchestrator.store.attempts import Attempt
from tests.faults.disturbances import (
    TWO_CELLS,
    assert_as_undisturbed,
    assert_nothing_is_left,
    busy_seconds,
    early,
    failures,
    pid_of,
    preset,
    wait_for,
)
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STALL_SECONDS = 12.0
"""Where several processes share the cores, what loads torch before the first step takes as long as a hang."""


def verb(toy: ToySweep, *words: str) -> str:
    command = [*MOR_SWEEP, *words, "--results", str(toy.results)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=toy.environment).stdout


@pytest.mark.faults("F24", invariants=("I1", "I4", "I5", "I8"))
def test_the_driver_ends_a_worker_that_is_stopped_and_another_goes_on(
    toy: ToySweep, reference: ToySweep, tmp_path, figures
):
    flags = ("--preset", str(preset(tmp_path, stall_seconds=STALL_SECONDS)), *TWO_CELLS)
    driver = toy.start("--workers", "2", *flags)
    frozen = early(toy)
    os.kill(pid_of(frozen), signal.SIGSTOP)
    started = time.monotonic()
    wait_for(lambda: not psutil.pid_exists(pid_of(frozen)), busy_seconds(STALL_SECONDS + 3 * MARGIN_SECONDS))
    seconds = time.monotonic() - started
    output, _ = driver.communicate(timeout=800)
    assert driver.returncode == 0, output
    assert "stalled" in {failure["class"] for failure in failures(toy)}
    assert stalled_run(Attempt(folder=frozen))
    assert "most recent call first" in Attempt(folder=frozen).stacks.read_text()
    assert_nothing_is_left(toy)
    assert_as_undisturbed(toy, reference)
    figures("F24", f"a stopped worker was ended {seconds:.0f} s later by the driver, its stacks kept, and replaced")


@pytest.mark.faults("F24", invariants=("I1",))
def test_status_says_that_a_worker_takes_no_step(toy: ToySweep):
    driver = toy.start("--workers", "2", *TWO_CELLS)
    frozen = early(toy)
    os.kill(pid_of(frozen), signal.SIGSTOP)
    assert wait_for(
        lambda: re.search(r"running: stable at step \d+ of \d+, no step for \d+ s", verb(toy, "status", "--cells"))
    )
    os.kill(pid_of(frozen), signal.SIGCONT)
    output, _ = driver.communicate(timeout=800)
    assert driver.returncode == 0, output
    assert not failures(toy), "a pause within the limit is no failure"


@pytest.mark.faults("F13", invariants=("I1", "I2", "I4", "I8"))
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_local_ray_that_loses_a_central_process_is_lost_and_the_same_command_goes_on(
    toy: ToySweep, reference: ToySweep, figures, name: str
):
    driver = toy.start("--workers", "2", *TWO_CELLS)
    early(toy)
    children = psutil.Process(driver.pid).children(recursive=True)
    commands = " ".join(word for child in children for word in child.cmdline())
    (folder,) = set(re.findall(r"/\S*?/mor-sweep-\w+(?=/ray/)", commands))
    next(child for child in children if child.name() == name).kill()
    started = time.monotonic()
    output, _ = driver.communicate(timeout=400)
    seconds = time.monotonic() - started
    assert driver.returncode == 6, output
    assert f"error: the Ray cluster of this machine is lost: its process {name} has ended." in output
    assert "goes on from the last checkpoints" in output
    assert "Traceback" not in output
    assert seconds < busy_seconds(30)
    assert_nothing_is_left(toy)
    assert not [child for child in children if child.is_running()]
    assert not Path(folder).exists()
    assert not failures(toy)
    assert "failed" not in verb(toy, "status")
    findings = json.loads(verb(toy, "fsck", "--json"))["data"]["findings"]
    assert not [finding for finding in findings if not finding["is_note"]]
    before = toy.published()
    again = toy.run("--workers", "2", *TWO_CELLS, executor="ray")
    assert again.returncode == 0, again.stderr
    assert {segment: toy.published()[segment] for segment in before} == before
    assert_as_undisturbed(toy, reference)
    figures(
        "F13", f"local {name} killed: exit code 6 after {seconds:.0f} s, no process left, finished by the same command"
    )
