"""F11 and F12: told to stop, every running segment keeps a checkpoint at its next step and goes on from there."""

import os
import signal

import pytest

from tests.faults.disturbances import (
    ONE_CELL,
    TWO_CELLS,
    assert_as_undisturbed,
    assert_nothing_is_left,
    busy_seconds,
    checkpoints,
    early,
    executed,
    interruptions,
    pid_of,
    signalled,
    wait_for,
)
from tests.helpers.toy_sweep import ToySweep

GRACE_SECONDS = 3.0


def assert_goes_on_without_losing_a_step(toy: ToySweep, stopped: dict[str, int]) -> None:
    """No segment that was told to stop took one of its steps twice."""
    steps = executed(toy)
    assert stopped
    for name, step in stopped.items():
        taken, last = steps[name]
        assert step + taken == last


@pytest.mark.faults("F11", "F12", invariants=("I4", "I5"))
@pytest.mark.parametrize(
    ("number", "grace", "flags"),
    [
        (signal.SIGTERM, GRACE_SECONDS, ("--no-mlflow",)),
        pytest.param(signal.SIGTERM, GRACE_SECONDS, (), marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 200.0, (), marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_process_told_to_stop_keeps_its_step_and_loses_none(
    toy: ToySweep, reference: ToySweep, figures, number: signal.Signals, grace: float, flags: tuple[str, ...]
):
    """SIGKILL after 3 s may cut off what follows the checkpoint: the mirror's last pass."""
    driver = toy.start(*ONE_CELL, *flags, executor="in-process")
    wait_for(lambda: bool(checkpoints(toy)))
    seconds, output = signalled(driver, number, grace=grace)
    assert driver.returncode in (128 + number, -signal.SIGKILL), output
    assert driver.returncode > 0 or number == signal.SIGTERM
    assert "stopping: every running segment keeps a checkpoint" in output
    stopped = interruptions(toy)
    assert toy.run(*ONE_CELL).returncode == 0
    assert_goes_on_without_losing_a_step(toy, stopped)
    assert_as_undisturbed(toy, reference)
    figures(
        "F11" if number == signal.SIGTERM else "F12",
        f"{number.name}: left after {seconds:.1f} s at step {max(stopped.values())}, 0 steps taken twice",
    )


@pytest.mark.slow
@pytest.mark.faults("F11", "F12", invariants=("I4", "I5", "I8"))
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ray_workers_keep_their_step_when_their_driver_is_told_to_stop(
    toy: ToySweep, reference: ToySweep, figures, number: signal.Signals, code: int
):
    driver = toy.start("--workers", "2", *TWO_CELLS)
    early(toy)
    seconds, output = signalled(driver, number, grace=200.0)
    assert driver.returncode == code, output
    stopped = interruptions(toy)
    assert_nothing_is_left(toy)
    assert toy.run("--workers", "2", *TWO_CELLS, executor="ray").returncode == 0
    assert_goes_on_without_losing_a_step(toy, stopped)
    assert_as_undisturbed(toy, reference)
    figures(
        "F11" if number == signal.SIGTERM else "F12",
        f"{number.name} to a Ray driver: {len(stopped)} workers kept their step, gone after {seconds:.1f} s",
    )


@pytest.mark.slow
@pytest.mark.faults("F11", invariants=("I4", "I5"))
def test_a_preempted_ray_worker_keeps_its_step_and_another_goes_on_from_it(toy: ToySweep, reference: ToySweep, figures):
    driver = toy.start("--workers", "2", *TWO_CELLS)
    os.kill(pid_of(early(toy)), signal.SIGTERM)
    output, _ = driver.communicate(timeout=800)
    assert driver.returncode == 0, output
    stopped = interruptions(toy)
    assert_goes_on_without_losing_a_step(toy, stopped)
    assert_as_undisturbed(toy, reference)
    figures("F11", f"a worker preempted at step {max(stopped.values())}: another went on from it, 0 steps taken twice")


@pytest.mark.slow
@pytest.mark.faults("F12", invariants=("I4", "I5", "I8"))
def test_a_second_ctrl_c_ends_at_once_and_the_same_command_goes_on(toy: ToySweep, reference: ToySweep, figures):
    driver = toy.start("--workers", "2", *TWO_CELLS)
    early(toy)
    driver.send_signal(signal.SIGINT)
    seconds, output = signalled(driver, signal.SIGINT, grace=200.0)
    assert driver.returncode == 130, output
    assert "Traceback" not in output
    assert_nothing_is_left(toy)
    assert seconds < busy_seconds(10)
    assert toy.run("--workers", "2", *TWO_CELLS, executor="ray").returncode == 0
    assert_as_undisturbed(toy, reference)
    figures("F12", f"Ctrl-C twice: gone after {seconds:.1f} s")
