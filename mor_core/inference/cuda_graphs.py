"""The device's part of a run recorded once, and repeated for other numbers (CUDA graphs).

Decoding is hundreds of small operations a run, which a GPU does faster than its host can ask for them: repeating a
recording asks once. A recording fits runs of one shape, so runs are first brought to few shapes: the last token is
repeated, which does the same to memory again, and more entries of the tables are read and hidden.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mor_core.inference.ragged import Part, Shape, unpacked

SHORTEST = 64
"""Entries of a table that are read at least: below it, attention costs a GPU the same."""


class Result(NamedTuple):
    """What a run leaves on the device; the next one may overwrite it."""

    answer: Tensor | None
    """What the host is told."""
    details: Tensor | None
    """What it may ask for: logits of tokens that were chosen, or of routers."""


Work = Callable[[Sequence[Part]], Result]
"""The device's part of a run: a function of numbers."""

Record = Callable[[Callable[[Tensor], Result], Tensor], tuple[Callable[[], None], Result]]
"""Records what a function of numbers does on a device: returns what does it again, and where that leaves its result.
Before it is done again, nothing has been done."""


def one_of_few(shape: Shape, context_length: int) -> Shape:
    """A shape for single tokens that holds this one: a power of two tokens, above 16 also the middle between two."""
    power = 1 << (shape.tokens - 1).bit_length()
    middle = power * 3 // 4
    tokens = middle if power > 16 and shape.tokens <= middle else power
    longest = min(context_length, max(SHORTEST, 1 << (shape.longest - 1).bit_length()))
    return Shape(tokens, shape.notes, longest)


class Recorder:
    """Does the work of runs, from a recording where the same shape was there before."""

    def __init__(self, device: torch.device, record: Record) -> None:
        self._device, self._record = device, record
        self._recordings: dict[tuple[Work, tuple[Shape, ...]], tuple[Callable[[], None], Tensor, Result] | None] = {}
        """What repeats each, the numbers that it reads, and where it leaves its result; None before it is recorded."""

    def __call__(self, work: Work, numbers: Tensor, shapes: tuple[Shape, ...]) -> Result:
        """What the work returns, given numbers in memory that the device can fetch them from."""
        key = (work, shapes)
        if key not in self._recordings:
            # Done for what it does to memory, which cannot be done twice; and libraries make their plans.
            self._recordings[key] = None
            return work(unpacked(numbers.to(self._device, non_blocking=True), shapes))
        recording = self._recordings[key]
        if recording is None:
            fixed = torch.empty_like(numbers, device=self._device).copy_(numbers, non_blocking=True)
            repeat, result = self._record(lambda numbers: work(unpacked(numbers, shapes)), fixed)
            self._recordings[key] = (repeat, fixed, result)
        else:
            repeat, fixed, result = recording
            fixed.copy_(numbers, non_blocking=True)
        repeat()
        return result


def cuda_graphs() -> Record:
    """Recording on a GPU. Recordings share their temporary memory: one runs at a time, and none needs it afterwards."""
    memory = torch.cuda.graph_pool_handle()

    def record(work: Callable[[Tensor], Result], numbers: Tensor) -> tuple[Callable[[], None], Result]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory):
            result = work(numbers)
        return graph.replay, result

    return record
