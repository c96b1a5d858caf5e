"""Timing arms side by side."""

from collections.abc import Iterator

import pytest

from orchestrator.inference.throughput import take_turns


class Machine:
    """A clock, and work that moves it: twice as slow from some time on."""

    def __init__(self, slower_after: float) -> None:
        self.now, self.slower_after = 0.0, slower_after

    def clock(self) -> float:
        return self.now

    def task(self, parts: int, seconds: float) -> Iterator[float]:
        for part in range(parts):
            self.now += seconds / parts * (1 if self.now < self.slower_after else 2)
            yield (part + 1) / parts


def test_tasks_that_take_turns_keep_their_ratio_on_a_machine_that_slows_down():
    machine = Machine(slower_after=20.0)
    short, long = take_turns([machine.task(400, 10.0), machine.task(300, 30.0)], machine.clock)
    assert short + long == pytest.approx(machine.now)
    # One after another the second alone would have met the slow time: a ratio of nearly 5.
    assert long / short == pytest.approx(3.0, rel=0.05)


def test_a_task_that_does_nothing_takes_no_time():
    machine = Machine(slower_after=0.0)
    assert take_turns([iter(()), machine.task(4, 1.0)], machine.clock) == [0.0, 2.0]
