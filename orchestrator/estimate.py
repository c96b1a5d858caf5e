"""What a plan will cost: exact FLOPs, and from them time, memory and disk, each with the basis it rests on. Pure."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mor_core.config import ExpertChoice
from mor_core.flops import FORWARD_AND_BACKWARD, training_flops_per_token
from mor_core.training.chunks import Device
from orchestrator.cells import Cell, training_cost
from orchestrator.identity import Segment
from orchestrator.memory import training_memory_bytes
from orchestrator.plan import Plan

ASSUMED_FLOPS_PER_SECOND: dict[Device, tuple[float, str]] = {
    "cuda": (0.4 * 989e12, "assumed: 40 % of an H100's 989 TFLOP/s in bf16"),
    "cpu": (10e9, "assumed: 10 GFLOP/s for a CPU core on small models"),
}
"""Per worker, with the sentence that is shown beside it."""

BYTES_PER_PARAMETER_STABLE = 12
"""A trunk's checkpoint: fp32 weights and AdamW's two moments."""

BYTES_PER_PARAMETER_DECAY = 4
"""A cooldown's checkpoint: fp32 weights."""

EVALUATION_RULES = 3
"""Ways in which a model with expert choice is evaluated: its thresholds, a sigmoid of 0.5, top-k. Others have one."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """How fast work is done, and how we know."""

    device: Device
    """What trains."""
    flops_per_second: float
    """Exact training FLOPs per second of one worker."""
    workers: int
    """Segments that run at the same time."""
    basis: str
    """Measured or assumed, in words."""


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
    num_trunks: int
    """Distinct trunks."""
    num_segments: int
    """Distinct units of work."""
    seconds: float
    """Wall time of what remains: the larger of work / workers and the longest chain."""
    throughput: Throughput
    """What `seconds` rests on."""
    memory_bytes: int
    """Of the largest cell on one worker."""
    memory_cell: str
    """Which cell that is."""
    disk_bytes: int
    """Of the checkpoints that are kept."""


def assumed_throughput(device: Device, workers: int) -> Throughput:
    """A stated assumption, for when nothing has been measured."""
    flops_per_second, basis = ASSUMED_FLOPS_PER_SECOND[device]
    return Throughput(device=device, flops_per_second=flops_per_second, workers=workers, basis=basis)


def measured_throughput(plan: Plan, results: Mapping[str, Mapping[str, Any]], machine: Throughput) -> Throughput:
    """The machine at the speed of the finished segments of a plan, by id; as it is where none has taken a step."""
    speed = measured_flops_per_second(plan.segments, results)
    if speed is None:
        return machine
    trained = sum(1 for segment in plan.segments if results.get(segment.id, {}).get("steps_executed"))
    return replace(machine, flops_per_second=speed, basis=f"measured on {trained} finished segments")


def measured_flops_per_second(segments: Sequence[Segment], results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Exact FLOPs per second of one worker on those of the segments that are finished; None where none took a step."""
    trained = [segment for segment in segments if results.get(segment.id, {}).get("steps_executed")]
    seconds = sum(results[segment.id]["train_seconds"] for segment in trained)
    if not seconds:
        return None
    return sum(_flops_of_last_steps(segment, results[segment.id]["steps_executed"]) for segment in trained) / seconds


def estimate(
    plan: Plan,
    throughput: Throughput,
    *,
    num_evaluation_sequences: int,
    micro_batch: int | None = None,
    checkpoint_activations: bool = False,
    finished: Collection[str] = (),
) -> Estimate:
    """The cost of a plan, of which the segments whose ids are in `finished` are done.

    `micro_batch` in sequences; None is the whole batch.
    """
    trunks = _by_trunk(plan.cells)
    costs = [_trunk_flops(members) for members in trunks]
    shared = sum(_trunk_flops(members) for members in _by_column(plan.cells))
    done = sum(cost for segment, cost in segment_flops(plan).items() if segment in finished)
    remaining = sum(costs) - done
    chain = max(cell.flops["exact"] for cell in plan.cells) if remaining else 0
    memory = {
        (cell.model, cell.train): training_memory_bytes(
            cell.model,
            cell.train,
            throughput.device,
            micro_batch=micro_batch,
            checkpoint_activations=checkpoint_activations,
        )
        for cell in plan.cells
    }
    largest = max(plan.cells, key=lambda cell: memory[cell.model, cell.train])
    return Estimate(
        flops=sum(costs),
        flops_remaining=remaining,
        flops_separate=sum(cell.flops["exact"] for cell in plan.cells),
        flops_shared=shared,
        flops_evaluation=sum(evaluation_flops(cell, num_evaluation_sequences) for cell in plan.cells),
        num_trunks=len(trunks),
        num_segments=sum(
            len(_stops(members)) + len(_branches(members)) + len(_cooldowns(members)) for members in trunks
        ),
        seconds=max(remaining / throughput.workers, min(chain, remaining)) / throughput.flops_per_second,
        throughput=throughput,
        memory_bytes=memory[largest.model, largest.train],
        memory_cell=f"{largest.arm} {largest.size}",
        disk_bytes=sum(_disk_bytes(members) for members in trunks),
    )


def segment_flops(plan: Plan) -> dict[str, int]:
    """Exact training FLOPs of each segment by id; a stable segment's count from the one before it in the plan."""
    stops = {segment.id: segment.stop_step for segment in plan.segments}
    costs: dict[str, int] = {}
    for segment in plan.segments:
        costs[segment.id] = _flops_of_last_steps(segment, segment.stop_step - _start(segment, stops))
    return costs


def _start(segment: Segment, stops: dict[str, int]) -> int:
    """The step a segment begins at; an evaluation takes no steps."""
    return max((stops[needed] for needed in segment.needs), default=0)


def _flops_of_last_steps(segment: Segment, steps: int) -> int:
    """Exact training FLOPs of the steps that a segment ends with."""
    model, batch_size = segment.trunk.model, segment.trunk.train.batch_size
    first = segment.stop_step - steps
    return round(
        training_cost(model, batch_size, segment.stop_step, "exact") - training_cost(model, batch_size, first, "exact")
    )


def evaluation_flops(cell: Cell, num_sequences: int) -> int:
    """Exact forward FLOPs of a cell's evaluation, each of its rules at the planned depths."""
    tokens = num_sequences * cell.model.context_length
    passes = EVALUATION_RULES if isinstance(cell.model.routing, ExpertChoice) else 1
    return round(passes * tokens * training_flops_per_token(cell.model, "exact") / FORWARD_AND_BACKWARD)


def _by_trunk(cells: Sequence[Cell]) -> list[list[Cell]]:
    return _grouped(cells, [cell.trunk_key for cell in cells])


def _by_column(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that could share a trunk: they differ in their budget only, and are no cosines."""
    return _grouped(cells, [(cell.arm, cell.size, cell.seed, cell.train.cosine_steps) for cell in cells])


def _grouped(cells: Sequence[Cell], keys: Sequence[object]) -> list[list[Cell]]:
    groups: dict[object, list[Cell]] = defaultdict(list)
    for key, cell in zip(keys, cells, strict=True):
        groups[key].append(cell)
    return list(groups.values())


def _stops(members: Sequence[Cell]) -> set[int]:
    return {cell.decay_start for cell in members}


def _branches(members: Sequence[Cell]) -> set[tuple[int, int]]:
    return {(cell.decay_start, cell.steps) for cell in members}


def _cooldowns(members: Sequence[Cell]) -> set[tuple[int, int]]:
    return {(start, stop) for start, stop in _branches(members) if start < stop}


def _trunk_flops(members: Sequence[Cell]) -> int:
    """One trunk up to its last branch, and each cooldown once."""
    model, batch_size = members[0].model, members[0].train.batch_size

    def cost(start: int, stop: int) -> int:
        whole = training_cost(model, batch_size, stop, "exact") - training_cost(model, batch_size, start, "exact")
        return round(whole)

    return cost(0, max(_stops(members))) + sum(cost(start, stop) for start, stop in _cooldowns(members))


def _disk_bytes(members: Sequence[Cell]) -> int:
    per_parameter = BYTES_PER_PARAMETER_STABLE * len(_stops(members))
    per_parameter += BYTES_PER_PARAMETER_DECAY * len(_cooldowns(members))
    return per_parameter * members[0].total_params
