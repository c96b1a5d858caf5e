"""`mor-sweep suggest`: the next cells worth training, with reasons and the commands that train them."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.fits.study import FIT_REFUSED, LOSS_COLUMNS, Loss, LossChoice, SweepName
from orchestrator.cli.options import AsJson, Results, print_json, say_next

SCHEMA = "mor-sweep.suggest/1"


def suggest(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    count: Annotated[int, typer.Option(help="Cells to name at most.", min=1)] = 8,
    preset: Annotated[
        str | None, typer.Option(help="The sweep file that the sweep was started with; shipped ones are recognised.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The --data that the sweep was started with.")] = None,
    recipe: Annotated[str | None, typer.Option(help="The --recipe that the sweep was started with.")] = None,
    as_json: AsJson = False,
) -> None:
    """Name the cells to train next: edge minima, then wide intervals by cost; exit code 5 where there are none."""
    from dataclasses import asdict

    from analysis.advice.suggest import rank_candidates
    from analysis.statistics.answers import Refusal
    from mor_core.units import budget_text, duration_text
    from orchestrator.records.fits import fit_of_sweep
    from orchestrator.records.revisions import load_sweep
    from orchestrator.search.candidates import candidate_cells, wide_plan
    from orchestrator.search.spec_of_sweep import commands, find_origin
    from orchestrator.store.store import Store

    store = Store(root=results)
    fitted = fit_of_sweep(store, sweep, LOSS_COLUMNS[loss])
    study, name = fitted.study, fitted.name
    loaded = load_sweep(store, name)
    origin = find_origin(loaded, preset, data, recipe)
    costed = candidate_cells(store, loaded, wide_plan(loaded, origin.spec, origin.data), fitted.runs)
    found = rank_candidates(study.points, [each.candidate for each in costed], count=count)
    if isinstance(found, Refusal):
        typer.echo(f"refused: {found.sentence}", err=True)
        raise typer.Exit(FIT_REFUSED)
    costs = {id(each.candidate): each for each in costed}
    lines = commands(found, loaded, origin, results)
    if as_json:
        cells = [
            asdict(each) | {"flops": costs[id(each.candidate)].flops, "seconds": costs[id(each.candidate)].seconds}
            for each in found
        ]
        content = {"sweep": name, "suggestions": cells, "commands": lines}
        print_json(SCHEMA, content)
        return
    for number, each in enumerate(found, start=1):
        wanted, cost = each.candidate, costs[id(each.candidate)]
        takes = f"{cost.flops:.3g} FLOPs" + ("" if cost.seconds is None else f", {duration_text(cost.seconds)}")
        typer.echo(f"{number}. {wanted.arm} {wanted.size} at {budget_text(int(wanted.budget))}, seed {wanted.seed}")
        typer.echo(f"   {each.reason} ({takes})")
    typer.echo("\nTo train them:")
    for line in lines:
        typer.echo(f"  {line}")
    say_next(["fit", name], results=results)
