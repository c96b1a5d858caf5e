"""What a sweep may cost: the options of every verb that trains, the estimate, and what is asked before it starts."""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import above_zero

if TYPE_CHECKING:
    from orchestrator.allowance import Allowance
    from orchestrator.estimate import Estimate, Throughput
    from orchestrator.plan import Plan
    from orchestrator.rates import Measured, Rate
    from orchestrator.spec import ExecutionSection, SweepSpec
    from orchestrator.work import Shape

EXPENSIVE_SECONDS = 3600
"""A sweep that is estimated to take longer asks first."""


Price = Annotated[
    float | None,
    typer.Option(
        "--price-per-gpu-hour",
        help="Also print money: the price of a GPU-hour, or of a core-hour on a CPU.",
        callback=above_zero,
    ),
]
MaxHours = Annotated[
    float | None,
    typer.Option(
        "--max-gpu-hours",
        help="Start no more than fits into so many GPU-hours (core-hours on a CPU) of this command.",
        callback=above_zero,
    ),
]
MaxCells = Annotated[int | None, typer.Option(min=1, help="Finish at most so many further cells in this command.")]
Probed = Annotated[
    bool | None,
    typer.Option(
        "--probe/--no-probe",
        help="Time a few real steps first, once a machine; by default before a sweep of more than an hour.",
        show_default=False,
    ),
]
Canary = Annotated[
    bool | None,
    typer.Option(
        "--canary/--no-canary",
        help="Finish the cheapest cell alone first; by default in fresh sweeps of more than ten minutes.",
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
    """See orchestrator.allowance.Limits."""
    max_cells: MaxCells = None
    """See orchestrator.allowance.Limits."""
    probe: Probed = None
    """Whether to measure; None where that is worth it."""
    canary: Canary = None
    """Whether one cell goes first; None where that is worth it."""


@dataclass(frozen=True, kw_only=True)
class Costed:
    """A plan with its cost and what that rests on."""

    cost: "Estimate"
    """Time, device-hours, memory and disk."""
    rates: "Mapping[Shape, Rate]"
    """The speed of each shape."""
    finished: Collection[str]
    """Ids of the published segments."""


def costed(
    planned: "Plan", spec: "SweepSpec", results: Path, machine: "Throughput", *, measures: bool, here: bool = True
) -> Costed:
    """The plan's cost at the speeds of finished runs, of a probe, or assumed. `measures` runs the probe where it would
    tell something new; a probe and the driver tell of this machine only, so nothing is made of them unless training is
    `here`. A machine with `devices` gives each shape a share of one of them."""
    from orchestrator.estimate import estimate
    from orchestrator.gpu_shares import card_of, parts_of, segments_at_a_time, shares_of, sharing_text
    from orchestrator.gpus import driver_memories
    from orchestrator.rates import rates_of
    from orchestrator.store import Store

    finished = Store(root=results).readable_results(segment.id for segment in planned.segments)
    probes = _probes(planned, spec.execution, machine, measures=measures) if here else {}
    sharing = round(1 / machine.devices_per_segment) if 0 < machine.devices_per_segment < 1 else 1
    rates = rates_of(planned, machine.device, finished, probes, sharing=sharing)
    of_plan = partial(
        estimate,
        planned,
        num_evaluation_sequences=spec.evaluation.num_sequences,
        micro_batch=spec.execution.micro_batch,
        checkpoint_activations=spec.execution.activation_checkpointing,
        finished=finished,
    )
    cost = of_plan(machine, rates)
    if machine.devices is not None:
        card = card_of(spec.execution.gpu_memory_gigabytes, driver_memories() if here else [])
        shares = shares_of(planned, cost.cells, card)
        by_shape = {shape: parts_of(share) for shape, share in shares.items()}
        rates = rates_of(planned, machine.device, finished, probes, sharing=by_shape)
        held = min(machine.slots or machine.workers, segments_at_a_time(shares, machine.devices))
        cost = of_plan(replace(machine, workers=held), rates, shares=shares)
        cost = replace(cost, sharing=sharing_text(cost.cells, card))
    return Costed(cost=cost, rates=rates, finished=finished)


def _probes(
    planned: "Plan", execution: "ExecutionSection", machine: "Throughput", *, measures: bool
) -> "dict[Shape, Measured]":
    from orchestrator.probe import cached_probes, probe, this_setting

    setting = this_setting(
        machine.device,
        micro_batch=execution.micro_batch,
        compiled=execution.compile,
        activation_checkpointing=execution.activation_checkpointing,
        deterministic=execution.deterministic,
    )
    return (probe if measures else cached_probes)(planned, setting, _say)


def worth_a_probe(found: Costed, spending: Spending, *, here: bool) -> bool:
    """Whether to measure before more is decided: as asked, else where much or a limit rests on an assumption."""
    from orchestrator.rates import Basis

    if not here or spending.probe is False:
        return False
    assumed = any(rate.basis is Basis.assumed for rate in found.rates.values())
    return bool(spending.probe) or (assumed and found.cost.seconds > EXPENSIVE_SECONDS)


def allowed(planned: "Plan", spec: "SweepSpec", found: Costed, spending: Spending) -> "Allowance":
    """What this command starts. Raises PlanError where the limits allow not one cell."""
    from orchestrator.allowance import Limits, allowance_of
    from orchestrator.estimate import unit_seconds
    from orchestrator.work import work_of

    units = work_of(planned, spec.evaluation.num_sequences)
    return allowance_of(
        planned,
        units,
        found.cost,
        unit_seconds(units, found.rates, found.finished),
        Limits(max_cells=spending.max_cells, max_hours=spending.max_hours),
        finished=found.finished,
        canary=spending.canary,
    )


def ask_if_expensive(cost: "Estimate", spending: Spending) -> None:
    """Raises PlanError unless the sweep is cheap, limited, or someone at the terminal agrees."""
    from orchestrator.plan import PlanError
    from orchestrator.quantities import duration_text, money_text

    hours, unit = cost.hours_remaining, cost.throughput.hours_unit
    seconds = cost.seconds
    if spending.max_hours is not None and hours > spending.max_hours:
        seconds, hours = seconds * spending.max_hours / hours, spending.max_hours
    if seconds <= EXPENSIVE_SECONDS:
        return
    price = "" if spending.price is None else f", {money_text(hours * spending.price)}"
    takes = f"the sweep will take about {duration_text(seconds)} ({hours:.3g} {unit}{price})"
    if not sys.stdin.isatty():
        raise PlanError(f"{takes}, and there is no terminal to ask: add --yes to start it")
    if not typer.confirm(f"{takes[0].upper()}{takes[1:]}. Start it?", err=True):
        raise PlanError("not started: nothing was trained")


def _say(line: Any) -> None:
    typer.echo(line, err=True)
