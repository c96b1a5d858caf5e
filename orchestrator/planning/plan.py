"""From a sweep as asked for to the cells and segments that answer it. Pure: no clock, no machine, no file.

Segments are named by what they compute, so a plan with more budgets, seeds or arms contains those of the smaller one.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mor_core.config.own_model import Model, OwnModel
from mor_core.config.sizes import Size
from mor_core.config.training import NUMERICS_VERSION
from mor_core.data.snapshot import DataSnapshot
from mor_core.errors import Refused
from mor_core.flops import Convention, training_cost
from mor_core.model.own.code import OwnImportError
from mor_core.units import budget_text
from orchestrator.planning.canonical import content_id, cycle_collection_paused
from orchestrator.planning.cells import Cell, Dropped, cells_of
from orchestrator.planning.identity import (
    EvaluationSpec,
    Initialisation,
    Segment,
    TrunkRecipe,
    chain_ids,
    decay_segment,
    evaluate_segment,
    stable_segment,
    trunk_id,
)
from orchestrator.planning.ladder import check_named_sizes, num_sizes, windows
from orchestrator.planning.recipe import own_ladder_of, own_steps_note, pretrained, raised_depth_note
from orchestrator.planning.spec.sweep_file import SpecError
from orchestrator.planning.spec.sweep_spec import SweepSpec

MOST_CELLS = 100_000
"""Of a plan. More is a slip of the pen, and would fill the memory before the plan could be shown."""

COSINE_NOTE = "a cosine falls to a cell's own last step: each cell is a run of its own, and no trunk is shared"


class PlanError(Refused):
    """A sweep that must not or cannot start as it stands."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep will do, resolved: whoever executes it recomputes nothing."""

    name: str
    """The sweep's name."""
    spec: SweepSpec
    """The sweep file that it answers."""
    budget_convention: Convention
    """How budgets are counted."""
    trunks: str
    """shared or per-budget; always per-budget under a cosine."""
    tokens: tuple[int, ...] | None
    """Training tokens of every cell, where the sweep asks for tokens and not for budgets."""
    data_name: str | None
    """The data snapshot's name; None without prepared data."""
    settings: Mapping[str, Any]
    """Everything but the grid (budgets, sizes, arms, seeds), as its id is made of it."""
    cells: tuple[Cell, ...]
    """By arm, size, budget, seed."""
    segments: tuple[Segment, ...]
    """Each after what it needs, longest trunks first; empty without prepared data."""
    dropped: tuple[Dropped, ...]
    """What is left out, with reasons."""
    notes: tuple[str, ...]
    """What a reader should know about the grid."""

    @cached_property
    def settings_id(self) -> str:
        """Content id of the settings: cells may share a table if it is equal."""
        return content_id(self.settings)

    def settings_id_with(self, own_sizes: Mapping[str, Sequence[str] | None]) -> str:
        """The id that earlier versions gave the same settings. They counted the sizes that [arms.NAME] names among
        them: `own_sizes`, by label."""
        arms = self.settings["arms"] or {}
        with_sizes = {label: arms[label] | {"sizes": sizes} for label, sizes in own_sizes.items() if label in arms}
        return content_id({**self.settings, "arms": arms | with_sizes or None})

    def chain(self, cell: Cell) -> list[Segment]:
        """The segments that lead to a cell: its stable stretches, its decay, its evaluation. None without data."""
        if cell.evaluate_segment is None:
            return []
        by_id = self._segments_by_id
        return [by_id[name] for name in chain_ids(cell.evaluate_segment, lambda name: by_id[name].needs)]

    @cached_property
    def _segments_by_id(self) -> dict[str, Segment]:
        return {segment.id: segment for segment in self.segments}


def plan(spec: SweepSpec, data: DataSnapshot | None) -> Plan:
    """Cells and segments of a sweep. Without data: cells, steps and FLOPs, no ids and no segments.

    Raises PlanError where no cell is left or there are too many, SpecError where the data cannot serve the models.
    """
    # Before anything is made for each of them.
    count = num_combinations(spec)
    if count > MOST_CELLS:
        raise PlanError(
            f"{spec.name} asks for {count:,} cells (arms {len(spec.members):,}, sizes {num_sizes(spec):,}, "
            f"{'budgets' if spec.tokens is None else 'tokens'} {len(spec.goals):,}, seeds {len(spec.seeds):,}), and a "
            f"plan holds at most {MOST_CELLS:,}: ask for fewer"
        )
    with cycle_collection_paused():
        return _plan(spec, data)


def num_combinations(spec: SweepSpec) -> int:
    """Arms times sizes times goals times seeds of a sweep."""
    return len(spec.members) * num_sizes(spec) * len(spec.goals) * len(spec.seeds)


def _plan(spec: SweepSpec, data: DataSnapshot | None) -> Plan:
    if data is not None:
        _check_data(spec, data)
    with contextlib.suppress(OwnImportError):  # Its arm is left out below, and what sizes it has is not known.
        check_named_sizes(spec, (spec.sizes.names if spec.sizes else None) or ())
    rows: list[Cell | Dropped] = []
    notes = [COSINE_NOTE] if spec.schedule.kind == "cosine" and spec.trunks == "shared" else []
    lost: OwnImportError | None = None
    for arm in spec.members:
        try:
            chosen = windows(spec, arm)
        except OwnImportError as error:
            rows += [
                Dropped(arm=arm.label, size="every size", budget=goal, seed=seed, reason=str(error))
                for goal in spec.goals
                for seed in spec.seeds
            ]
            lost = lost or error
            continue
        models: dict[Size | OwnModel, Model] = {}
        notes += [window.note for window in chosen.values() if window.note]
        for size in dict.fromkeys(size for window in chosen.values() for size in window.sizes):
            goals = [goal for goal, window in chosen.items() if size in window.sizes]
            size_rows = list(cells_of(spec, arm, size, goals, _train_tokens(spec, data)))
            rows += size_rows
            models.update((size, row.model) for row in size_rows if isinstance(row, Cell))
        if note := raised_depth_note(arm, models):
            notes.append(note)
        if arm.own is not None:
            ladder = own_ladder_of(spec, arm)
            notes += ladder.warnings
            if note := own_steps_note(spec, arm, ladder.models[0]):
                notes.append(note)
    cells = [row for row in rows if isinstance(row, Cell)]
    dropped = tuple(row for row in rows if isinstance(row, Dropped))
    if not cells and lost is not None:
        raise lost
    if not cells:
        first = dropped[0]
        where = f"{first.arm} {first.size} at {budget_text(first.budget)}"
        raise PlanError(f"none of the {len(dropped)} cells can be trained; the first: {where}: {first.reason}")
    segments: list[Segment] = []
    if data is not None:
        cells, segments = _with_segments(spec, cells, data)
    return Plan(
        name=spec.name,
        spec=spec,
        budget_convention=spec.budget_convention,
        trunks="shared" if spec.shares_trunks else "per-budget",
        tokens=spec.tokens,
        data_name=data.name if data else None,
        settings=_settings(spec, data),
        cells=tuple(cells),
        segments=tuple(segments),
        dropped=dropped,
        notes=tuple(notes),
    )


def plan_of_cells(spec: SweepSpec, data: DataSnapshot, cells: Sequence[Cell]) -> Plan:
    """The segments of cells that are resolved already, under a sweep's name, settings and evaluation.

    Raises SpecError where the data cannot serve the models.
    """
    _check_data(spec, data)
    with cycle_collection_paused():
        named, segments = _with_segments(spec, cells, data)
    return Plan(
        name=spec.name,
        spec=spec,
        budget_convention=spec.budget_convention,
        trunks="shared" if spec.shares_trunks else "per-budget",
        tokens=None if spec.tokens is None else tuple(sorted({cell.tokens for cell in named})),
        data_name=data.name,
        settings=_settings(spec, data),
        cells=tuple(named),
        segments=tuple(segments),
        dropped=(),
        notes=(),
    )


def _check_data(spec: SweepSpec, data: DataSnapshot) -> None:
    """Refuse before training what would fail after it."""
    if data.vocab_size > spec.model.vocab_size:
        raise SpecError(
            f"model.vocab_size {spec.model.vocab_size} is smaller than the {data.vocab_size} token ids of "
            f"{data.name}: raise it, or prepare the data again"
        )
    unique_tokens, shortest = spec.data.unique_tokens, spec.model.context_length + 1
    if unique_tokens is not None and not shortest <= unique_tokens <= data.train_tokens:
        raise SpecError(
            f"data.unique_tokens {unique_tokens}: expected {shortest} (one sequence) to {data.train_tokens}, all "
            f"training tokens of {data.name}: change it, or leave it out to train on all of them"
        )
    needed = spec.evaluation.num_sequences * spec.model.context_length
    if data.valid_tokens <= needed:
        raise SpecError(
            f"evaluation.num_sequences {spec.evaluation.num_sequences} needs more than {needed} validation tokens, "
            f"and {data.name} has {data.valid_tokens}: lower it, or use more text"
        )


def _train_tokens(spec: SweepSpec, data: DataSnapshot | None) -> int | None:
    """Distinct tokens that training reads; None where nothing is known of them."""
    return spec.data.unique_tokens or (data.train_tokens if data else None)


def _initialisation(spec: SweepSpec) -> Initialisation | None:
    weights = pretrained(spec)
    if weights is None or spec.init_from is None:
        return None
    return Initialisation(fingerprint=weights.fingerprint, selection=spec.init_from.layers)


def _settings(spec: SweepSpec, data: DataSnapshot | None) -> dict[str, Any]:
    """What must be equal before losses of two plans are fitted together: mathematics, data and evaluation."""
    grid = {"name", "budgets", "tokens", "seeds", "sizes", "only", "execution", "data"}
    settings = spec.plain(exclude=grid | {"arms", "variants", "init_from"})
    # Labels say which arm a row is, so what a label stands for must be equal too.
    arms = spec.arms.plain(exclude={"architectures", "recursions"}) if spec.arms else None
    if spec.arms and arms:
        # Which sizes of an own model are trained is the grid, as it is of ours.
        arms |= {label: arms[label] | {"sizes": None} for label in spec.arms.own}
    variants = {label: variant.plain(exclude={"paper_nll"}) for label, variant in spec.variants.items()}
    return {
        "settings": settings,
        "arms": arms,
        "variants": variants,
        "init": _initialisation(spec),
        "data": data.fingerprint if data else None,
        "numerics_version": NUMERICS_VERSION,
        **({} if spec.data.unique_tokens is None else {"unique_tokens": spec.data.unique_tokens}),
    }


def _with_segments(spec: SweepSpec, cells: Sequence[Cell], data: DataSnapshot) -> tuple[list[Cell], list[Segment]]:
    """The cells with their ids, and every segment once: longest trunks first, by the exact FLOPs of their longest cell,
    which is what the schedule waits for; each after what it needs."""
    init = _initialisation(spec)
    evaluation = EvaluationSpec(num_sequences=spec.evaluation.num_sequences)
    trunks: dict[object, list[Cell]] = defaultdict(list)
    for cell in cells:
        trunks[cell.trunk_key].append(cell)
    named: dict[int, Cell] = {}
    segments: list[Segment] = []
    longest_first = sorted(trunks.values(), key=lambda cells: max(cell.flops["exact"] for cell in cells), reverse=True)
    for members in longest_first:
        trunk = TrunkRecipe(
            model=members[0].model,
            train=members[0].train,
            data_fingerprint=data.fingerprint,
            tokenizer_fingerprint=data.tokenizer_fingerprint,
            seed=members[0].seed,
            numerics_version=NUMERICS_VERSION,
            init=init,
            unique_tokens=spec.data.unique_tokens,
        )
        stables = _stable_chain(trunk, sorted({cell.decay_start for cell in members}))
        branches = {branch: _branch(trunk, stables, branch, evaluation) for branch in map(_branch_of, members)}
        segments += [*stables.values(), *(segment for branch in branches.values() for segment in branch)]
        identity = trunk_id(trunk)
        for cell in members:
            evaluate = branches[_branch_of(cell)][-1].id
            ids = {"trunk_id": identity, "evaluate_segment": evaluate, "cell_id": cell_identity(cell, evaluate)}
            named[id(cell)] = cell.but(**ids)
    return [named[id(cell)] for cell in cells], segments


def _branch_of(cell: Cell) -> tuple[int, int]:
    return cell.decay_start, cell.steps


def _stable_chain(trunk: TrunkRecipe, stop_steps: Sequence[int]) -> dict[int, Segment]:
    """By stop step, ascending: stable stretches of which each starts where the one before it stopped."""
    chain: dict[int, Segment] = {}
    needs: tuple[str, ...] = ()
    for stop_step in stop_steps:
        chain[stop_step] = stable_segment(trunk, stop_step, needs)
        needs = (chain[stop_step].id,)
    return chain


def _branch(
    trunk: TrunkRecipe, stables: dict[int, Segment], branch: tuple[int, int], evaluation: EvaluationSpec
) -> tuple[Segment, ...]:
    """The cooldown from a point of the trunk, if there is one, and the evaluation of what it ends with."""
    decay_start, steps = branch
    if decay_start == steps:
        return (evaluate_segment(stables[steps], evaluation),)
    decay = decay_segment(trunk, decay_start, steps, needs=(stables[decay_start].id,))
    return decay, evaluate_segment(decay, evaluation)


def cell_identity(cell: Cell, evaluate: str) -> str:
    """The id of a cell whose losses a segment yields. Equal work under another budget, convention or label is another
    row."""
    identity = {
        "arm": cell.arm,
        "evaluate": evaluate,
        "budget": cell.budget,
        "budget_convention": cell.budget_convention,
    }
    return content_id(identity)


def lost_arm_lines(plan: Plan) -> list[str]:
    """A sentence for each arm of which no cell is left."""
    left = {cell.arm for cell in plan.cells}
    lost = {dropped.arm: dropped for dropped in plan.dropped if dropped.arm not in left}
    counts = Counter(dropped.arm for dropped in plan.dropped)
    return [
        f"no cell of {arm} can be trained, all {counts[arm]} are left out; {dropped.size} at "
        f"{budget_text(dropped.budget)}: {dropped.reason}"
        for arm, dropped in lost.items()
    ]


def flops_between(model: Model, batch_size: int, first: int, last: int, convention: Convention = "exact") -> int:
    """Training FLOPs of the optimiser steps after step `first` up to step `last`, rounded to a whole number."""
    whole = training_cost(model, batch_size, last, convention) - training_cost(model, batch_size, first, convention)
    return round(whole)


def segment_flops(segment: Segment, from_step: int) -> int:
    """Exact training FLOPs of a segment's steps after `from_step`."""
    return flops_between(segment.trunk.model, segment.trunk.train.batch_size, from_step, segment.stop_step)


def first_steps(segments: Sequence[Segment]) -> dict[str, int]:
    """By id: the step that a segment begins at, as planned. An evaluation takes no steps: it begins where it ends.

    A stretch of a trunk begins where the one that it needs stops, and at 0 where that one is not among `segments`.
    """
    stop_steps = {segment.id: segment.stop_step for segment in segments}
    return {segment.id: _first_step(segment, stop_steps) for segment in segments}


def _first_step(segment: Segment, stop_steps: Mapping[str, int]) -> int:
    if segment.kind == "evaluate":
        return segment.stop_step
    if segment.decay_start is not None:
        return segment.decay_start
    return max((stop_steps.get(need, 0) for need in segment.needs), default=0)


def flops_by_segment(segments: Sequence[Segment]) -> dict[str, int]:
    """By id: exact training FLOPs of each segment from the step that it begins at among `segments`."""
    first = first_steps(segments)
    return {segment.id: segment_flops(segment, first[segment.id]) for segment in segments}
