"""A stage's work recorded on a GPU, and repeated for other numbers (CUDA graphs).

Decoding is hundreds of small operations a run, which a GPU does faster than its host can ask for them: repeating a
recording asks once. A recording fits runs of one shape, so runs are first brought to few shapes.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mor_core.inference.in_flight import Wave
from mor_core.inference.ragged import Numbers, Shape, columns

SHORTEST = 64
"""Entries of a table that are read at least: below it, attention costs a GPU the same."""


class Work(Protocol):
    """The device's part of a stage: a function of numbers, where there are no prompts (`ragged`)."""

    @property
    def __name__(self) -> str: ...

    def __call__(self, numbers: Numbers[Tensor], shape: Shape, ragged: Sequence[Wave]) -> Tensor | None: ...


def evened(numbers: Numbers[Sequence[int]], shape: Shape, context_length: int) -> tuple[Numbers[Sequence[int]], Shape]:
    """A run of single tokens brought to one of few shapes: its last token is repeated, which does the same to memory
    again, and more entries of the tables are read and hidden. What it returns begins with what the run itself would."""
    size = _size(len(numbers.rows))
    filled = Numbers(*([*each, *[each[-1]] * (-len(each) % size)] if each else each for each in numbers))
    longest = min(context_length, max(SHORTEST, 1 << (shape.longest - 1).bit_length())) if shape.longest else 0
    return filled, Shape(tuple(map(len, filled)), longest, shape.longest > 0, ())


def _size(tokens: int) -> int:
    """Up to how many tokens a run is filled: a power of two, from 16 on also the middle between two."""
    power = 1 << (tokens - 1).bit_length()
    middle = power * 3 // 4
    return middle if power > 16 and tokens <= middle else power


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    numbers: Tensor
    """What it reads."""
    result: Tensor | None
    """What it leaves; the next repetition overwrites it."""


class Recorder:
    """Does stages' work, from a recording where the same shape was there before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recordings: dict[tuple[str, Shape], _Recording | None] = {}
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work, numbers: Tensor, shape: Shape) -> Tensor | None:
        """What the work returns, given numbers in memory that the device can fetch them from. It is good until the
        next call."""
        key = (work.__name__, shape)
        if key not in self._recordings:
            # Done for what it does to memory, which cannot be done twice; and libraries make their plans.
            self._recordings[key] = None
            return work(columns(numbers.to(self._device, non_blocking=True), shape), shape, ())
        recording = self._recordings[key]
        if recording is None:
            recording = self._recordings[key] = self._record(work, numbers.to(self._device, non_blocking=True), shape)
        else:
            recording.numbers.copy_(numbers, non_blocking=True)
        recording.graph.replay()
        return recording.result

    def _record(self, work: Work, numbers: Tensor, shape: Shape) -> _Recording:
        graph = torch.cuda.CUDAGraph()
        # All recordings share their temporary memory: one runs at a time, and none needs it afterwards.
        with torch.cuda.graph(graph, pool=self._memory):
            result = work(columns(numbers, shape), shape, ())
        return _Recording(graph=graph, numbers=numbers, result=result)
