"""What the shell offers for sweeps and cells: names read from sweep.json alone. Never an error, nothing written."""

from pathlib import Path

import typer


def complete_sweep(context: typer.Context, incomplete: str) -> list[str]:
    """Sweeps of the results folder, or of the one that --results names."""
    from orchestrator.store.sweep_document import sweep_names

    return [name for name in sweep_names(_store(context)) if name.startswith(incomplete)]


def complete_cell(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Cells of the sweep that is named on the line, or of the last one used: arm/size/budget/seed, and their ids where
    one has been begun."""
    from mor_core.units import budget_text
    from orchestrator.records.terminal import printable_label
    from orchestrator.store.published import StoreError
    from orchestrator.store.sweep_document import NoSuchSweep, current_revisions, find_document

    try:
        _, document = find_document(_store(context), context.params.get("sweep"))
        cells = [cell for revision in current_revisions(document) for cell in revision["cells"]]
        named = {
            printable_label(f"{cell['arm']}/{cell['size']}/{budget_text(cell['budget'])}/{cell['seed']}"): cell[
                "cell_id"
            ]
            for cell in cells
        }
    except (NoSuchSweep, StoreError, KeyError, TypeError):
        return []
    found = [(name, identity[:12]) for name, identity in named.items() if name.startswith(incomplete)]
    if found or not incomplete:
        return found
    return [(identity, name) for name, identity in named.items() if identity.startswith(incomplete)]


def _store(context: typer.Context):
    from orchestrator.store.store import Store

    return Store(root=Path(context.params.get("results") or "results"))
