"""F1, F2, F8, F27: many kills, many drivers, many cells."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.disturbances import assert_as_undisturbed, assert_nothing_is_left, wait_for, worker_pids
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep

NUM_KILLS = 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.faults("F1", "F2", invariants=("I1", "I2", "I4", "I8"))
def test_a_hundred_kills_at_random_times_end_with_the_references_hashes(toy: ToySweep, reference: ToySweep, figures):
    """One driver in three kills, one worker in the others; whatever was published stays as it was."""
    chance = random.Random(0)
    published: dict[str, bytes] = {}
    kills = drivers = 0
    driver = toy.start("--workers", "2")
    while kills < NUM_KILLS:
        if driver.poll() is not None:
            driver.communicate()
            if len(toy.published()) == len(reference.published()):
                break  # All is done: further kills would meet no work.
            driver = toy.start("--workers", "2")
            drivers += 1
        workers = worker_pids(toy)
        if workers and chance.random() < 2 / 3:
            os.kill(chance.choice(workers), signal.SIGKILL)
        elif workers:
            driver.kill()
            driver.communicate(timeout=200)
            assert_nothing_is_left(toy)
        else:
            time.sleep(0.05)
            continue
        kills += 1
        now = toy.published()
        assert {name: now[name] for name in published} == published
        published = now
        time.sleep(chance.uniform(0.0, 1.5))
    if driver.poll() is None:
        driver.kill()
        driver.communicate(timeout=200)
    assert_nothing_is_left(toy)
    assert toy.run().returncode == 0
    assert toy.science().equals(reference.science())
    assert_as_undisturbed(toy, reference)
    figures("F1", f"{kills} kills of drivers and workers, {drivers} restarts, hashes as undisturbed")
    figures("F2", f"{kills} kills of drivers and workers, hashes as undisturbed")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.faults("F8", invariants=("I1", "I2", "I3", "I4"))
def test_eight_drivers_at_once_compute_every_segment_once(toy: ToySweep, reference: ToySweep, figures):
    started = time.monotonic()
    drivers = [toy.start(executor="in-process") for _ in range(8)]
    outputs = [driver.communicate(timeout=800)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0] * 8, outputs
    attempts = [json.loads(data)["attempts"] for data in toy.published().values()]
    assert attempts == [1] * 36
    assert toy.science().equals(reference.science())
    assert_as_undisturbed(toy, reference)
    figures("F8", f"8 drivers: 12 cells, 36 segments, each computed once, {time.monotonic() - started:.0f} s")


@pytest.mark.slow
@pytest.mark.faults("F27")
def test_two_thousand_cells_are_planned_and_shown_with_256_file_descriptors(toy: ToySweep, tmp_path: Path, figures):
    """Peak memory and CPU time are the command's own, start of the interpreter included."""
    prepared = toy.run("--budgets", "6e8", "--sizes", "13k", "--arms", "vanilla")
    assert prepared.returncode == 0, prepared.stderr
    many = replace(toy, results=tmp_path / "many")
    seeds = ",".join(str(seed) for seed in range(167))
    plan_seconds, plan_megabytes, text = _limited(
        many, many.command("--seeds", seeds, "--dry-run"), tmp_path / "plan.log"
    )
    assert re.search(r"2,?004 cells", text), text[-2000:]
    figures("F27", f"plan of 2,004 cells in {plan_seconds:.1f} s CPU, {plan_megabytes:.0f} MB")
    assert plan_megabytes < 300
    driver = many.start("--seeds", seeds, executor="in-process")
    wait_for(lambda: len(many.published()) >= 3, seconds=200)
    driver.kill()
    driver.communicate(timeout=200)
    command = [*MOR_SWEEP, "status", "--results", str(many.results)]
    status_seconds, status_megabytes, _ = _limited(many, command, tmp_path / "status.log")
    figures("F27", f"status in {status_seconds:.1f} s CPU, {status_megabytes:.0f} MB")
    assert status_megabytes < 300
    assert plan_seconds < 6
    assert status_seconds < 6


MEASURED = """
import json, resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024], file)
sys.exit(code)
"""
"""A small process between: what Linux gives as a child's peak memory starts from its parent's."""


def _limited(toy: ToySweep, command: list[str], log: Path) -> tuple[float, float, str]:
    """CPU seconds, peak megabytes and output of a command that may open 256 files."""
    used = log.with_suffix(".json")
    with log.open("w") as file:
        measured = [sys.executable, "-c", MEASURED, str(used), *command]
        done = subprocess.run(measured, env=toy.environment, stdout=file, stderr=file, check=False)
    assert done.returncode == 0, log.read_text()
    seconds, megabytes = json.loads(used.read_text())
    return seconds, megabytes, log.read_text()


@pytest.mark.slow
@pytest.mark.faults("F21")
def test_a_hundred_thousand_configurations_have_as_many_names_whatever_the_hash_seed(figures):
    """Learning rates, batches and seeds at random; the names of the first ones in processes with other hash seeds."""
    script = (
        "import random\n"
        "from mor_core.config.training import TrainConfig\n"
        "from orchestrator.planning.identity import content_id\n"
        "import sys\n"
        "chance, names, asked = random.Random(0), set(), set()\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    train = TrainConfig(batch_size=chance.randrange(1, 2**16), peak_learning_rate=chance.random(),"
        " warmup_steps=chance.randrange(10**6))\n"
        "    asked.add((train.batch_size, train.peak_learning_rate, train.warmup_steps))\n"
        "    names.add(content_id({'train': train, 'seed': 0}))\n"
        "print(len(asked), len(names), min(names), max(names))\n"
    )

    def named(count: int, hash_seed: str) -> list[str]:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", script, str(count)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    asked, names, *_ = named(100_000, "0")
    assert asked == names
    assert named(1000, "1") == named(1000, "2")
    figures("F21", f"{names} configurations, as many names")
