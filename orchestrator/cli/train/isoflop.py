"""`mor-sweep isoflop`: plan a sweep, show what it costs, run it. Imports what it needs when called."""

from typing import Annotated

import typer

from orchestrator.cli.options import options_from_dataclass
from orchestrator.cli.train.launch import Launch, check_json, machine_of, print_plan, run
from orchestrator.cli.train.refine import check_refinement, check_replicates, go_on, hours_so_far, replicate
from orchestrator.cli.train.spending import Spending
from orchestrator.cli.train.sweep_flags import SweepFlags

AFTERWARDS = "What follows the sweep"
"""The panel of such flags in the help."""


@options_from_dataclass
def isoflop(
    *,
    flags: SweepFlags,
    how: Launch,
    spending: Spending,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON.")] = False,
    replicate_near_optimum: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Then train so many more seeds of the three sizes nearest to each budget's minimum.",
            rich_help_panel=AFTERWARDS,
        ),
    ] = None,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine",
            help="Go on with what `suggest` names, until N* is known or the hours are spent.",
            rich_help_panel=AFTERWARDS,
        ),
    ] = False,
    target_ci: Annotated[
        float,
        typer.Option(
            help="With --refine: the factor either way within which N* is to be known.", rich_help_panel=AFTERWARDS
        ),
    ] = 1.25,
) -> None:
    """Plan and train an IsoFLOP sweep; the same command resumes it.

    It trains every arm, size, budget and seed that is not finished yet. What a long sweep costs is shown first.
    """
    check_json(as_json, how)
    spec = flags.spec()
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
