"""What a plan will cost: exact FLOPs, and from them time, memory and disk, each with the basis it rests on. Pure."""

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mor_core.training.memory import Device, training_memory_bytes
from orchestrator.planning.cells import Cell
from orchestrator.planning.costs.machine import Throughput
from orchestrator.planning.costs.speeds import Basis, Rate, basis_text
from orchestrator.planning.costs.work import Shape, Unit, shape_of, work_of
from orchestrator.planning.plan import Plan, flops_between

HOUR_SECONDS = 3600

START_SECONDS = 15.0
"""Of a command that trains, before its first step: Ray and its workers start and load torch. Up to a minute on
busy cores."""

LIBRARY_BYTES: dict[Device, int] = {"cpu": 500_000_000, "cuda": 0}
"""What a worker's process holds beside the tensors, where no shape was measured: 0.45 to 0.6 GB at torch 2.13. A GPU's
allocator does not see it."""

MOST_EVALUATION_PERCENT = 10
"""Of a sweep's training FLOPs: what its evaluations should cost at most."""


@dataclass(frozen=True, kw_only=True)
class CellCost:
    """What one cell takes."""

    hours: float
    """Device-hours of its own parts and of its equal share of those that other cells need too: these add up."""
    hours_alone: float
    """Device-hours if it were the only cell."""
    hours_remaining: float
    """Of `hours`, what is not finished."""
    memory_bytes: int
    """Peak on one worker."""
    memory_is_measured: bool
    """Whether a run or a probe has reached that peak. Else it is computed from the shape, with what measured shapes of
    the plan took beyond theirs (libraries), where there are any, else what is assumed of libraries."""
    disk_bytes: int
    """Of the checkpoints that are kept, shared as the hours are."""
    basis: Basis
    """How its speed is known."""
    devices: float
    """GPUs, a share of one, or CPU cores, that each of its segments holds while it runs."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a plan. FLOPs are exact training FLOPs whatever the budgets' convention."""

    flops: int
    """Executed in all: each trunk once, each cooldown once."""
    flops_remaining: int
    """Of these, in segments that are not finished."""
    flops_separate: int
    """If every cell were a run of its own, from its first step."""
    flops_shared: int
    """If budgets shared trunks: equals `flops` unless trunks = "per-budget" and the schedule is a trapezoid."""
    flops_evaluation: int
    """Forward passes over the validation sequences, not part of the above."""
    num_evaluation_sequences: int
    """Validation sequences of each evaluation: one number for all cells, so that they are compared on equal text."""
    num_trunks: int
    """Distinct trunks."""
    num_segments: int
    """Distinct units of work."""
    seconds: float
    """Wall time of what remains, evaluations included: the larger of work / workers and the longest chain, after
    `START_SECONDS`; 0 where nothing remains."""
    throughput: Throughput
    """What `seconds` rests on; its speed is that of the whole work."""
    hours: float
    """Device-hours of all work, what is shared counted once."""
    hours_remaining: float
    """Of these, of what is not finished."""
    memory_bytes: int
    """Of the largest cell on one worker."""
    memory_cell: str
    """Which cell that is."""
    disk_bytes: int
    """Of the checkpoints that are kept."""
    cells: tuple[CellCost, ...]
    """Of each cell of the plan, in its order."""
    sharing: str = ""
    """Which cells share a GPU, in a sentence; empty where all hold the same."""

    @property
    def evaluation_share(self) -> float:
        """FLOPs of evaluation over those of training."""
        return self.flops_evaluation / self.flops

    @property
    def most_evaluation_sequences(self) -> int:
        """See the function of this name."""
        return most_evaluation_sequences(self.num_evaluation_sequences, self.flops_evaluation, self.flops)


def most_evaluation_sequences(num_sequences: int, flops_evaluation: int, flops: int) -> int:
    """The largest number of validation sequences whose evaluations take at most `MOST_EVALUATION_PERCENT` of the
    training's `flops`, where `num_sequences` take `flops_evaluation`; 0 where one is too many. FLOPs of evaluation are
    linear in the number, but for the rounding of each cell's to a whole one."""
    return num_sequences * flops * MOST_EVALUATION_PERCENT // (100 * flops_evaluation)


def estimate(
    plan: Plan,
    throughput: Throughput,
    rates: Mapping[Shape, Rate] | None = None,
    *,
    num_evaluation_sequences: int,
    micro_batch: int | None = None,
    checkpoint_activations: bool = False,
    finished: Collection[str] = (),
    shares: Mapping[Shape, float] | None = None,
) -> Estimate:
    """The cost of a plan, of which the segments whose ids are in `finished` are done.

    Without `rates`, every shape trains at the speed of `throughput`. `micro_batch` in sequences; None is the whole
    batch. `shares` of a GPU by shape; None: every segment holds the devices of `throughput`.
    """
    if rates is None:
        assumed_rate = Rate(flops_per_second=throughput.flops_per_second, basis=Basis.assumed)
        rates, basis = {shape_of(cell): assumed_rate for cell in plan.cells}, throughput.basis
    else:
        basis = basis_text(rates, throughput.device)
    units = work_of(plan, num_evaluation_sequences)
    seconds = unit_seconds(units, rates)
    left = unit_seconds(units, rates, finished)
    unit_devices = _unit_devices(units, throughput, shares)
    used, used_left = (
        [time * devices for time, devices in zip(spent, unit_devices, strict=True)] for spent in (seconds, left)
    )
    trained = [unit for unit in units if unit.kind != "evaluate"]
    flops = sum(unit.flops for unit in trained)
    memory = _memory(plan, throughput.device, micro_batch, checkpoint_activations)
    cells = _cell_costs(plan, units, used, used_left, unit_devices, rates, memory, LIBRARY_BYTES[throughput.device])
    largest = max(range(len(cells)), key=lambda place: cells[place].memory_bytes)
    chain = max(_of_cells(plan, units, left))
    effective = sum(unit.flops for unit in units) / sum(seconds)
    return Estimate(
        flops=flops,
        flops_remaining=sum(unit.flops for unit in trained if unit.segment_id not in finished),
        flops_separate=sum(cell.flops["exact"] for cell in plan.cells),
        flops_shared=sum(_trunk_flops(members) for members in _by_column(plan.cells)),
        flops_evaluation=sum(unit.flops for unit in units if unit.kind == "evaluate"),
        num_evaluation_sequences=num_evaluation_sequences,
        num_trunks=len({cell.trunk_key for cell in plan.cells}),
        num_segments=len(units),
        seconds=0.0
        if not any(left)
        else START_SECONDS
        + max(sum(left) / throughput.workers, sum(used_left) / (throughput.devices or math.inf), chain),
        throughput=replace(throughput, flops_per_second=effective, basis=basis),
        hours=sum(used) / HOUR_SECONDS,
        hours_remaining=sum(used_left) / HOUR_SECONDS,
        memory_bytes=cells[largest].memory_bytes,
        memory_cell=f"{plan.cells[largest].arm} {plan.cells[largest].size}",
        disk_bytes=sum(unit.checkpoint_bytes for unit in units),
        cells=cells,
    )


def unit_seconds(units: Sequence[Unit], rates: Mapping[Shape, Rate], finished: Collection[str] = ()) -> list[float]:
    """Seconds of one worker for each part of the work; 0 for those that are finished."""
    speeds = {id(unit.shape): rates[unit.shape].flops_per_second for unit in units}  # Equal shapes of a trunk are one.
    return [0.0 if unit.segment_id in finished else unit.flops / speeds[id(unit.shape)] for unit in units]


def _unit_devices(units: Sequence[Unit], throughput: Throughput, shares: Mapping[Shape, float] | None) -> list[float]:
    """What each part of the work holds while it runs."""
    if shares is None:
        return [throughput.devices_per_segment] * len(units)
    return [shares[unit.shape] for unit in units]


def _memory(
    plan: Plan, device: Device, micro_batch: int | None, checkpoint_activations: bool
) -> dict[tuple[object, object], int]:
    """Computed peaks by (model, train)."""
    return {
        (cell.model, cell.train): training_memory_bytes(
            cell.model, cell.train, device, micro_batch=micro_batch, checkpoint_activations=checkpoint_activations
        )
        for cell in plan.cells
    }


def _of_cells(plan: Plan, units: Sequence[Unit], amounts: Sequence[float], *, shared: bool = False) -> list[float]:
    """The amounts of each cell's parts summed, or its equal shares of them."""
    sums = [0.0] * len(plan.cells)
    for unit, amount in zip(units, amounts, strict=True):
        part = amount / len(unit.cells) if shared else amount
        for place in unit.cells:
            sums[place] += part
    return sums


def _cell_costs(
    plan: Plan,
    units: Sequence[Unit],
    used: Sequence[float],
    left: Sequence[float],
    unit_devices: Sequence[float],
    rates: Mapping[Shape, Rate],
    memory: Mapping[tuple[object, object], int],
    library_bytes: int,
) -> tuple[CellCost, ...]:
    """By unit: `used` and `left` in device-seconds, and its devices. `library_bytes` are for shapes never measured."""
    devices = {place: count for unit, count in zip(units, unit_devices, strict=True) for place in unit.cells}
    beyond = [
        measured - memory[cell.model, cell.train]
        for cell in plan.cells
        if (measured := rates[shape_of(cell)].memory_bytes) is not None
    ]
    libraries = max(0, round(statistics.median(beyond))) if beyond else library_bytes
    columns = zip(
        plan.cells,
        range(len(plan.cells)),
        _of_cells(plan, units, used, shared=True),
        _of_cells(plan, units, used),
        _of_cells(plan, units, left, shared=True),
        _of_cells(plan, units, [float(unit.checkpoint_bytes) for unit in units], shared=True),
        strict=True,
    )
    costs = []
    for cell, place, share, alone, remaining, disk in columns:
        rate = rates[shape_of(cell)]
        costs.append(
            CellCost(
                hours=share / HOUR_SECONDS,
                hours_alone=alone / HOUR_SECONDS,
                hours_remaining=remaining / HOUR_SECONDS,
                memory_bytes=rate.memory_bytes or memory[cell.model, cell.train] + libraries,
                memory_is_measured=rate.memory_bytes is not None,
                disk_bytes=round(disk),
                basis=rate.basis,
                devices=devices[place],
            )
        )
    return tuple(costs)


def _by_column(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that could share a trunk: they differ in their budget only, and are no cosines."""
    columns: dict[object, list[Cell]] = defaultdict(list)
    for cell in cells:
        columns[cell.arm, cell.size, cell.seed, cell.train.cosine_steps].append(cell)
    return list(columns.values())


def _trunk_flops(members: Sequence[Cell]) -> int:
    """One trunk up to its last branch, and each cooldown once; rounded part by part, as segments are."""
    model, batch_size = members[0].model, members[0].train.batch_size
    stops = sorted({cell.decay_start for cell in members})
    cooldowns = {(cell.decay_start, cell.steps) for cell in members if cell.decay_start < cell.steps}
    return sum(flops_between(model, batch_size, start, stop) for start, stop in (*pairwise([0, *stops]), *cooldowns))
