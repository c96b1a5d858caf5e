"""`mor-sweep suggest`: the next cells worth training, with reasons and the commands that train them."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.fits.study import CAUSAL, FIT_REFUSED, SweepName
from orchestrator.cli.options import AsJson, LossOption, Results, print_json, say_next

SCHEMA = "mor-sweep.suggest/1"


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
    from mor_core.units import budget_text, duration_text
    from orchestrator.records.fits import fit_of_sweep
    from orchestrator.search.candidates import next_cells
    from orchestrator.search.spec_of_sweep import commands
    from orchestrator.store.upstream.upstream import open_store

    store = open_store(results)
    fitted = fit_of_sweep(store, sweep, loss)
    assert fitted.sweep is not None
    found = next_cells(store, fitted.sweep, fitted.runs, fitted.study.points, count=count)
    if isinstance(found, Refusal):
        typer.echo(f"refused: {found.sentence}", err=True)
        raise typer.Exit(FIT_REFUSED)
    lines = commands([suggestion for suggestion, _ in found], fitted.sweep, results)
    if as_json:
        cells = [asdict(suggestion) | {"flops": cost.flops, "seconds": cost.seconds} for suggestion, cost in found]
        print_json(SCHEMA, {"sweep": fitted.name, "suggestions": cells, "commands": lines})
        return
    for number, (suggestion, cost) in enumerate(found, start=1):
        cell = suggestion.candidate
        takes = f"{cost.flops:.3g} FLOPs" + ("" if cost.seconds is None else f", {duration_text(cost.seconds)}")
        typer.echo(f"{number}. {cell.arm} {cell.size} at {budget_text(int(cell.budget))}, seed {cell.seed}")
        typer.echo(f"   {suggestion.reason} ({takes})")
    typer.echo("\nTo train them:")
    for line in lines:
        typer.echo(f"  {line}")
    say_next(["fit", fitted.name], results=results)
