"""`mor-sweep isoflop`: plan a sweep, show what it costs, run it. Parses, calls and prints; imports when called."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.launch import (
    ExecutorName,
    Mirrored,
    check_flags,
    isoflop_overrides,
    print_plan,
    run,
    this_machine,
)
from orchestrator.cli.options import Results
from orchestrator.cli.refinement import check_refinement, check_replicates, go_on, hours_so_far, replicate
from orchestrator.cli.spending import Canary, MaxCells, MaxHours, Price, Probed, Spending


class TrunksName(StrEnum):
    """Whether budgets branch from one trunk."""

    shared = "shared"
    per_budget = "per-budget"


def isoflop(
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
    results: Results = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking, whatever it costs.")] = False,
    executor: Annotated[ExecutorName, typer.Option(help="Where segments run.")] = ExecutorName.ray,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to use; none starts a local one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Segments at a time; one a GPU, else one a core.")] = None,
    mlflow: Mirrored = True,
    price_per_gpu_hour: Price = None,
    max_gpu_hours: MaxHours = None,
    max_cells: MaxCells = None,
    probe: Probed = None,
    canary: Canary = None,
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
    from orchestrator.recipe_file import recipe_overrides
    from orchestrator.spec import load_spec

    check_flags(dry_run=dry_run, as_json=as_json, executor=executor, address=address)
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
    machine = this_machine(workers, spec.execution)
    spending = Spending(
        price=price_per_gpu_hour, max_hours=max_gpu_hours, max_cells=max_cells, probe=probe, canary=canary
    )
    check_replicates(replicate_near_optimum, max_cells, spec)
    if refine:
        check_refinement(target_ci, max_gpu_hours, spec)
    if dry_run:
        print_plan(spec, results, machine, as_json, spending)
    else:
        goes_on = refine or replicate_near_optimum is not None
        before = hours_so_far(spec, results, machine) if goes_on else 0.0
        code = run(
            spec,
            results,
            machine,
            yes=yes,
            executor=executor.value,
            address=address,
            mlflow=mlflow,
            spending=spending,
        )
        if replicate_near_optimum is not None and code == 0:
            spent = hours_so_far(spec, results, machine) - before
            code = replicate(
                spec,
                results,
                machine,
                replicate_near_optimum,
                left=None if max_gpu_hours is None else max_gpu_hours - spent,
                executor=executor.value,
                address=address,
                mlflow=mlflow,
            )
        if refine and max_gpu_hours is not None and code == 0:
            code = go_on(
                spec,
                preset,
                data,
                results,
                machine,
                target=target_ci,
                max_hours=max_gpu_hours,
                before=before,
                executor=executor.value,
                address=address,
                mlflow=mlflow,
            )
        raise typer.Exit(code)
