"""`mor-sweep isoflop`: plan a sweep, show what it costs, run it. Imports what it needs when called."""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import options_from_dataclass, say
from orchestrator.cli.train.launch import Launch, check_json, machine_of, prepared, print_plan, run, train_round
from orchestrator.cli.train.spending import Spending
from orchestrator.cli.train.sweep_flags import SweepFlags

if TYPE_CHECKING:
    from orchestrator.planning.costs.machine import Throughput
    from orchestrator.planning.spec.sweep_spec import SweepSpec

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
) -> None:
    """Plan and train an IsoFLOP sweep; the same command resumes it.

    It trains every arm, size, budget and seed that is not finished yet. What a long sweep costs is shown first.
    """
    check_json(as_json, how)
    spec = flags.spec()
    machine = machine_of(how, spec.execution)
    if replicate_near_optimum is not None:
        _check_replicates(spec, spending)
    if how.dry_run:
        print_plan(spec, how, machine, spending, as_json=as_json)
        return
    before = 0.0 if replicate_near_optimum is None else _hours_so_far(spec, how, machine)
    code, spec = run(spec, how, machine, spending)
    if replicate_near_optimum is not None and code == 0:
        code = _replicate(spec, how, machine, replicate_near_optimum, max_hours=spending.max_hours, before=before)
    raise typer.Exit(code)


def _check_replicates(spec: "SweepSpec", spending: Spending) -> None:
    """Raises BadParameter where no minimum says which sizes are near it, or where replicates would pass a limit."""
    if spec.budgets is None or spec.sizes is None:
        raise typer.BadParameter("--replicate-near-optimum: N*(C) needs budgets and sizes, and this sweep has not both")
    if spending.max_cells is not None:
        raise typer.BadParameter("--replicate-near-optimum adds cells after the planned ones: leave out --max-cells")


def _replicate(
    spec: "SweepSpec", how: Launch, machine: "Throughput", count: int, *, max_hours: float | None, before: float
) -> int:
    """Train `count` more seeds of the sizes nearest each minimum, within what is left of `max_hours` device-hours of
    this command, which began at `before`. Returns the exit code."""
    from orchestrator.records.revisions import load_sweep
    from orchestrator.records.table import table
    from orchestrator.search.replicate import replicate_plan

    data, store = prepared(spec), how.store
    planned = replicate_plan(spec, data, table(store, load_sweep(store, spec.name)), count)
    left = None if max_hours is None else max_hours - (_hours_so_far(spec, how, machine) - before)
    if planned is None or (left is not None and left <= 0):
        why = "no cell is finished" if planned is None else f"no {machine.hours_unit} are left"
        say(f"no replicates: {why}")
        return 0
    say(f"replicates: {len(planned.cells)} cells, {count} more seeds of the sizes nearest to each minimum")
    return train_round(planned, spec, data, how, machine, max_hours=left)


def _hours_so_far(spec: "SweepSpec", how: Launch, machine: "Throughput") -> float:
    """Device-hours of the sweep's finished segments, each counted once; 0 where there is no such sweep yet."""
    from orchestrator.planning.costs.estimate import HOUR_SECONDS
    from orchestrator.records.revisions import load_sweep
    from orchestrator.records.table import segment_table
    from orchestrator.store.sweep_document import NoSuchSweep

    store = how.store
    try:
        seconds = segment_table(store, load_sweep(store, spec.name))["wall_seconds"].sum()
    except NoSuchSweep:
        return 0.0
    return float(seconds or 0.0) * machine.devices_per_segment / HOUR_SECONDS
