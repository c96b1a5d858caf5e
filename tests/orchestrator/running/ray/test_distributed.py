"""Segments that several workers train together, through Ray Train: stopped, hung, killed, without memory."""

import json
import os
import signal
from pathlib import Path

import polars as pl
import pytest

from mor_core.training.rehearsal import VARIABLE
from tests.faults import disturbances
from tests.faults.disturbances import checkpoints, executed, failures, interruptions, processes_of, signalled, wait_for
from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import ToySweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GRID = ("--sizes", "23k", "--budgets", "2.4e9")
STALL_SECONDS = 20.0
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


@pytest.mark.faults("F2", invariants=("I5", "I8"))
@pytest.mark.parametrize("which", ["rank 0", "rank 1"])
def test_a_group_that_loses_a_rank_is_replaced_and_goes_on(
    toy: ToySweep, one_worker: ToySweep, two_workers: tuple[str, ...], figures, which: str
):
    driver = toy.start(*two_workers, *DENSE)
    wait_for(lambda: checkpoints(toy))
    first, others = ranks_of(toy)
    assert first is not None
    os.kill(first if which == "rank 0" else others.pop(), signal.SIGKILL)
    output, _ = driver.communicate(timeout=800)
    assert driver.returncode == 0, output
    assert losses(toy, "vanilla") == pytest.approx(losses(one_worker, "vanilla"), abs=1e-5)
    assert_trained_by_two(toy)
    step = assert_one_went_on(toy)
    assert not failures(toy), "nothing has failed"
    assert_nothing_is_left(toy)
    figures("F2", f"{which} of two killed: a new group went on from step {step}, losses within 1e-5")


def assert_one_went_on(toy: ToySweep) -> int:
    """One segment took a second attempt, which started from a checkpoint; the step of that."""
    (tried,) = [result for result in map(json.loads, toy.published().values()) if result["attempts"] > 1]
    assert tried["attempts"] == 2
    assert tried["steps_executed"] < tried["step"], "it started from the checkpoint"
    return tried["step"] - tried["steps_executed"]


def assert_nothing_is_left(toy: ToySweep) -> None:
    disturbances.assert_nothing_is_left(toy)
    assert not (toy.results / "scratch").exists()


@pytest.mark.faults("F11", "F12", invariants=("I5", "I8"))
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_two_workers_that_are_told_to_stop_keep_their_step_and_lose_none(
    toy: ToySweep, one_worker: ToySweep, two_workers: tuple[str, ...], figures, number: signal.Signals, code: int
):
    driver = toy.start(*two_workers, *DENSE)
    wait_for(lambda: checkpoints(toy))
    seconds, output = signalled(driver, number, grace=200.0)
    assert driver.returncode == code, output
    assert "Traceback" not in output
    stopped = interruptions(toy)
    assert len(stopped) == 1
    assert_nothing_is_left(toy)
    done = toy.run(*two_workers, *DENSE, executor="ray")
    assert done.returncode == 0, done.stderr
    for name, step in stopped.items():
        taken, last = executed(toy)[name]
        assert step + taken == last
    assert losses(toy, "vanilla") == pytest.approx(losses(one_worker, "vanilla"), abs=1e-5)
    assert_trained_by_two(toy)
    case = "F12" if number == signal.SIGINT else "F11"
    figures(case, f"{number.name} to two workers of one segment: gone after {seconds:.1f} s, 0 steps taken twice")


@pytest.mark.faults("F24", invariants=("I5",))
@pytest.mark.parametrize("which", ["rank 0 hangs", "rank 1 hangs", "rank 0 is stopped", "rank 1 is stopped"])
def test_a_group_of_which_one_rank_hangs_is_ended_and_replaced(
    toy: ToySweep, one_worker: ToySweep, two_workers: tuple[str, ...], figures, which: str
):
    """Rank 0's watchdog sees that no step is taken, whoever is to blame; the driver that rank 0 itself is stopped."""
    text = Path(two_workers[1]).read_text()
    Path(two_workers[1]).write_text(f"{text}stall_seconds = {STALL_SECONDS}\n")
    if which.endswith("hangs"):
        toy.variables[VARIABLE] = f"native-hang step=25 attempts=1 kind=stable rank={which[5]}"
    driver = toy.start(*two_workers, *DENSE)
    if which.endswith("is stopped"):
        wait_for(lambda: checkpoints(toy))
        first, others = ranks_of(toy)
        os.kill(first if which[5] == "0" and first else others.pop(), signal.SIGSTOP)
    output, _ = driver.communicate(timeout=800)
    assert driver.returncode == 0, output
    (failure,) = failures(toy)
    assert failure["class"] == "stalled"
    assert losses(toy, "vanilla") == pytest.approx(losses(one_worker, "vanilla"), abs=1e-5)
    assert_trained_by_two(toy)
    step = assert_one_went_on(toy)
    assert_nothing_is_left(toy)
    figures("F24", f"of two workers {which}: stacks kept, a new group went on from step {step}")


@pytest.mark.faults("F23", invariants=("I5",))
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_without_memory_halves_the_micro_batch_of_the_group(
    toy: ToySweep, one_worker: ToySweep, two_workers: tuple[str, ...], figures, rank: int
):
    """Of 4 sequences each rank has 2, and takes them one by one after the failure."""
    toy.variables[VARIABLE] = f"device-oom step=25 micro_batch=1 kind=stable rank={rank}"
    done = toy.run(*two_workers, *DENSE, executor="ray")
    assert done.returncode == 0, done.stderr
    (failure,) = failures(toy)
    assert failure["class"] == "oom"
    assert "out of memory was rehearsed (peak " in failure["reason"]
    assert "OutOfMemoryError" in failure["traceback"]
    step = assert_one_went_on(toy)
    (halved,) = [result for result in map(json.loads, toy.published().values()) if result["attempts"] > 1]
    assert [(each["micro_batch"], each["world_size"]) for each in halved["numerics"]] == [(4, 2), (1, 2)]
    assert losses(toy, "vanilla") == pytest.approx(losses(one_worker, "vanilla"), abs=1e-5)
    figures("F23", f"rank {rank} of two without memory: went on from step {step} with half the micro-batch")


def test_a_defect_of_a_rank_that_writes_nothing_is_told_as_its_own(toy: ToySweep, two_workers: tuple[str, ...]):
    """And not as a lost process, which would be tried again."""
    toy.variables[VARIABLE] = "raise step=5 rank=1"
    done = toy.run(*two_workers, *DENSE, executor="ray")
    assert done.returncode == 3, done.stderr
    (failure,) = failures(toy)
    assert (failure["class"], failure["rank"]) == ("error", 1)
    assert "error: RuntimeError: a defect was rehearsed" in done.stderr
    assert_nothing_is_left(toy)
