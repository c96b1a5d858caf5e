"""Nodes and heads of a Ray cluster that die in mid-sweep; the end is the undisturbed run's."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.running.outcomes import LOST_PROCESS_RETRIES
from tests.faults.disturbances import wait_for
from tests.helpers.paths import TOY_PRESET
from tests.helpers.ray_cluster import attempts_on, cluster, remove
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GRID = ("--sizes", "23k", "--budgets", "1.2e9,4.8e9")
ONE_CPU = {"num_cpus": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, toy_text: Path, toy_cache: Path) -> ToySweep:
    """The same grid, run once in one process. Nobody may change it."""
    sweep = ToySweep(results=tmp_path_factory.mktemp("undisturbed") / "results", text=toy_text, cache=toy_cache)
    done = sweep.run(*GRID)
    assert done.returncode == 0, done.stderr
    return sweep


def assert_equal(toy: ToySweep, other: ToySweep) -> None:
    assert toy.science().equals(other.science())
    assert toy.weights() == other.weights()


def with_checkpoint(attempts: list[Path]) -> list[Path]:
    return [path for path in attempts if any(path.glob("checkpoint-*/manifest.json"))]


@pytest.mark.faults("F14", invariants=("I4",))
def test_the_segments_of_a_node_that_dies_move_to_another_and_the_others_are_left_alone(
    toy: ToySweep, undisturbed: ToySweep, figures
):
    with cluster(ONE_CPU, ONE_CPU) as nodes:
        (lost,) = nodes.worker_nodes
        driver = toy.start("--address", nodes.address, *GRID)
        (moved, *_) = wait_for(lambda: with_checkpoint(attempts_on(toy, lost)))
        others = {path.parent.name for path in attempts_on(toy, nodes.head_node)}
        remove(nodes, lost)
        output, _ = driver.communicate(timeout=800)
        assert driver.returncode == 0, output
    tries = {folder.name: len([p for p in folder.iterdir() if p.is_dir()]) for folder in toy.results.glob("attempts/*")}
    assert tries[moved.parent.name] == 2
    assert {name: tries[name] for name in others} == dict.fromkeys(others, 1)
    result = json.loads(toy.published()[moved.parent.name])
    assert result["steps_executed"] < result["step"], "it started from the checkpoint"
    assert_equal(toy, undisturbed)
    step = result["step"] - result["steps_executed"]
    figures("F14", f"its segment went on from step {step} on another node, {len(others)} others with one attempt each")


@pytest.mark.faults("F13", invariants=("I1", "I2", "I4"))
def test_when_the_head_dies_the_cells_are_interrupted_and_the_same_command_on_a_new_cluster_finishes(
    toy: ToySweep, undisturbed: ToySweep, figures
):
    with cluster({"num_cpus": 2}) as nodes:
        address = nodes.address
        driver = toy.start("--address", address, *GRID)
        wait_for(lambda: with_checkpoint(attempts_on(toy, nodes.head_node)))
        killed = time.monotonic()
        remove(nodes, nodes.head_node)
        output, _ = driver.communicate(timeout=400)
        seconds = time.monotonic() - killed
    assert driver.returncode == 6, output
    assert f"error: the Ray cluster at {address} is lost: nothing answers at {address} any more." in output
    assert "goes on from the last checkpoints" in output
    assert "Traceback" not in output
    assert seconds < 50
    assert "failed" not in status(toy)
    assert not list(toy.results.glob("attempts/*/*/failure.json"))
    before = toy.published()
    with cluster({"num_cpus": 2}) as nodes:
        again = toy.run("--address", nodes.address, *GRID, executor="ray")
    assert again.returncode == 0, again.stderr
    after = toy.published()
    assert {name: after[name] for name in before} == before
    assert_equal(toy, undisturbed)
    figures("F13", f"said after {seconds:.0f} s with exit code 6, nothing failed, finished on a new cluster")


@pytest.mark.faults("F2", invariants=("I4",))
def test_a_segment_that_gets_further_each_time_may_lose_any_number_of_processes(
    toy: ToySweep, undisturbed: ToySweep, tmp_path: Path
):
    """More kills of one segment's processes than Ray tries a task again, each after a new checkpoint."""
    preset = tmp_path / "often.toml"
    preset.write_text(TOY_PRESET.read_text().replace("checkpoint_every_steps = 20", "checkpoint_every_steps = 4"))
    one_trunk = ("--arms", "vanilla", "--sizes", "23k", "--budgets", "4.8e9")
    driver = toy.start("--workers", "1", "--preset", str(preset), *one_trunk)
    killed: set[int] = set()
    while len(killed) <= 1 + LOST_PROCESS_RETRIES:
        (pid, *_) = wait_for(lambda: [pid for pid in at_a_checkpoint(toy) if pid not in killed])
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    output, _ = driver.communicate(timeout=800)
    assert driver.returncode == 0, output
    assert max(json.loads(result)["attempts"] for result in toy.published().values()) > 1 + LOST_PROCESS_RETRIES
    reference = undisturbed.weights()
    assert toy.weights() == {name: reference[name] for name in toy.weights()}


def at_a_checkpoint(toy: ToySweep) -> list[int]:
    """Living processes whose attempt has a checkpoint of its own."""
    attempts = with_checkpoint([path for path in toy.results.glob("attempts/*/*") if path.is_dir()])
    pids = [int(path.name.rsplit("-", 1)[1]) for path in attempts]
    return [pid for pid in pids if psutil.pid_exists(pid)]


def status(toy: ToySweep) -> str:
    command = [*MOR_SWEEP, "status", "--results", str(toy.results)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=toy.environment).stdout
