"""The work of a plan, each part once: stretches of trunks, cooldowns and evaluations, and the cells that share them.

Pure. A plan has segments only once its data are prepared; the parts here are the same without.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mor_core.config.model import ExpertChoice, Precision
from mor_core.config.own_model import Model, OwnModel
from mor_core.flops import FORWARD_AND_BACKWARD, training_flops_per_token
from orchestrator.planning.cells import Cell
from orchestrator.planning.identity import Segment, SegmentKind
from orchestrator.planning.plan import Plan, flops_between

EVALUATION_RULES = 3
"""Ways in which a model with expert choice is evaluated: its thresholds, a sigmoid of 0.5, top-k. Others have one."""

CHECKPOINT_BYTES: dict[SegmentKind, int] = {"stable": 12, "decay": 4, "evaluate": 0}
"""Per parameter: a trunk keeps fp32 weights and AdamW's two moments, a cooldown its weights."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the speed and the memory of a training step depend on, beside how and where it is executed."""

    model: Model
    """The architecture."""
    batch_size: int
    """Sequences per optimiser step."""
    precision: Precision
    """Of the computation."""


def family_of(shape: Shape) -> tuple[object, ...]:
    """Equal for shapes that differ in size only."""
    model_object = shape.model.object if isinstance(shape.model, OwnModel) else None
    return model_object, shape.model.recursion, shape.model.routing, shape.precision


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One part of the work."""

    kind: SegmentKind
    """stable, decay or evaluate."""
    shape: Shape
    """Of its steps."""
    flops: int
    """Exact FLOPs: of its training steps, or of the forward passes of an evaluation."""
    checkpoint_bytes: int
    """On disk when it is done."""
    cells: tuple[int, ...]
    """Places in the plan of the cells that need it; each bears an equal share."""
    segment_id: str | None
    """Its segment; None without prepared data."""


def shape_of(cell: Cell) -> Shape:
    """The shape of a cell's steps."""
    return Shape(model=cell.model, batch_size=cell.train.batch_size, precision=cell.train.precision)


def segment_shape(segment: Segment) -> Shape:
    """The shape of a segment's steps."""
    train = segment.trunk.train
    return Shape(model=segment.trunk.model, batch_size=train.batch_size, precision=train.precision)


def work_of(plan: Plan, num_evaluation_sequences: int) -> list[Unit]:
    """Every part of a plan's work once. A cell's parts follow one another: its trunk, its cooldown, its evaluation."""
    ids: dict[tuple[object, ...], str] = {
        (
            segment.trunk.model,
            segment.trunk.train,
            segment.trunk.seed,
            segment.kind,
            (segment.trunk_step, segment.stop_step),
        ): segment.id
        for segment in plan.segments
    }
    trunks: dict[object, list[int]] = defaultdict(list)
    for place, cell in enumerate(plan.cells):
        trunks[cell.trunk_key].append(place)
    units: list[Unit] = []
    for members in trunks.values():
        units += _trunk_units(plan.cells, members, num_evaluation_sequences, ids)
    return units


def _trunk_units(
    cells: Sequence[Cell], members: Sequence[int], num_evaluation_sequences: int, ids: Mapping[tuple[object, ...], str]
) -> list[Unit]:
    """The parts of one trunk: its stretches between branch points, then each branch."""
    first_cell = cells[members[0]]
    shape, key = shape_of(first_cell), first_cell.trunk_key
    stops: dict[int, list[int]] = defaultdict(list)
    branches: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place in members:
        stops[cells[place].decay_start].append(place)
        branches[cells[place].decay_start, cells[place].steps].append(place)

    def unit(kind: SegmentKind, branch: tuple[int, int], flops: int, users: Sequence[int]) -> Unit:
        return Unit(
            kind=kind,
            shape=shape,
            flops=flops,
            checkpoint_bytes=CHECKPOINT_BYTES[kind] * first_cell.total_params,
            cells=tuple(users),
            segment_id=ids.get((*key, kind, branch)),
        )

    def cost(first: int, last: int) -> int:
        return flops_between(first_cell.model, first_cell.train.batch_size, first, last)

    units, first = [], 0
    for stop in sorted(stops):
        users = [place for place in members if cells[place].decay_start >= stop]
        units.append(unit("stable", (stop, stop), cost(first, stop), users))
        first = stop
    for (start, stop), users in branches.items():
        if start < stop:
            units.append(unit("decay", (start, stop), cost(start, stop), users))
        units.append(unit("evaluate", (start, stop), evaluation_flops(first_cell, num_evaluation_sequences), users))
    return units


def evaluation_flops(cell: Cell, num_sequences: int) -> int:
    """Exact forward FLOPs of a cell's evaluation, each of its rules at the planned depths."""
    tokens = num_sequences * cell.model.context_length
    passes = EVALUATION_RULES if isinstance(cell.model.routing, ExpertChoice) else 1
    return round(passes * tokens * training_flops_per_token(cell.model, "exact") / FORWARD_AND_BACKWARD)
