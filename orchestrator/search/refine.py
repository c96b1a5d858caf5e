"""`mor-sweep refine`: add runs where N* is uncertain. Fit, take the cells that would help most, train them, fit again.

Each round trains the cells that `suggest` names, as one more plan revision of the same sweep. Nothing else of the loop
is kept, so a crash costs no more than the segments under way, and the same command goes on.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.advice.suggest import Suggestion, rank_candidates
from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.statistics.answers import Estimate, Refusal
from mor_core.data.snapshot import DataSnapshot
from mor_core.units import budget_label
from orchestrator.planning.cells import Cell
from orchestrator.planning.plan import Plan, plan_of_cells
from orchestrator.planning.spec.sweep_spec import SweepSpec
from orchestrator.records.revisions import load_sweep
from orchestrator.records.table import segment_table, table
from orchestrator.search.candidates import Costed, candidate_cells, wide_plan
from orchestrator.store.store import Store

CELLS_PER_WORKER = 2
"""Cells of a round for each segment that runs at a time: fewer would let workers wait, more would know less."""

HOUR_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Goal:
    """When a sweep is known well enough, and what may be spent on it."""

    target: float
    """Factor either way within which N* of every budget is to be known, above 1."""
    max_hours: float
    """Device-hours of the whole command, what it trained before the first round included."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What rounds run on."""

    workers: int
    """Segments at a time."""
    devices_per_segment: float
    """GPUs, or cores, that a segment holds."""
    hours_unit: str
    """GPU-hours or core-hours."""


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """A budget of an arm whose N* is not known well enough."""

    arm: str
    """Its label."""
    budget: str
    """FLOPs, an exact decimal integer."""
    why: str
    """A sentence."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """How it ended."""

    rounds: int
    """That trained something."""
    cells: int
    """Trained in them."""
    hours: float
    """Device-hours that the sweep took since `before`."""
    unsettled: tuple[Unsettled, ...]
    """Empty where the goal is met."""
    reason: str
    """Why it ended, in a sentence."""
    code: int = 0
    """Exit code of a round that did not end well."""


def unsettled(study: Study, target: float) -> list[Unsettled]:
    """The budgets whose minimum is refused, or whose interval of N* is wider than the target."""
    places: list[Unsettled] = []
    for frontier in study.frontiers:
        for optimum in frontier.optima:
            if why := _why_unsettled(optimum.params, target):
                places.append(Unsettled(arm=frontier.arm, budget=optimum.budget, why=why))
    return places


def _why_unsettled(answer: Estimate | Refusal, target: float) -> str:
    """Empty where N* is known well enough."""
    if isinstance(answer, Refusal):
        return answer.sentence
    aim = f"wanted to a factor of {target:g} either way"
    if answer.low_open or answer.high_open:
        return f"the interval of N* reaches an end of the sizes tried, {aim}"
    factor = math.sqrt(answer.high / answer.low)
    return f"N* is known to a factor of {factor:.2f} either way, {aim}" if factor > target else ""


def device_hours(store: Store, name: str, machine: Machine) -> float:
    """What the finished segments of a sweep took, each counted once."""
    seconds = segment_table(store, load_sweep(store, name))["wall_seconds"].sum() or 0.0
    return float(seconds) * machine.devices_per_segment / HOUR_SECONDS


def refine(
    store: Store,
    spec: SweepSpec,
    data: DataSnapshot,
    goal: Goal,
    machine: Machine,
    *,
    before: float,
    train: Callable[[Plan], int],
    report: Callable[[str], None],
) -> Refined:
    """Rounds until N* of the arms and budgets of `spec` is known, nothing affordable would help, or a round fails.

    `data` is what the sweep trains on, `before` what `device_hours` said when the command began. Raises NoSuchSweep
    where nothing of the sweep is planned yet.
    """
    arms = {arm.label for arm in spec.members}
    budgets = {str(budget) for budget in spec.budgets or ()}
    rounds, cells = 0, 0

    def ended(reason: str, open_: Sequence[Unsettled], code: int = 0) -> Refined:
        spent = device_hours(store, spec.name, machine) - before
        return Refined(rounds=rounds, cells=cells, hours=spent, unsettled=tuple(open_), reason=reason, code=code)

    while True:
        sweep = load_sweep(store, spec.name)
        runs = table(store, sweep)
        study = fit_study(runs, FitSettings(approaches=("parabola",)))
        wide = wide_plan(sweep, spec, data)
        open_ = [place for place in unsettled(study, goal.target) if place.arm in arms and place.budget in budgets]
        if not open_:
            return ended(f"every N* is known to a factor of {goal.target:g} either way", open_)
        costed = candidate_cells(store, sweep, wide, runs)
        left = goal.max_hours - (device_hours(store, spec.name, machine) - before)
        chosen, refusal = _affordable(study, open_, costed, machine, left)
        if not chosen:
            return ended(refusal, open_)
        rounds += 1
        for suggestion in chosen:
            report(f"round {rounds}: {_suggestion_text(suggestion)}")
        planned = plan_of_cells(spec, data, _chosen_cells(wide, chosen))
        cells += len(planned.cells)
        if code := train(planned):
            return ended("a round did not end well", open_, code)


def _suggestion_text(suggestion: Suggestion) -> str:
    cell = suggestion.candidate
    return f"{cell.arm} {cell.size} at {budget_label(cell.budget)}, seed {cell.seed}: {suggestion.reason}"


def _affordable(
    study: Study, open_: Sequence[Unsettled], costed: Sequence[Costed], machine: Machine, left: float
) -> tuple[list[Suggestion], str]:
    """The suggestions that fit what is left, most useful first, and why there are none."""
    places = {(place.arm, place.budget) for place in open_}
    useful = [cell for cell in costed if (cell.candidate.arm, cell.candidate.budget) in places]
    count = CELLS_PER_WORKER * machine.workers
    suggestions = rank_candidates(study.points, [cell.candidate for cell in useful], count=count)
    if isinstance(suggestions, Refusal):
        return [], suggestions.sentence
    hours = {id(cell.candidate): _hours(cell, machine) for cell in useful}
    chosen: list[Suggestion] = []
    spent = 0.0
    for suggestion in suggestions:
        cost = hours[id(suggestion.candidate)]
        if spent + cost <= left:
            chosen.append(suggestion)
            spent += cost
    cheapest = min(hours[id(suggestion.candidate)] for suggestion in suggestions)
    return chosen, f"the next cell takes {cheapest:.3g} {machine.hours_unit} and {max(left, 0.0):.3g} are left"


def _hours(costed: Costed, machine: Machine) -> float:
    return (costed.seconds or 0.0) * machine.devices_per_segment / HOUR_SECONDS


def _chosen_cells(wide: Plan, chosen: Sequence[Suggestion]) -> list[Cell]:
    candidates = [suggestion.candidate for suggestion in chosen]
    keys = {(candidate.arm, candidate.size, candidate.budget, candidate.seed) for candidate in candidates}
    return [cell for cell in wide.cells if (cell.arm, cell.size, str(cell.budget), cell.seed) in keys]
