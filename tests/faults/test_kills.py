"""Processes killed with -9 in mid-sweep; the same command again must end with the undisturbed run's science."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.faults.disturbances import (
    SIX_CELLS,
    TWO_CELLS,
    assert_as_undisturbed,
    assert_nothing_is_left,
    checkpoints,
    early,
    executed,
    interruptions,
    pid_of,
    processes_of,
    reached,
    wait_for,
    worker_pids,
)
from tests.helpers.toy_sweep import ToySweep


@pytest.mark.slow
@pytest.mark.faults("F1", invariants=("I2", "I4", "I8"))
def test_after_the_driver_is_killed_nothing_is_left_running_and_the_same_command_finishes(
    toy: ToySweep, reference: ToySweep
):
    driver = toy.start("--workers", "2", *SIX_CELLS)
    wait_for(lambda: len(toy.published()) >= 2 and checkpoints(toy))
    before = toy.published()
    driver.kill()
    driver.communicate(timeout=200)
    assert_nothing_is_left(toy)
    done = toy.run("--workers", "2", *SIX_CELLS, executor="ray")
    assert done.returncode == 0, done.stderr
    assert_as_undisturbed(toy, reference)
    after = toy.published()
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
@pytest.mark.faults("F2", invariants=("I4", "I5"))
def test_a_killed_worker_is_replaced_by_a_new_attempt_that_resumes(toy: ToySweep, reference: ToySweep, figures):
    """Each goes on from the newest checkpoint there was at the kill, or a later one: an interval of steps is lost."""
    driver = toy.start("--workers", "2", *SIX_CELLS)
    kept: dict[str, int] = {}
    killed: set[int] = set()
    for _ in range(3):
        attempt, step = wait_for(lambda: next((each for each in reached(toy) if pid_of(each[0]) not in killed), None))
        os.kill(pid_of(attempt), signal.SIGKILL)
        killed.add(pid_of(attempt))
        if attempt.parent.name not in toy.published():  # Else the kill came late, and met the segment after it.
            kept[attempt.parent.name] = step
    output, _ = driver.communicate(timeout=800)
    assert driver.returncode == 0, output
    assert_as_undisturbed(toy, reference)
    for name, step in kept.items():
        taken, last = executed(toy)[name]
        assert last - taken >= step
    figures("F2", f"3 workers killed after steps {sorted(kept.values())} or more: none of these was taken again")


@pytest.mark.slow
@pytest.mark.faults("F12", invariants=("I8",))
def test_ctrl_c_keeps_checkpoints_leaves_nothing_running_and_exits_130(toy: ToySweep):
    driver = toy.start("--workers", "2", *TWO_CELLS)
    early(toy)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 130
    assert interruptions(toy)
    assert "stopping: every running segment keeps a checkpoint; once more stops at once" in output
    assert "the same command goes on from the last checkpoints" in output
    assert_nothing_is_left(toy)


@pytest.mark.slow
@pytest.mark.faults("F11", invariants=("I8",))
def test_sigterm_leaves_nothing_running_and_exits_143(toy: ToySweep):
    driver = toy.start("--workers", "2")
    wait_for(lambda: bool(worker_pids(toy)))
    driver.terminate()
    driver.communicate(timeout=200)
    assert driver.returncode == 143
    assert_nothing_is_left(toy)


def ray_folders(toy: ToySweep) -> set[Path]:
    """The folders of the Ray clusters that this test has started, by what their processes were started with."""
    lines = [" ".join(process.cmdline()) for process in processes_of(toy)]
    return {Path(found) for line in lines for found in re.findall(r"(/\S*/mor-sweep-[^/\s]+)/ray", line)}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seconds"), [(signal.SIGINT, 1.5), (signal.SIGTERM, 0.0)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_while_ray_starts_waits_for_it_and_leaves_nothing(toy: ToySweep, kind: signal.Signals, seconds: float):
    driver = toy.start("--workers", "2")
    wait_for(lambda: bool(ray_folders(toy)))
    folders = ray_folders(toy)
    time.sleep(seconds)
    driver.send_signal(kind)
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 128 + kind
    assert "stopped: the same command goes on from the last checkpoints" in output
    assert "Traceback" not in output
    assert_nothing_is_left(toy)
    assert not [folder for folder in folders if folder.exists()]


@pytest.mark.slow
def test_the_next_run_removes_the_ray_folder_of_a_killed_driver(toy: ToySweep):
    driver = toy.start("--workers", "2")
    wait_for(lambda: bool(ray_folders(toy)))
    folders = ray_folders(toy)
    driver.kill()
    driver.communicate(timeout=200)
    assert_nothing_is_left(toy)
    assert all(folder.exists() for folder in folders)
    assert toy.run("--workers", "2", "--sizes", "13k", "--arms", "vanilla", executor="ray").returncode == 0
    assert not any(folder.exists() for folder in folders)


@pytest.mark.slow
@pytest.mark.faults("F4", invariants=("I4", "I6"))
def test_an_attempt_that_was_damaged_is_set_aside_and_the_run_ends_the_same(toy: ToySweep, reference: ToySweep):
    for _ in range(10):  # A segment may be published, and its checkpoints gone, before the kill arrives.
        driver = toy.start(executor="in-process")
        wait_for(lambda: bool(checkpoints(toy)))
        driver.kill()
        driver.communicate(timeout=200)
        if checkpoints(toy):
            break
    assert checkpoints(toy)
    for path in checkpoints(toy):
        weights = path / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    damaged = len(checkpoints(toy))
    done = toy.run()
    assert done.returncode == 0, done.stderr
    assert len(list(toy.results.glob("attempts/*/*/checkpoint-*.corrupt"))) == damaged
    assert toy.weights() == reference.weights()
