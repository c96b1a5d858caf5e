"""What every verb that trains a sweep does with it: show the plan, ask before much is spent, run."""

import contextlib
import json
import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from orchestrator.estimate import Estimate, Throughput
    from orchestrator.plan import Plan
    from orchestrator.spec import ExecutionSection, SweepSpec

EXPENSIVE_SECONDS = 3600
"""A sweep that is estimated to take longer asks first."""


Mirrored = Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Mirror the sweep into MLflow while it runs.")]


class ExecutorName(StrEnum):
    """Where segments run."""

    ray = "ray"
    in_process = "in-process"


def check_flags(*, dry_run: bool, as_json: bool, executor: ExecutorName, address: str | None) -> None:
    """Raises BadParameter for flags that contradict each other."""
    if as_json and not dry_run:
        raise typer.BadParameter("--json prints a plan: use it with --dry-run")
    if address and executor is ExecutorName.in_process:
        raise typer.BadParameter("--address names a Ray cluster: leave it out with --executor in-process")


def items_of(text: str | None) -> list[str] | None:
    """A list as typed; an empty item stays, to be refused with its flag."""
    return None if text is None else [item.strip() for item in text.split(",")]


def whole_items_of(text: str | None) -> list[Any] | None:
    """Whole numbers where the items are; anything else stays as typed, to be refused with its flag."""
    items = items_of(text)
    return items and [int(item) if item.removeprefix("-").isdecimal() else item for item in items]


def print_plan(spec: "SweepSpec", results: Path, machine: "Throughput", as_json: bool) -> None:
    """The plan and its cost, for reading or as JSON."""
    from mor_core.data.shards import find
    from orchestrator import display
    from orchestrator.plan import plan

    planned = plan(spec, find(spec.data_spec))
    cost = _estimate(planned, spec, results, machine)
    if as_json:
        typer.echo(json.dumps(display.plan_json(planned, cost), indent=1))
    else:
        display.print_plan(planned, cost)


def run(
    spec: "SweepSpec",
    results: Path,
    machine: "Throughput",
    *,
    yes: bool,
    executor: str,
    address: str | None,
    mlflow: bool,
) -> int:
    """Show what the sweep costs, ask where that is much, train what is missing. Returns the exit code."""
    from mor_core.data.shards import find, prepare
    from orchestrator.display import print_news, print_summary
    from orchestrator.plan import plan
    from orchestrator.results_folder import check_writable

    check_writable(results)
    if address:
        machine = _held_by_cluster(machine, spec.execution, address)
    found = find(spec.data_spec)
    asked = plan(spec, found)
    cost = _estimate(asked, spec, results, machine)
    print_summary(asked, cost)
    if not yes:
        _ask_if_expensive(cost)
    snapshot = prepare(spec.data_spec, report=lambda line: typer.echo(line, err=True))
    planned = asked if snapshot == found else plan(spec, snapshot)
    print_news(asked, planned)
    from orchestrator.sweep_run import run_sweep

    return run_sweep(
        planned, spec, snapshot, results, executor=executor, workers=machine.workers, address=address, mlflow=mlflow
    )


def _ask_if_expensive(cost: "Estimate") -> None:
    """Raises PlanError unless the sweep is cheap or someone at the terminal agrees."""
    from orchestrator.display import duration_text
    from orchestrator.plan import PlanError

    if cost.seconds <= EXPENSIVE_SECONDS:
        return
    takes = f"the sweep will take about {duration_text(cost.seconds)}"
    if not sys.stdin.isatty():
        raise PlanError(f"{takes}, and there is no terminal to ask: add --yes to start it")
    if not typer.confirm(f"{takes[0].upper()}{takes[1:]}. Start it?", err=True):
        raise PlanError("not started: nothing was trained")


def _estimate(planned: "Plan", spec: "SweepSpec", results: Path, machine: "Throughput") -> "Estimate":
    """The plan's cost: at the speed of what is finished in the results folder, else at the machine's assumed one."""
    from orchestrator.estimate import estimate, measured_throughput

    finished = _finished(planned, results)
    return estimate(
        planned,
        measured_throughput(planned, finished, machine),
        num_evaluation_sequences=spec.evaluation.num_sequences,
        micro_batch=spec.execution.micro_batch,
        checkpoint_activations=spec.execution.activation_checkpointing,
        finished=finished,
    )


def _finished(planned: "Plan", results: Path) -> dict[str, dict[str, Any]]:
    """Published results by segment id. One that cannot be read is work to do here; the run itself reports it."""
    from orchestrator.store import Store, StoreError

    store = Store(root=results)
    finished: dict[str, dict[str, Any]] = {}
    for segment in planned.segments:
        with contextlib.suppress(StoreError):
            if result := store.result(segment.id):
                finished[segment.id] = result
    return finished


def this_machine(workers: int | None, execution: "ExecutionSection") -> "Throughput":
    """Segments at a time as asked for, else as many as the GPUs or, without any, the cores hold; and how fast one is
    assumed to be."""
    from orchestrator.estimate import assumed_throughput
    from orchestrator.resources import Node, Request, default_gpus, parallel_segments

    node = Node(cpus=os.cpu_count() or 1, gpus=_num_gpus())
    gpus = default_gpus([node]) if execution.gpus_per_segment is None else execution.gpus_per_segment
    held = parallel_segments(Request(workers=execution.workers_per_segment, gpus=gpus), [node])
    return assumed_throughput("cuda" if gpus else "cpu", workers or max(1, held))


def _held_by_cluster(machine: "Throughput", execution: "ExecutionSection", address: str) -> "Throughput":
    """The same speed on as many segments at a time as the cluster holds. Raises ClusterUnreachable and Infeasible."""
    from dataclasses import replace

    from orchestrator.ray_executor import RayExecutor

    executor = RayExecutor(
        workers=machine.workers,
        address=address,
        gpus_per_segment=execution.gpus_per_segment,
        workers_per_segment=execution.workers_per_segment,
    )
    return replace(machine, workers=executor.parallel_segments())


def _num_gpus() -> int:
    """GPUs that nvidia-smi lists; 0 where there is no such program."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
