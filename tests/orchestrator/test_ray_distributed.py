"""Segments that several workers train together, through Ray Train."""

import json
import os
import signal
from pathlib import Path

import polars as pl
import psutil
import pytest
from disturbances import checkpoints, processes_of, wait_for
from toy_sweep import TOY_PRESET, ToySweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GRID = ("--sizes", "23k", "--budgets", "2.4e9")
ROUTED, DENSE = (*GRID, "--arms", "mor"), (*GRID, "--arms", "vanilla")


@pytest.fixture
def two_workers(tmp_path: Path) -> tuple[str, ...]:
    """Flags for two workers a segment, one segment at a time."""
    preset = tmp_path / "two_workers.toml"
    preset.write_text(TOY_PRESET.read_text() + "workers_per_segment = 2\n")
    return ("--preset", str(preset), "--workers", "1")


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory, toy_text: Path, toy_cache: Path) -> ToySweep:
    """The grid, run once in one process that takes each batch in two halves. Nobody may change it."""
    folder = tmp_path_factory.mktemp("one")
    preset = folder / "halves.toml"
    preset.write_text(TOY_PRESET.read_text() + "micro_batch = 2\n")
    sweep = ToySweep(results=folder / "results", text=toy_text, cache=toy_cache)
    done = sweep.run("--preset", str(preset), *GRID)
    assert done.returncode == 0, done.stderr
    return sweep


def losses(toy: ToySweep, architecture: str) -> list[float]:
    return toy.science().filter(pl.col("architecture") == architecture)["loss"].to_list()


def assert_trained_by_two(toy: ToySweep) -> None:
    trained = [result for result in map(json.loads, toy.published().values()) if result["kind"] != "evaluate"]
    assert [[each["world_size"] for each in result["numerics"]] for result in trained] == [[2]] * len(trained)
    assert not toy.science()["flags"].str.contains("mixed-numerics").any()
    assert not (toy.results / "scratch").exists()


def test_two_workers_give_the_losses_of_one(toy: ToySweep, one_worker: ToySweep, two_workers: tuple[str, ...]):
    done = toy.run(*two_workers, *ROUTED, executor="ray")
    assert done.returncode == 0, done.stderr
    assert losses(toy, "mor") == pytest.approx(losses(one_worker, "mor"), abs=1e-5)
    assert_trained_by_two(toy)


def ranks_of(toy: ToySweep) -> tuple[int | None, set[int]]:
    """Process ids of rank 0, which makes the attempt, and of the other ranks."""
    workers = {process.pid for process in processes_of(toy) if "RayTrainWorker" in " ".join(process.cmdline())}
    attempts = [int(path.name.rsplit("-", 1)[1]) for path in toy.results.glob("attempts/*/*") if path.is_dir()]
    first = next((pid for pid in attempts if pid in workers), None)
    return first, workers - {first}


@pytest.mark.parametrize("which", ["rank 0", "rank 1"])
def test_a_group_that_loses_a_rank_is_replaced_and_goes_on(
    toy: ToySweep, one_worker: ToySweep, two_workers: tuple[str, ...], which: str
):
    driver = toy.start(*two_workers, *DENSE)
    wait_for(lambda: checkpoints(toy), seconds=150)
    first, others = ranks_of(toy)
    assert first is not None
    os.kill(first if which == "rank 0" else others.pop(), signal.SIGKILL)
    output, _ = driver.communicate(timeout=500)
    assert driver.returncode == 0, output
    assert losses(toy, "vanilla") == pytest.approx(losses(one_worker, "vanilla"), abs=1e-5)
    assert_trained_by_two(toy)
    tried = [result for result in map(json.loads, toy.published().values()) if result["attempts"] > 1]
    assert len(tried) == 1
    assert tried[0]["steps_executed"] < tried[0]["step"], "it started from the checkpoint"
    assert not list(toy.results.glob("attempts/*/*/failure.json")), "nothing has failed"
    wait_for(lambda: not [p for p in processes_of(toy) if p.status() != psutil.STATUS_ZOMBIE], seconds=10)
