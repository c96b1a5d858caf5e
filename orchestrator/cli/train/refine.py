"""What `isoflop --refine` does after the planned cells: check, go on in rounds, and say how it ended."""

import math
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.options import say
from orchestrator.cli.train.launch import Launch, prepared, train_round

if TYPE_CHECKING:
    from orchestrator.planning.costs.machine import Throughput
    from orchestrator.planning.spec.sweep_spec import SweepSpec
    from orchestrator.search.refine import Machine, Refined


def check_refinement(target: float, max_hours: float | None, spec: "SweepSpec") -> None:
    """Raises BadParameter where rounds would have no end, no aim or no budgets to refine."""
    if max_hours is None:
        raise typer.BadParameter("--refine trains until N* is known: say with --max-gpu-hours what it may spend")
    if not 1 < target < math.inf:
        raise typer.BadParameter(f"--target-ci: found {target:g}, expected a factor above 1, such as 1.25")
    if spec.budgets is None or spec.sizes is None:
        raise typer.BadParameter("--refine narrows N*(C): that needs budgets and sizes, and this sweep has not both")


def check_replicates(count: int | None, max_cells: int | None, spec: "SweepSpec") -> None:
    """Raises BadParameter where no minimum says which sizes are near it, or where replicates would pass a limit."""
    if count is None:
        return
    if spec.budgets is None or spec.sizes is None:
        raise typer.BadParameter("--replicate-near-optimum: N*(C) needs budgets and sizes, and this sweep has not both")
    if max_cells is not None:
        raise typer.BadParameter("--replicate-near-optimum adds cells after the planned ones: leave out --max-cells")


def replicate(
    spec: "SweepSpec", how: Launch, machine: "Throughput", count: int, *, max_hours: float | None, before: float
) -> int:
    """Train `count` more seeds of the sizes nearest each minimum, within what is left of `max_hours` device-hours of
    this command, which began at `before`. Returns the exit code."""
    from orchestrator.records.revisions import load_sweep
    from orchestrator.records.table import table
    from orchestrator.search.replicate import replicate_plan

    data = prepared(spec)
    store = how.store
    planned = replicate_plan(spec, data, table(store, load_sweep(store, spec.name)), count)
    left = None if max_hours is None else max_hours - (hours_so_far(spec, how, machine) - before)
    if planned is None or (left is not None and left <= 0):
        why = "no cell is finished" if planned is None else f"no {machine.hours_unit} are left"
        say(f"no replicates: {why}")
        return 0
    say(f"replicates: {len(planned.cells)} cells, {count} more seeds of the sizes nearest to each minimum")
    return train_round(planned, spec, data, how, machine, max_hours=left)


def hours_so_far(spec: "SweepSpec", how: Launch, machine: "Throughput") -> float:
    """What the sweep's finished segments have taken; 0 where there is no such sweep yet."""
    from orchestrator.search.refine import device_hours
    from orchestrator.store.sweep_document import NoSuchSweep

    try:
        return device_hours(how.store, spec.name, _machine(machine))
    except NoSuchSweep:
        return 0.0


def go_on(
    spec: "SweepSpec", how: Launch, machine: "Throughput", *, target: float, max_hours: float, before: float
) -> int:
    """Refine the sweep. Returns the exit code: that of a round that failed, else 0, whether the goal is met or not."""
    from orchestrator.search.refine import Goal, refine

    data = prepared(spec)
    refined = refine(
        how.store,
        spec,
        data,
        Goal(target=target, max_hours=max_hours),
        _machine(machine),
        before=before,
        train=lambda planned: train_round(planned, spec, data, how, machine),
        report=say,
    )
    _report(refined, machine.hours_unit)
    return refined.code


def _machine(machine: "Throughput") -> "Machine":
    from orchestrator.search.refine import Machine

    return Machine(
        workers=machine.workers, devices_per_segment=machine.devices_per_segment, hours_unit=machine.hours_unit
    )


def _report(refined: "Refined", hours_unit: str) -> None:
    from mor_core.units import amount_text, budget_label

    spent = (
        f"{refined.cells} cells in {refined.rounds} rounds; {amount_text(refined.hours)} {hours_unit} in this command"
    )
    say(f"refined: {refined.reason} ({spent})")
    for optimum in refined.unsettled:
        say(f"  still open: {optimum.arm} at {budget_label(optimum.budget)}: {optimum.why}")
