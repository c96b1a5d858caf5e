"""What fault tests look at and wait for in a toy sweep that is running."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import ToySweep

ONE_CELL = ("--sizes", "13k", "--arms", "vanilla", "--budgets", "2.4e9")
"""One cell of the toy sweep: a stable segment, a decay, an evaluation; the same ids as in the whole sweep."""


TWO_CELLS = ("--sizes", "13k", "--budgets", "2.4e9")
"""The same of both arms: two trunks that take a hundred steps at a stretch."""

SIX_CELLS = ("--sizes", "13k")
"""The smaller half of the toy sweep."""

EARLY_STEP = 40

Found = TypeVar("Found")

PATIENCE_SECONDS = 250.0
"""For what a test waits for and no promise limits: a command on a busy machine takes minutes to its first step."""


def wait_for(condition: Callable[[], Found], seconds: float = PATIENCE_SECONDS) -> Found:
    """Poll until the condition holds; returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


DEALT_TO = "PYTEST_XDIST_WORKER"
"""Names the process that runs a test, in its environment and in those of all processes that it starts."""


def processes_of(toy: ToySweep) -> list[psutil.Process]:
    """Processes that were started with this test's cache folder in their environment, by this one of the processes that
    the tests are dealt to: they share the folder."""
    ours = {"MOR_SWEEP_CACHE": str(toy.cache), DEALT_TO: os.environ.get(DEALT_TO)}
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if process.pid != os.getpid() and {name: environment.get(name) for name in ours} == ours:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def busy_seconds(seconds: float) -> float:
    """What a promise of so many seconds comes to on this machine now: processes that want a core wait for one."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def assert_nothing_is_left(toy: ToySweep) -> None:
    """I8: no process of the sweep is there ten seconds after its command."""
    started, promised = time.monotonic(), busy_seconds(10)
    while left := processes_of(toy):
        waited = time.monotonic() - started
        assert waited < promised, f"after {waited:.0f} s: {[_described(process) for process in left]}"
        time.sleep(0.02)


def _described(process: psutil.Process) -> str:
    """What a process is and does, for a message; its parent says who should have ended it."""
    try:
        with process.oneshot():
            age = time.time() - process.create_time()
            command = " ".join(process.cmdline())[:200]
            return f"{process.pid} of {process.ppid()}, {process.status()}, {age:.0f} s old: {command}"
    except psutil.NoSuchProcess:
        return f"{process.pid}, gone now"


def pid_of(attempt: Path) -> int:
    """The process that made an attempt, by the folder's name."""
    return int(attempt.name.rsplit("-", 1)[1])


def worker_pids(toy: ToySweep) -> list[int]:
    """Processes that are at work on an attempt."""
    pids = [pid_of(path) for path in toy.results.glob("attempts/*/*") if path.is_dir()]
    return [pid for pid in pids if psutil.pid_exists(pid)]


def reached(toy: ToySweep) -> list[tuple[Path, int]]:
    """(attempt, step of a complete checkpoint of it) where its process lives, the furthest step first."""
    found = [(path.parent, int(path.name.removeprefix("checkpoint-"))) for path in checkpoints(toy)]
    return sorted(((a, step) for a, step in found if psutil.pid_exists(pid_of(a))), key=lambda each: -each[1])


def early(toy: ToySweep) -> Path:
    """Waits for an attempt that has kept a checkpoint and has most of its steps to take; its folder."""
    attempt, _ = wait_for(lambda: next((each for each in reached(toy) if each[1] <= EARLY_STEP), None))
    return attempt


def checkpoints(toy: ToySweep) -> list[Path]:
    """Complete checkpoints of attempts: not those being written or removed."""
    found = toy.results.glob("attempts/*/*/checkpoint-*")
    return [path for path in found if path.name.removeprefix("checkpoint-").isdecimal()]


def failures(toy: ToySweep) -> list[dict]:
    """Every failure.json of the sweep's attempts, in the order of their attempts."""
    return [json.loads(path.read_text()) for path in sorted(toy.results.glob("attempts/*/*/failure.json"))]


def interruptions(toy: ToySweep) -> dict[str, int]:
    """segment id -> the step that its attempt was told to stop at."""
    found = toy.results.glob("attempts/*/*/interrupted.json")
    return {path.parent.parent.name: json.loads(path.read_text())["step"] for path in found}


def executed(toy: ToySweep) -> dict[str, tuple[int, int]]:
    """segment id -> (steps that its last attempt took, step that it ends with), of published training segments."""
    results = {name: json.loads(data) for name, data in toy.published().items()}
    return {
        name: (result["steps_executed"], result["step"])
        for name, result in results.items()
        if "steps_executed" in result
    }


def signalled(driver: subprocess.Popen[str], number: signal.Signals, *, grace: float) -> tuple[float, str]:
    """Send a signal and, as a scheduler does, SIGKILL after the grace. Seconds until the exit, and the output."""
    driver.send_signal(number)
    started = time.monotonic()
    try:
        output, _ = driver.communicate(timeout=grace)
    except subprocess.TimeoutExpired:
        driver.kill()
        output, _ = driver.communicate(timeout=60)
    return time.monotonic() - started, output


def preset(folder: Path, **execution: float) -> Path:
    """The toy sweep file with other or further execution settings."""
    lines = [line for line in TOY_PRESET.read_text().splitlines() if line.split(" = ")[0] not in execution]
    path = folder / "toy.toml"
    path.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in execution.items()), ""]))
    return path


def assert_as_undisturbed(toy: ToySweep, reference: ToySweep) -> None:
    """I4: the weights of every published segment are the reference's, and so is the science of its cells."""
    expected = reference.weights()
    weights = toy.weights()
    assert weights
    assert weights == {name: expected[name] for name in weights}
    cells = toy.science()
    assert cells.equals(reference.science().filter(reference.science()["cell_id"].is_in(cells["cell_id"].to_list())))
