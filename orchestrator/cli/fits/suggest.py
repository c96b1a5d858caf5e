"""`mor-sweep suggest`: the next cells worth training, with reasons and the commands that train them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.fits.study import CAUSAL, FIT_REFUSED, SweepName
from orchestrator.cli.options import AsJson, LossOption, Results, print_json, say_next

if TYPE_CHECKING:
    from analysis.advice.suggest import Suggestion
    from orchestrator.cli.tables.listing import Listing
    from orchestrator.search.candidates import Costed

SCHEMA = "mor-sweep.suggest/1"

MEANING = "N* to: N* at that budget is known to this factor either way, with the rows above"
"""What two columns hold."""


def suggest(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossOption = CAUSAL,
    count: Annotated[int, typer.Option(help="Cells to name at most.", min=1)] = 8,
    as_json: AsJson = False,
) -> None:
    """Name the cells to train next, with the commands for them.

    First sizes beyond edge minima, then those that narrow N* most for their cost. Exit code 5 where there are none.
    """
    from dataclasses import asdict

    from analysis.statistics.answers import Refusal
    from orchestrator.cli.tables.listing import output_console, show
    from orchestrator.records.fits.fitted import fit_of_sweep
    from orchestrator.search.candidates import next_cells
    from orchestrator.search.spec_of_sweep import commands
    from orchestrator.store.upstream.upstream import open_store

    store = open_store(results)
    fitted = fit_of_sweep(store, sweep, loss)
    assert fitted.sweep is not None
    suggested = next_cells(store, fitted.sweep, fitted.runs, fitted.study.points, count=count)
    if isinstance(suggested, Refusal):
        typer.echo(f"refused: {suggested.sentence}", err=True)
        raise typer.Exit(FIT_REFUSED)
    lines = commands([suggestion for suggestion, _ in suggested], fitted.sweep, results)
    if as_json:
        cells = [asdict(suggestion) | {"flops": cost.flops, "seconds": cost.seconds} for suggestion, cost in suggested]
        print_json(SCHEMA, {"sweep": fitted.name, "suggestions": cells, "commands": lines})
        return
    show(output_console(), _listing(suggested))
    typer.echo("\nTo train them:")
    for line in lines:
        typer.echo(f"  {line}")
    say_next(["fit", fitted.name], results=results)


def _listing(suggested: "list[tuple[Suggestion, Costed]]") -> "Listing":
    """A row a cell: what it takes, how well N* is known before and after it, or why it is needed."""
    from mor_core.units import duration_text, short_power
    from orchestrator.cli.tables.listing import Column, Listing
    from orchestrator.records.cell_names import place_name

    rows: list[tuple[str, ...]] = []
    for number, (suggestion, cost) in enumerate(suggested, start=1):
        cell = suggestion.candidate
        name = place_name(cell.arm, cell.size, int(cell.budget), cell.seed)
        takes = "" if cost.seconds is None else duration_text(cost.seconds)
        factors = (suggestion.known_to, suggestion.expected_to)
        before, after = ("" if factor is None else f"{factor:.3f}" for factor in factors)
        why = suggestion.reason if suggestion.known_to is None else ""
        rows.append((str(number), name, short_power(cost.flops), takes, before, after, why))
    columns = (
        Column(name=""),
        Column(name="cell", is_text=True),
        Column(name="FLOPs", spare=1),
        Column(name="time", is_text=True),
        Column(name="N* to"),
        Column(name="then"),
        Column(name="why", wraps=True),
    )
    has_why = any(row[-1] for row in rows)
    has_factors = any(row[4] for row in rows)
    kept = [place for place in range(7) if (has_why or place != 6) and (has_factors or place not in (4, 5))]
    return Listing(
        columns=tuple(columns[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in rows),
        footer=MEANING if has_factors else "",
    )
