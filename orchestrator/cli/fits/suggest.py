"""`mor-sweep suggest`: the next cells worth training, with reasons and the commands that train them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.fits.study import CAUSAL, FIT_REFUSED, SweepName
from orchestrator.cli.options import AsJson, LossOption, Results, open_results, print_json, say_next


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
    from analysis.statistics.answers import Refusal
    from orchestrator.cli.tables.advice import print_suggestions
    from orchestrator.records.fits.fitted import fit_of_sweep
    from orchestrator.search.candidates import next_cells
    from orchestrator.search.spec_of_sweep import commands

    store = open_results(results)
    fitted = fit_of_sweep(store, sweep, loss)
    assert fitted.sweep is not None
    suggested = next_cells(store, fitted.sweep, fitted.runs, fitted.study.points, count=count)
    if isinstance(suggested, Refusal):
        typer.echo(f"refused: {suggested.sentence}", err=True)
        raise typer.Exit(FIT_REFUSED)
    lines = commands([suggestion for suggestion, _ in suggested], fitted.sweep, results)
    if as_json:
        cells = [asdict(suggestion) | {"flops": cost.flops, "seconds": cost.seconds} for suggestion, cost in suggested]
        print_json("mor-sweep.suggest/1", {"sweep": fitted.name, "suggestions": cells, "commands": lines})
        return
    print_suggestions(suggested, lines)
    say_next(["fit", fitted.name], results=results)
