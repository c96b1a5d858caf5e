"""A stand-in for CUDA graphs on a CPU: operations are written down once, with their memory, and done again there."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mor_core.inference.cuda_graphs import Result

Operation = tuple[Callable, tuple, dict, Any]
"""Function, what it was called with, and what it returned."""


class Tape(TorchDispatchMode):
    """Writes down every operation on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, returned))
        return returned

    def play(self) -> None:
        """Do all of it again: nothing of Python between them runs, and results come to lie where they lay before."""
        for function, args, kwargs, returned in self.operations:
            for before, now in zip(tree_leaves(returned), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(before, Tensor) and before.data_ptr() != now.data_ptr():
                    before.copy_(now)


class Tapes:
    """Records like `cuda_graphs`."""

    def __init__(self) -> None:
        self.recordings = self.repetitions = 0
        self.operations: set[str] = set()

    def __call__(self, work: Callable[[Tensor], Result], numbers: Tensor) -> tuple[Callable[[], None], Result]:
        tape = Tape()
        with tape:
            result = work(numbers)
        self.recordings += 1
        self.operations |= {function.name() for function, *_ in tape.operations}
        is_done = True  # A CPU cannot write down what it does not do: the first repetition has been done.

        def repeat() -> None:
            nonlocal is_done
            if not is_done:
                tape.play()
            is_done = False
            self.repetitions += 1

        return repeat, result
