"""Names of cells as a user types them: the start of a cell's id, or arm/size/budget[/seed] as tables show it."""

from collections.abc import Sequence

from mor_core.errors import UserError
from mor_core.units import budget_text, parse_budget, short_budget
from orchestrator.planning.cells import Cell
from orchestrator.planning.identity import chain_ids
from orchestrator.records.revisions import Sweep
from orchestrator.records.terminal import printable_label
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import find_document, sweep_names

SHORTEST_PREFIX = 4
SHOWN_CANDIDATES = 6


class NoSuchCell(UserError):
    """Nothing, or more than one cell, is called so; the message names cells that there are."""


def find_cell(sweep: Sweep, name: str) -> Cell:
    """The one cell that a name means. Raises NoSuchCell."""
    cells = _by_parts(sweep, name) if "/" in name else _by_prefix(sweep, name)
    if len(cells) == 1:
        return cells[0]
    complaint = f"is {len(cells)} cells" if cells else f"is no cell of sweep {sweep.name}"
    raise NoSuchCell(
        f"{name!r} {complaint}: expected the start of a cell's id ({SHORTEST_PREFIX} characters or more) or "
        f"arm/size/budget[/seed]; there are {_listed(cells or sweep.cells)}"
    )


def cell_name(cell: Cell) -> str:
    """Such as mor-2/135M/2e18/0: what `find_cell` takes."""
    return place_name(*_labels(cell), cell.budget, cell.seed)


def place_name(arm: str, size: str, budget: int, seed: int) -> str:
    """What a cell of this place is called, trained or not."""
    return f"{arm}/{size}/{budget_text(budget)}/{seed}"


def segment_names(store: Store) -> dict[str, str]:
    """Segment id -> such as "mor-2/23k/0 stable to step 334", of every sweep. Raises StoreError where a sweep cannot be
    read."""
    names: dict[str, str] = {}
    for sweep in sweep_names(store):
        _, document = find_document(store, sweep)
        for revision in document["revisions"]:
            planned = {segment["id"]: segment for segment in revision["segments"]}
            for cell in revision["cells"]:
                place = f"{printable_label(cell['arm'])}/{printable_label(cell['size'])}/{cell['seed']}"
                for name in chain_ids(cell["evaluate_segment"], lambda name, planned=planned: planned[name]["needs"]):
                    segment = planned[name]
                    names.setdefault(name, f"{place} {segment['kind']} to step {segment['stop_step']}")
    return names


def _labels(cell: Cell) -> tuple[str, str]:
    """Arm and size as they are shown, and so as they are typed."""
    return printable_label(cell.arm), printable_label(cell.size)


def _by_prefix(sweep: Sweep, prefix: str) -> list[Cell]:
    if len(prefix) < SHORTEST_PREFIX:
        return []
    return [cell for cell in sweep.cells if str(cell.cell_id).startswith(prefix.lower())]


def _by_parts(sweep: Sweep, name: str) -> list[Cell]:
    parts = name.split("/")
    if len(parts) not in (3, 4):
        return []
    arm, size, budget = parts[:3]
    return [
        cell
        for cell in sweep.cells
        if _labels(cell) == (arm, size) and _is_budget(cell, budget) and parts[3:] in ([], [str(cell.seed)])
    ]


def _is_budget(cell: Cell, text: str) -> bool:
    """Exactly, or rounded as a narrow table shows it."""
    if text == short_budget(cell.budget):
        return True
    try:
        return parse_budget(text) == cell.budget
    except ValueError:
        return False


def _listed(cells: Sequence[Cell]) -> str:
    names = [cell_name(cell) for cell in cells[:SHOWN_CANDIDATES]]
    more = len(cells) - len(names)
    return ", ".join(names) + (f" and {more} more (mor-sweep status)" if more else "")
