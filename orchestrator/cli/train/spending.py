"""What a sweep may cost: the options of every verb that trains, the estimate, and what is asked before it starts."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import above_zero, open_results, say

if TYPE_CHECKING:
    from orchestrator.planning.costs.cost_plan import Costed
    from orchestrator.planning.costs.estimate import Estimate
    from orchestrator.planning.costs.limits import Allowance
    from orchestrator.planning.costs.machine import Throughput
    from orchestrator.planning.plan import Plan
    from orchestrator.planning.spec.sweep_spec import SweepSpec


PLAN_REFUSED = 4
"""The exit code of a plan that was not started."""

WAYS_ON = "--max-gpu-hours H to start what fits, --address of a cluster, or a smaller plan such as --preset cpu"
"""What may follow a plan that costs too much."""

HOW_MUCH = "How much it may cost"
"""The panel of such flags in the help of a verb."""

Price = Annotated[
    float | None,
    typer.Option(
        "--price-per-gpu-hour",
        help="Also print money: the price of a GPU-hour, or of a core-hour on a CPU.",
        rich_help_panel=HOW_MUCH,
        callback=above_zero,
    ),
]
MaxHours = Annotated[
    float | None,
    typer.Option(
        "--max-gpu-hours",
        help="Start no more than fits into so many GPU-hours (core-hours on a CPU) of this command.",
        rich_help_panel=HOW_MUCH,
        callback=above_zero,
    ),
]
MaxCells = Annotated[
    int | None,
    typer.Option(min=1, help="Finish at most so many further cells in this command.", rich_help_panel=HOW_MUCH),
]
Probed = Annotated[
    bool | None,
    typer.Option(
        "--probe/--no-probe",
        help="Time a few real steps first, once per machine; by default before a sweep of more than an hour.",
        rich_help_panel=HOW_MUCH,
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Priced:
    """What the user said about money; spread over the verbs that train."""

    price: Price = None
    """Money per device-hour."""


@dataclass(frozen=True, kw_only=True)
class Spending(Priced):
    """What the user said about cost; spread over the verbs that train a planned sweep."""

    max_hours: MaxHours = None
    """See orchestrator.planning.costs.limits.Limits."""
    max_cells: MaxCells = None
    """See orchestrator.planning.costs.limits.Limits."""
    probe: Probed = None
    """Whether to measure; None where that is worth it."""


def costed(
    planned: "Plan", spec: "SweepSpec", results: Path, machine: "Throughput", *, measures: bool, is_here: bool = True
) -> "Costed":
    """The cost of a plan, of which a results folder may hold segments already; what a probe does goes to stderr."""
    from orchestrator.planning.costs.cost_plan import cost_of

    finished = open_results(results).readable_results(segment.id for segment in planned.segments)
    report = partial(typer.echo, err=True)
    return cost_of(planned, spec, finished, machine, measures=measures, is_here=is_here, report=report)


def allowed(planned: "Plan", spec: "SweepSpec", cost: "Costed", spending: Spending) -> "Allowance":
    """What this command starts. Raises PlanError where the limits allow not one cell."""
    from orchestrator.planning.costs.cost_plan import within_limits
    from orchestrator.planning.costs.limits import Limits

    limits = Limits(max_cells=spending.max_cells, max_hours=spending.max_hours)
    return within_limits(planned, spec, cost, limits)


def ask_if_expensive(cost: "Estimate", spending: Spending) -> None:
    """Raises PlanError unless the sweep is cheap, limited, or someone at the terminal agrees."""
    from mor_core.units import amount_text, duration_text, money_text
    from orchestrator.planning.costs.cost_plan import EXPENSIVE_SECONDS, outlay_of
    from orchestrator.planning.plan import PlanError

    seconds, hours = outlay_of(cost, spending.max_hours)
    if seconds <= EXPENSIVE_SECONDS:
        return
    price = "" if spending.price is None else f", {money_text(hours * spending.price)}"
    hours_text = f"{amount_text(hours)} {cost.throughput.hours_unit}"
    takes = f"the sweep will take about {duration_text(seconds)} ({hours_text}{price})"
    if not sys.stdin.isatty():
        raise PlanError(f"{takes}, and there is no terminal to ask: add --yes to start it")
    if not typer.confirm(f"{takes[0].upper()}{takes[1:]}. Start it?", err=True):
        say("not started: nothing was trained")
        say(f"next: {WAYS_ON}")
        raise typer.Exit(PLAN_REFUSED)
