"""Which cells rest only on published segments whose files are as they were published."""

from collections.abc import Mapping
from functools import cache

from mor_core.units import counted_text
from orchestrator.planning.cells import Cell
from orchestrator.records.cell_names import cell_name
from orchestrator.records.revisions import Sweep
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import sweep_texts

SHOWN = 5
"""Lines beyond which what is left out is only counted."""


class VerifiedCells:
    """The cells of a sweep, each of whose published segments is read and compared with its sums once."""

    def __init__(self, store: Store, sweep: Sweep) -> None:
        self._store = store
        self._sweep = sweep
        self._fault = cache(self._fault_of)
        self._texts = sweep_texts(store, sweep.name)
        self._trunk_steps = cache(store.published_trunk_steps)

    def fault(self, cell: Cell) -> str:
        """What is wrong with a file that the cell's row or curve rests on, in a sentence that names it; else empty."""
        return next((fault for name in self._segments(cell) if (fault := self._fault(name))), "")

    def faults(self) -> dict[Cell, str]:
        """The cells of the sweep that rest on a file with something wrong, each with what."""
        return {cell: fault for cell in self._sweep.cells if (fault := self.fault(cell))}

    def _segments(self, cell: Cell) -> list[str]:
        """Those that lead to the cell, those of its trunk that its curve is read from, its scores on tasks and its
        losses on texts."""
        chain = [segment.id for segment in self._sweep.chain(cell)]
        published = self._trunk_steps(str(cell.trunk_id))
        trunk = [name for step, name in published if step <= cell.decay_start]
        weights = self._sweep.segments[str(cell.evaluate_segment)].needs[0]
        scores = self._store.published_task_scores(weights)
        texts = [text.segment_id(weights) for text in self._texts.values()]
        return list(dict.fromkeys([*chain, *trunk, *scores, *texts]))

    def _fault_of(self, segment_id: str) -> str:
        try:
            self._store.verified_result(segment_id)
        except StoreError as error:
            return str(error)
        return ""


def fault_lines(faults: Mapping[Cell, str]) -> list[str]:
    """One line for each thing that is wrong, with the cells that rest on it."""
    cells: dict[str, list[str]] = {}
    for cell, fault in faults.items():
        cells.setdefault(fault, []).append(cell_name(cell))
    return [f"{_names(names)}: {fault}" for fault, names in cells.items()]


def shown_lines(lines: list[str]) -> list[str]:
    """The first few, and how many more there are."""
    more = len(lines) - SHOWN
    return lines if more <= 0 else [*lines[:SHOWN], f"and {more} more"]


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {counted_text(len(names) - 1, 'more cell')}"
