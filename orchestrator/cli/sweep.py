"""`mor-sweep isoflop`: plan a sweep, show what it costs, run it. Parses, calls and prints; imports when called."""

import contextlib
import json
import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Results, corpus_override

if TYPE_CHECKING:
    from orchestrator.estimate import Estimate, Throughput
    from orchestrator.plan import Plan
    from orchestrator.spec import SweepSpec

EXPENSIVE_SECONDS = 3600
"""A sweep that is estimated to take longer asks first."""


class ExecutorName(StrEnum):
    """Where segments run."""

    ray = "ray"
    in_process = "in-process"


class TrunksName(StrEnum):
    """Whether budgets branch from one trunk."""

    shared = "shared"
    per_budget = "per-budget"


def isoflop(
    preset: Annotated[str, typer.Option(help="A shipped sweep (paper, cpu) or the path of a TOML file.")] = "paper",
    budgets: Annotated[str | None, typer.Option(help="Training FLOPs, such as 2e18,5e18,16.5e18.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Base shapes, such as 135M,360M.")] = None,
    arms: Annotated[str | None, typer.Option(help="Of vanilla, recursive and mor, such as vanilla,mor.")] = None,
    recursions: Annotated[str | None, typer.Option(help="Recursion counts, such as 2,3: each is an arm.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2.")] = None,
    data: Annotated[str | None, typer.Option(help="python-sources, or a file or folder of text.")] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name; the preset's by default.")] = None,
    trunks: Annotated[TrunksName | None, typer.Option(help="Whether budgets share a trunk.")] = None,
    results: Results = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking, whatever it costs.")] = False,
    executor: Annotated[ExecutorName, typer.Option(help="Where segments run.")] = ExecutorName.ray,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to use; none starts a local one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Segments at a time; one a GPU, else one a core.")] = None,
) -> None:
    """Train every (arm, size, budget, seed) of a sweep; what is finished already is not trained again."""
    from orchestrator.spec import Override, load_spec

    if as_json and not dry_run:
        raise typer.BadParameter("--json prints a plan: use it with --dry-run")
    if address and executor is ExecutorName.in_process:
        raise typer.BadParameter("--address names a Ray cluster: leave it out with --executor in-process")
    flags = [
        Override(flag="--budgets", path=("budgets",), value=_items(budgets)),
        Override(flag="--sizes", path=("sizes",), value=None if sizes is None else {"names": _items(sizes)}),
        Override(flag="--arms", path=("arms", "architectures"), value=_items(arms)),
        Override(flag="--recursions", path=("arms", "recursions"), value=_whole_items(recursions)),
        Override(flag="--seeds", path=("seeds",), value=_whole_items(seeds)),
        *corpus_override(data),
        Override(flag="--name", path=("name",), value=name),
        Override(flag="--trunks", path=("trunks",), value=trunks and trunks.value),
    ]
    spec = load_spec(preset, [flag for flag in flags if flag.value is not None])
    machine = _this_machine(workers)
    if dry_run:
        _print_plan(spec, results, machine, as_json)
    else:
        _run(spec, results, machine, yes=yes, executor=executor.value, address=address)


def _items(text: str | None) -> list[str] | None:
    """A list as typed; an empty item stays, to be refused with its flag."""
    return None if text is None else [item.strip() for item in text.split(",")]


def _whole_items(text: str | None) -> list[Any] | None:
    """Whole numbers where the items are; anything else stays as typed, to be refused with its flag."""
    items = _items(text)
    return items and [int(item) if item.removeprefix("-").isdecimal() else item for item in items]


def _print_plan(spec: "SweepSpec", results: Path, machine: "Throughput", as_json: bool) -> None:
    from mor_core.data.shards import find
    from orchestrator import display
    from orchestrator.plan import plan

    planned = plan(spec, find(spec.data_spec))
    cost = _estimate(planned, spec, results, machine)
    if as_json:
        typer.echo(json.dumps(display.plan_json(planned, cost), indent=1))
    else:
        display.print_plan(planned, cost)


def _run(
    spec: "SweepSpec", results: Path, machine: "Throughput", *, yes: bool, executor: str, address: str | None
) -> None:
    from mor_core.data.shards import find, prepare
    from orchestrator.display import print_news, print_summary
    from orchestrator.plan import plan
    from orchestrator.results_folder import check_writable

    check_writable(results)
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

    code = run_sweep(planned, spec, snapshot, results, executor=executor, workers=machine.workers, address=address)
    raise typer.Exit(code)


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
        measured_throughput(planned, finished, machine.workers) or machine,
        num_evaluation_sequences=spec.evaluation.num_sequences,
        micro_batch=spec.execution.micro_batch,
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


def _this_machine(workers: int | None) -> "Throughput":
    """Workers as asked for, else one for each GPU or, without any, each core; and how fast one is assumed to be."""
    from orchestrator.estimate import assumed_throughput

    num_gpus = _num_gpus()
    return assumed_throughput("cuda" if num_gpus else "cpu", workers or num_gpus or os.cpu_count() or 1)


def _num_gpus() -> int:
    """GPUs that nvidia-smi lists; 0 where there is no such program."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
