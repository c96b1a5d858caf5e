"""The device's part of a run recorded once, and repeated for other numbers (CUDA graphs).

Decoding is hundreds of small operations a run, which a GPU does faster than its host can ask for them: repeating a
recording asks once. A recording fits runs of one shape, so runs are first brought to few shapes: the last token is
repeated, which does the same to memory again, and more entries of the tables are read and hidden.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mor_core.inference.ragged import Part, Shape, on_device

SHORTEST = 64
"""Entries of a table that are read at least: below it, attention costs a GPU the same."""


class Result(NamedTuple):
    """What a run leaves on the device; the next one may overwrite it."""

    answer: Tensor | None
    """What the host is told."""
    details: Tensor | None
    """What it may ask for: logits of tokens that were chosen, or of routers."""


class Work(Protocol):
    """The device's part of a run: a function of numbers."""

    @property
    def __name__(self) -> str: ...

    def __call__(self, parts: Sequence[Part[Tensor]], carried: Any = None) -> Result: ...


Record = Callable[[Callable[[Tensor], Result], Tensor], tuple[Callable[[], None], Result]]
"""Records what a function of numbers does on a device: returns what does it again, and where that leaves its result.
Before it is done again, nothing has been done."""


def few_tokens(count: int) -> int:
    """Up to how many tokens a run is filled: a power of two, from 16 on also the middle between two."""
    power = 1 << (count - 1).bit_length()
    middle = power * 3 // 4
    return middle if power > 16 and count <= middle else power


def few_entries(longest: int, context_length: int) -> int:
    """Up to how many entries of tables are read."""
    return min(context_length, max(SHORTEST, 1 << (longest - 1).bit_length()))


class _Recording(NamedTuple):
    repeat: Callable[[], None]
    numbers: Tensor
    """What it reads."""
    result: Result
    """Where it leaves it."""


class Recorder:
    """Does the work of runs, from a recording where the same shape was there before."""

    def __init__(self, device: torch.device, record: Record) -> None:
        self._device, self._record = device, record
        self._recordings: dict[tuple[str, tuple[Shape, ...]], _Recording | None] = {}

    def __call__(self, work: Work, numbers: Tensor, shapes: tuple[Shape, ...]) -> Result:
        """What the work returns, given numbers in memory that the device can fetch them from."""
        key = (work.__name__, shapes)
        if key not in self._recordings:
            # Done for what it does to memory, which cannot be done twice; and libraries make their plans.
            self._recordings[key] = None
            return work(on_device(numbers.to(self._device, non_blocking=True), shapes))
        recording = self._recordings[key]
        if recording is None:
            fixed = torch.empty_like(numbers, device=self._device)
            fixed.copy_(numbers, non_blocking=True)
            repeat, result = self._record(lambda numbers: work(on_device(numbers, shapes)), fixed)
            recording = self._recordings[key] = _Recording(repeat=repeat, numbers=fixed, result=result)
        else:
            recording.numbers.copy_(numbers, non_blocking=True)
        recording.repeat()
        return recording.result


def cuda_graphs() -> Record:
    """Recording on a GPU. Recordings share their temporary memory: one runs at a time, and none needs it afterwards."""
    memory = torch.cuda.graph_pool_handle()

    def record(work: Callable[[Tensor], Result], numbers: Tensor) -> tuple[Callable[[], None], Result]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory):
            result = work(numbers)
        return graph.replay, result

    return record
