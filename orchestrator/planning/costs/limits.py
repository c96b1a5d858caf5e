"""How much of a plan one command may start: whole cells within its limits. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mor_core.errors import Fix
from mor_core.units import amount_text, budget_text
from orchestrator.planning.costs.estimate import HOUR_SECONDS, Estimate
from orchestrator.planning.costs.machine import Throughput
from orchestrator.planning.costs.work import Unit
from orchestrator.planning.plan import Plan, PlanError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the user allows one command to take."""

    max_cells: int | None = None
    """Cells to finish."""
    max_hours: float | None = None
    """GPU-hours, or core-hours where a CPU trains."""


@dataclass(frozen=True, kw_only=True)
class HourLimit:
    """How many device-hours one command may take."""

    max_hours: float | None = None
    """After which nothing more is started; None for no limit."""
    devices_per_segment: float = 1.0
    """GPUs, or CPU cores, that a segment holds while it runs, unless it has a share of its own."""
    gpu_shares: Mapping[str, float] = field(default_factory=dict)
    """Of a GPU, by segment id; empty where all segments hold the same."""
    unit: str = "core-hours"
    """GPU-hours or core-hours."""

    def hours(self, segment_id: str, wall_seconds: float) -> float:
        """Device-hours of a segment that took so long."""
        return wall_seconds * self.gpu_shares.get(segment_id, self.devices_per_segment) / HOUR_SECONDS


NO_LIMIT = HourLimit()


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What one run of a plan may start."""

    segments: frozenset[str]
    """Ids of the unfinished segments that the chosen cells need."""
    said: str = ""
    """Which limit left cells for later, in a sentence; empty where none did."""
    hours: HourLimit = NO_LIMIT
    """Device-hours after which nothing more is started."""


def allowance_of(
    plan: Plan,
    units: Sequence[Unit],
    cost: Estimate,
    seconds: Sequence[float],
    limits: Limits,
    *,
    finished: Collection[str],
) -> Allowance:
    """The cells of a plan, in its order, that fit the limits.

    `seconds` of one worker by unit, 0 where it is finished. Raises PlanError where not one cell fits.
    """
    throughput = cost.throughput
    parts: list[list[int]] = [[] for _ in plan.cells]
    for number, unit in enumerate(units):
        for place in unit.cells:
            parts[place].append(number)
    open_cells = [place for place, cell in enumerate(plan.cells) if cell.evaluate_segment not in finished]
    devices = [cost.cells[unit.cells[0]].devices for unit in units]  # The cells of a unit are of one shape.
    hours = [time * share / HOUR_SECONDS for time, share in zip(seconds, devices, strict=True)]
    chosen, needed = _within(open_cells, parts, hours, limits)
    if open_cells and not chosen:
        _refuse(plan, open_cells, parts, hours, limits, throughput)
    return Allowance(
        segments=frozenset(str(units[number].segment_id) for number in needed) - frozenset(finished),
        said=_said(len(open_cells), len(chosen), limits, throughput),
        hours=HourLimit(
            max_hours=limits.max_hours,
            devices_per_segment=throughput.devices_per_segment,
            gpu_shares={str(unit.segment_id): share for unit, share in zip(units, devices, strict=True)}
            if cost.sharing
            else {},
            unit=throughput.hours_unit,
        ),
    )


def _within(
    open_cells: Sequence[int],
    parts: Sequence[Sequence[int]],
    hours: Sequence[float],
    limits: Limits,
) -> tuple[list[int], set[int]]:
    """Cells that fit, and the units that they need. A cell that does not fit leaves room for those that do."""
    chosen: list[int] = []
    needed: set[int] = set()
    spent = 0.0
    for place in open_cells:
        if limits.max_cells is not None and len(chosen) == limits.max_cells:
            break
        more = sum(hours[number] for number in parts[place] if number not in needed)
        if limits.max_hours is not None and spent + more > limits.max_hours:
            continue
        spent += more
        chosen.append(place)
        needed.update(parts[place])
    return chosen, needed


def _said(num_open: int, num_chosen: int, limits: Limits, throughput: Throughput) -> str:
    if num_chosen == num_open:
        return ""
    by_count = limits.max_cells is not None and num_chosen == limits.max_cells
    limit = f"{limits.max_cells} cells" if by_count else f"{limits.max_hours:g} {throughput.hours_unit}"
    return f"the limit of {limit} leaves {num_open - num_chosen} of {num_open} open cells for later"


def _refuse(
    plan: Plan,
    open_cells: Sequence[int],
    parts: Sequence[Sequence[int]],
    hours: Sequence[float],
    limits: Limits,
    throughput: Throughput,
) -> None:
    def cell_hours(place: int) -> float:
        return sum(hours[number] for number in parts[place])

    least = min(open_cells, key=cell_hours)
    cell = plan.cells[least]
    raise PlanError(
        f"less than any cell takes: the cheapest, {cell.arm} {cell.size} at {budget_text(cell.budget)}, is estimated "
        f"at {amount_text(cell_hours(least))} {throughput.hours_unit}; give more, or use smaller budgets",
        fix=Fix(setting="max_hours", value=f"{limits.max_hours:g}"),
    )
