"""What `isoflop --refine` does after the planned cells: check, go on in rounds, and say how it ended."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.options import say

if TYPE_CHECKING:
    from orchestrator.estimate import Throughput
    from orchestrator.plan import Plan
    from orchestrator.refine import Machine, Refined
    from orchestrator.spec import SweepSpec


def check_refinement(target: float, max_hours: float | None, spec: "SweepSpec") -> None:
    """Raises BadParameter where rounds would have no end, no aim or no budgets to refine."""
    if max_hours is None:
        raise typer.BadParameter("--refine trains until N* is known: say with --max-gpu-hours what it may spend")
    if not 1 < target < math.inf:
        raise typer.BadParameter(f"--target-ci: found {target:g}, expected a factor above 1, such as 1.25")
    if spec.budgets is None:
        raise typer.BadParameter("--refine narrows N*(C): this sweep asks for tokens, not for budgets")


def check_replicates(count: int | None, max_cells: int | None, spec: "SweepSpec") -> None:
    """Raises BadParameter where no minimum says which sizes are near it, or where replicates would pass a limit."""
    if count is None:
        return
    if spec.budgets is None or spec.sizes is None:
        raise typer.BadParameter("--replicate-near-optimum: N*(C) needs budgets and sizes, and this sweep has not both")
    if max_cells is not None:
        raise typer.BadParameter("--replicate-near-optimum adds cells after the planned ones: leave out --max-cells")


def replicate(
    spec: "SweepSpec",
    results: Path,
    machine: "Throughput",
    count: int,
    *,
    left: float | None,
    executor: str,
    address: str | None,
    mlflow: bool,
) -> int:
    """Train `count` more seeds of the sizes nearest each minimum, within `left` device-hours. Returns the exit code."""
    from mor_core.data.shards import prepare
    from orchestrator.cli.spending import Spending, allowed, costed
    from orchestrator.records import table
    from orchestrator.replicate import replicate_plan
    from orchestrator.revisions import load_sweep
    from orchestrator.store import Store
    from orchestrator.sweep_run import run_sweep

    data = prepare(spec.data_spec)
    store = Store(root=results.absolute())
    planned = replicate_plan(spec, data, table(store, load_sweep(store, spec.name)), count)
    if planned is None or (left is not None and left <= 0):
        why = "no cell is finished" if planned is None else f"no {machine.hours_unit} are left"
        say(f"no replicates: {why}")
        return 0
    say(f"replicates: {len(planned.cells)} cells, {count} more seeds of the sizes nearest to each minimum")
    known = costed(planned, spec, results, machine, measures=False, here=address is None)
    return run_sweep(
        planned,
        spec,
        data,
        results,
        executor=executor,
        workers=machine.workers,
        address=address,
        mlflow=mlflow,
        allowance=allowed(planned, spec, known, Spending(max_hours=left, canary=False)),
    )


def hours_so_far(spec: "SweepSpec", results: Path, machine: "Throughput") -> float:
    """What the sweep's finished segments took before this command; 0 where there is no such sweep yet."""
    from orchestrator.refine import device_hours
    from orchestrator.store import Store
    from orchestrator.sweep_document import NoSuchSweep

    try:
        return device_hours(Store(root=results.absolute()), spec.name, _machine(machine))
    except NoSuchSweep:
        return 0.0


def go_on(
    spec: "SweepSpec",
    preset: str,
    corpus: str | None,
    results: Path,
    machine: "Throughput",
    *,
    target: float,
    max_hours: float,
    before: float,
    executor: str,
    address: str | None,
    mlflow: bool,
) -> int:
    """Refine the sweep. Returns the exit code: that of a round that failed, else 0, whether the goal is met or not."""
    from mor_core.data.large_corpus import MOST_PARTS_BESIDE
    from mor_core.data.shards import prepare
    from orchestrator.refine import Goal, refine
    from orchestrator.store import Store
    from orchestrator.sweep_run import run_sweep

    data = prepare(spec.data_spec, most_parts=MOST_PARTS_BESIDE)

    def train(plan: "Plan", refined_spec: "SweepSpec") -> int:
        return run_sweep(
            plan,
            refined_spec,
            data,
            results,
            executor=executor,
            workers=machine.workers,
            address=address,
            mlflow=mlflow,
        )

    found = refine(
        Store(root=results.absolute()),
        spec.name,
        Goal(target=target, max_hours=max_hours),
        _machine(machine),
        before=before,
        preset=preset,
        corpus=corpus,
        train=train,
        report=say,
    )
    _report(found, machine.hours_unit)
    return found.code


def _machine(machine: "Throughput") -> "Machine":
    from orchestrator.refine import Machine

    return Machine(
        workers=machine.workers, devices_per_segment=machine.devices_per_segment, hours_unit=machine.hours_unit
    )


def _report(found: "Refined", hours_unit: str) -> None:
    from analysis.points import budget_label

    spent = f"{found.cells} cells in {found.rounds} rounds; {found.hours:.3g} {hours_unit} in this command"
    say(f"refined: {found.reason} ({spent})")
    for each in found.unsettled:
        say(f"  still open: {each.arm} at {budget_label(each.budget)}: {each.why}")
