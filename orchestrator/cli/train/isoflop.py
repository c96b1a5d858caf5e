"""`mor-sweep isoflop`: plan a sweep, show what it costs, run it. Parses, calls and prints; imports when called."""

from enum import StrEnum
from typing import Annotated

import typer

from orchestrator.cli.options import spread
from orchestrator.cli.train.launch import Launch, check_json, isoflop_overrides, machine_of, print_plan, run
from orchestrator.cli.train.refine import check_refinement, check_replicates, go_on, hours_so_far, replicate
from orchestrator.cli.train.spending import Spending


class TrunksName(StrEnum):
    """Whether budgets branch from one trunk."""

    shared = "shared"
    per_budget = "per-budget"


@spread
def isoflop(
    *,
    preset: Annotated[str, typer.Option(help="A shipped sweep (paper, cpu, gpu) or a TOML file.")] = "paper",
    budgets: Annotated[str | None, typer.Option(help="Training FLOPs, such as 2e18,5e18,16.5e18.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Base shapes, such as 135M,360M.")] = None,
    arms: Annotated[str | None, typer.Option(help="Of vanilla, recursive and mor, such as vanilla,mor.")] = None,
    recursions: Annotated[str | None, typer.Option(help="Recursion counts, such as 2,3: each is an arm.")] = None,
    only: Annotated[str | None, typer.Option(help="Labels of the arms to train; all by default.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2.")] = None,
    data: Annotated[str | None, typer.Option(help="python-sources, or a file or folder of text.")] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name; the preset's by default.")] = None,
    trunks: Annotated[TrunksName | None, typer.Option(help="Whether budgets share a trunk.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Laws of rate and batch: step-law, porian, or a file that `tune` wrote.")
    ] = None,
    how: Launch,
    spending: Spending,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON.")] = False,
    replicate_near_optimum: Annotated[
        int | None,
        typer.Option(min=1, help="Then train so many more seeds of the three sizes nearest to each budget's minimum."),
    ] = None,
    refine: Annotated[
        bool,
        typer.Option("--refine", help="Go on with what `suggest` names, until N* is known or the hours are spent."),
    ] = False,
    target_ci: Annotated[
        float, typer.Option(help="With --refine: the factor either way within which N* is to be known.")
    ] = 1.25,
) -> None:
    """Train every (arm, size, budget, seed) of a sweep; what is finished already is not trained again."""
    from orchestrator.planning.spec.sweep_file import recipe_overrides
    from orchestrator.planning.spec.sweep_spec import load_spec

    check_json(as_json, how)
    flags = isoflop_overrides(
        budgets=budgets,
        sizes=sizes,
        arms=arms,
        recursions=recursions,
        only=only,
        seeds=seeds,
        data=data,
        name=name,
        trunks=trunks and trunks.value,
    )
    spec = load_spec(preset, [*flags, *(recipe_overrides(recipe) if recipe is not None else ())])
    machine = machine_of(how, spec.execution)
    check_replicates(replicate_near_optimum, spending.max_cells, spec)
    if refine:
        check_refinement(target_ci, spending.max_hours, spec)
    if how.dry_run:
        print_plan(spec, how, machine, spending, as_json=as_json)
        return
    goes_on = refine or replicate_near_optimum is not None
    before = hours_so_far(spec, how, machine) if goes_on else 0.0
    code, spec = run(spec, how, machine, spending)
    if replicate_near_optimum is not None and code == 0:
        code = replicate(spec, how, machine, replicate_near_optimum, max_hours=spending.max_hours, before=before)
    if refine and spending.max_hours is not None and code == 0:
        code = go_on(spec, how, machine, target=target_ci, max_hours=spending.max_hours, before=before)
    raise typer.Exit(code)
