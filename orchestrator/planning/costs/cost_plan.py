"""What a plan costs on a machine: how fast its shapes train, the estimate, and what limits leave of it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from mor_core.training.memory import Device
from orchestrator.planning.costs.estimate import Estimate, estimate, unit_seconds
from orchestrator.planning.costs.gpu_shares import card_of, parts_of, segments_at_a_time, shares_of, sharing_text
from orchestrator.planning.costs.limits import Allowance, Limits, allowance_of
from orchestrator.planning.costs.machine import Throughput, driver_memories
from orchestrator.planning.costs.probe import (
    ProbeSetting,
    cached_probes,
    probe,
    remember,
    remembered,
    this_setting,
)
from orchestrator.planning.costs.speeds import WORTH_A_PROBE, FinishedTraining, Rate, rates_of
from orchestrator.planning.costs.work import Shape, work_of
from orchestrator.planning.plan import Plan
from orchestrator.planning.spec.sections import ExecutionSection
from orchestrator.planning.spec.sweep_spec import SweepSpec

EXPENSIVE_SECONDS = 3600
"""A sweep that is estimated to take longer asks first."""


@dataclass(frozen=True, kw_only=True)
class Costed:
    """A plan with its cost and what that rests on."""

    cost: Estimate
    """Time, device-hours, memory and disk."""
    rates: Mapping[Shape, Rate]
    """The speed of each shape."""
    finished: Collection[str]
    """Ids of the published segments."""


def outlay_of(cost: Estimate, max_hours: float | None) -> tuple[float, float]:
    """Seconds and device-hours of what remains to be trained; no more than `max_hours` of it where there is such a
    limit."""
    hours = cost.hours_remaining
    if max_hours is None or hours <= max_hours:
        return cost.seconds, hours
    return cost.seconds * max_hours / hours, max_hours


def cost_of(
    planned: Plan,
    spec: SweepSpec,
    finished: Mapping[str, FinishedTraining],
    machine: Throughput,
    *,
    measures: bool,
    is_here: bool,
    report: Callable[[str], None],
) -> Costed:
    """The plan's cost at the speeds of finished runs, of a probe, or assumed. `measures` runs the probe where it would
    tell something new; a probe and the driver tell of this machine only, so nothing is made of them unless training is
    `is_here`. A machine with `devices` gives each shape a share of one of them."""
    setting = setting_of(spec.execution, machine.device)
    probes = (probe if measures else cached_probes)(planned, setting, report) if is_here else {}
    elsewhere = remembered(setting, report) if is_here else {}
    sharing = round(1 / machine.devices_per_segment) if 0 < machine.devices_per_segment < 1 else 1
    rates = rates_of(planned, machine.device, finished, probes, sharing=sharing, elsewhere=elsewhere)
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
        card = card_of(spec.execution.gpu_memory_gigabytes, driver_memories() if is_here else [])
        shares = shares_of(planned, cost.cells, card)
        by_shape = {shape: parts_of(share) for shape, share in shares.items()}
        rates = rates_of(planned, machine.device, finished, probes, sharing=by_shape, elsewhere=elsewhere)
        at_a_time = min(machine.slots or machine.workers, segments_at_a_time(shares, machine.devices))
        cost = of_plan(replace(machine, workers=at_a_time), rates, shares=shares)
        cost = replace(cost, sharing=sharing_text(cost.cells, card))
    return Costed(cost=cost, rates=rates, finished=finished)


def remember_speeds(
    planned: Plan, spec: SweepSpec, finished: Mapping[str, FinishedTraining], report: Callable[[str], None]
) -> None:
    """Keep how fast this machine trained a plan, unless segments shared a GPU or were shared by several workers."""
    names = [str(result.last_numerics.get("device", "")) for result in finished.values()]
    on_cpu = all(name.startswith("cpu") for name in names)
    alone = spec.execution.workers_per_segment == 1 and (on_cpu or spec.execution.gpus_per_segment in (None, 1))
    if names and alone:
        remember(planned, setting_of(spec.execution, "cpu" if on_cpu else "cuda"), finished, report)


def setting_of(execution: ExecutionSection, device: Device) -> ProbeSetting:
    """How this machine would train a sweep."""
    return this_setting(
        device,
        micro_batch=execution.micro_batch,
        compiled=execution.compile,
        activation_checkpointing=execution.activation_checkpointing,
        deterministic=execution.deterministic,
    )


def worth_a_probe(costing: Costed, probe_flag: bool | None, *, is_here: bool) -> bool:
    """Whether to measure before more is decided: as asked, else where much or a limit rests on an assumption."""
    if not is_here or probe_flag is False:
        return False
    assumed = any(rate.basis in WORTH_A_PROBE for rate in costing.rates.values())
    return bool(probe_flag) or (assumed and costing.cost.seconds > EXPENSIVE_SECONDS)


def within_limits(planned: Plan, spec: SweepSpec, cost: Costed, limits: Limits) -> Allowance:
    """What may be started. Raises PlanError where the limits allow not one cell."""
    units = work_of(planned, spec.evaluation.num_sequences)
    seconds = unit_seconds(units, cost.rates, cost.finished)
    return allowance_of(planned, units, cost.cost, seconds, limits, finished=cost.finished)
