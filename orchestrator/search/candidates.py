"""Cells that a sweep could train next, with what each costs, and which of them help most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.advice.suggest import Candidate, Need, Suggestion, rank_candidates
from analysis.runs.points import Points
from analysis.statistics.answers import Refusal, RefusalKind
from mor_core.data.snapshot import DataSnapshot
from mor_core.errors import MorSweepError
from mor_core.model.own.code import OwnModelError
from orchestrator.planning.cells import Cell
from orchestrator.planning.costs.speeds import measured_flops_per_second
from orchestrator.planning.ladder import LADDERS, RUNGS_BEYOND, ladder_of, own_rungs
from orchestrator.planning.plan import Plan, flops_by_segment, plan
from orchestrator.planning.spec.sweep_spec import SweepSpec
from orchestrator.records.fits.fitted import Fitted
from orchestrator.records.revisions import Sweep, recorded_settings_id
from orchestrator.search.spec_of_sweep import NoAdvice, spec_of_sweep
from orchestrator.store.published import SegmentResult
from orchestrator.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Costed:
    """A candidate and what it takes in both units."""

    candidate: Candidate
    """Its cost is in seconds of one worker where speeds are measured, otherwise in FLOPs."""
    flops: int
    """Exact training FLOPs of what is not trained yet."""
    seconds: float | None
    """On one worker, at the speed of the arm's finished segments; None where none is finished."""


def next_cells(
    store: Store, sweep: Sweep, runs: pl.DataFrame, points: Points, *, count: int = 8
) -> list[tuple[Suggestion, Costed]] | Refusal:
    """At most `count` cells worth training in a recorded sweep, the most useful first, or why there is none.

    `points` are those of its run table `runs` that were fitted. Raises NoAdvice where no cell could join the sweep, or
    its sweep file is not recorded.
    """
    planned = wide_plan(sweep, *spec_of_sweep(sweep))
    if recorded_settings_id(store, sweep.name, planned) != sweep.settings_id:
        raise NoAdvice(
            f"sweep {sweep.name!r} was planned by another version of mor-sweep, which trains other losses: new cells "
            "could not join it"
        )
    costed = {id(cell.candidate): cell for cell in candidate_cells(store, sweep, planned, runs)}
    suggestions = rank_candidates(points, [cell.candidate for cell in costed.values()], count=count)
    if isinstance(suggestions, Refusal):
        return suggestions
    return [(suggestion, costed[id(suggestion.candidate)]) for suggestion in suggestions]


def sizes_for_refused_minima(store: Store, fitted: Fitted) -> list[Suggestion]:
    """Cells of the sizes that minima lack which a fit refused for their sizes; none where no cell can be named."""
    answers = [optimum.params for frontier in fitted.study.frontiers for optimum in frontier.optima]
    kinds = {answer.kind for answer in answers if isinstance(answer, Refusal)}
    if fitted.sweep is None or not kinds & {RefusalKind.MINIMUM_AT_EDGE, RefusalKind.TOO_FEW_SIZES}:
        return []
    try:
        cells = next_cells(store, fitted.sweep, fitted.runs, fitted.study.points)
    except MorSweepError:  # The fit is what was asked for; `suggest` says why there is no advice.
        return []
    if isinstance(cells, Refusal):
        return []
    return [suggestion for suggestion, _ in cells if suggestion.need in (Need.edge, Need.sizes)]


def candidate_cells(store: Store, sweep: Sweep, planned: Plan, runs: pl.DataFrame) -> list[Costed]:
    """What could be trained at the sweep's arms and budgets: untried sizes near those tried, holes of the grid, and
    one more seed of each size tried; none on a trunk that diverged. `planned` is the sweep's `wide_plan`, `runs` its
    run table."""
    costs = flops_by_segment(planned.segments)
    finished = {segment.id: result for segment in planned.segments if (result := store.result(segment.id))}
    ended = runs.filter(pl.col("status") != "pending").select("arm", "size", "budget", "seed")
    ended_cells = {(arm, size, int(budget), seed) for arm, size, budget, seed in ended.iter_rows()}
    tried = {(cell.arm, cell.size) for cell in sweep.cells}
    arms = {cell.arm for cell in sweep.cells}
    newest = max(cell.seed for cell in sweep.cells) + 1
    speeds = {arm: _speed(planned, arm, finished) for arm in arms}
    candidates = []
    for cell in planned.cells:
        is_again = cell.seed == newest
        if (cell.arm, cell.size, cell.budget, cell.seed) in ended_cells or cell.arm not in arms:
            continue
        if is_again and (cell.arm, cell.size) not in tried:
            continue
        chain = [segment.id for segment in planned.chain(cell)]
        if any(not finished[segment_id].is_finished for segment_id in chain if segment_id in finished):
            continue
        flops = sum(costs[segment_id] for segment_id in chain if segment_id not in finished)
        candidates.append(_costed(cell, flops, speeds[cell.arm]))
    return candidates


def _costed(cell: Cell, flops: int, speed: float | None) -> Costed:
    seconds = flops / speed if speed else None
    return Costed(
        candidate=Candidate(
            arm=cell.arm,
            size=cell.size,
            budget=str(cell.budget),
            seed=cell.seed,
            params=float(cell.unique_params),
            cost=max(float(flops if seconds is None else seconds), 1e-9),
        ),
        flops=flops,
        seconds=seconds,
    )


def wide_plan(sweep: Sweep, spec: SweepSpec, data: DataSnapshot) -> Plan:
    """The grid of `spec` with the sizes around those that the sweep has tried and one more seed. Raises NoAdvice where
    there is none."""
    seeds = sorted({cell.seed for cell in sweep.cells})
    changes: dict[str, Any] = {"seeds": (*seeds, seeds[-1] + 1)}
    if spec.sizes is None:
        raise NoAdvice(f"sweep {sweep.name!r} starts from pretrained weights of one size: there is none to add")
    shapes = list(dict.fromkeys(cell.size for cell in sweep.cells if cell.architecture != "own"))
    names = dict.fromkeys((*_sizes_around(shapes), *_own_sizes_around(sweep, spec)))
    arms = {cell.arm for cell in sweep.cells}
    changes["only"] = tuple(arm.label for arm in spec.members if arm.label in arms) or spec.only
    changes["sizes"] = spec.sizes.model_copy(update={"names": tuple(names), "auto": None})
    if spec.budgets is None:
        raise NoAdvice(f"sweep {sweep.name!r} asks for tokens, not for budgets: there is no N*(C) to know better")
    return plan(spec.model_copy(update=changes), data)


def _sizes_around(tried: Sequence[str]) -> list[str]:
    """Those tried and the rungs around them, by the ladder that holds them; as they are where none does."""
    ladder = ladder_of(tried)
    if not tried or ladder is None:
        return list(tried)
    return _around(tried, [size.name for size in LADDERS[ladder]])


def _own_sizes_around(sweep: Sweep, spec: SweepSpec) -> list[str]:
    """The same of each own model that the sweep has cells of, by its own ladder. Raises NoAdvice where its sizes are
    not known here."""
    names: list[str] = []
    for arm in spec.members:
        tried = {cell.size for cell in sweep.cells if cell.arm == arm.label}
        if arm.own is None or not tried:
            continue
        try:
            rungs = list(own_rungs(spec, arm))
        except OwnModelError as error:
            raise NoAdvice(
                f"the sizes of arm {arm.label}, a model of your own, are not known ({error}): in the folder of its "
                "sweep file, `mor-sweep isoflop --preset FILE --dry-run` asks for them"
            ) from error
        names += _around([name for name in rungs if name in tried], rungs)
    return names


def _around(tried: Sequence[str], rungs: Sequence[str]) -> list[str]:
    """The rungs from RUNGS_BEYOND below those tried to as many above; none where none was tried."""
    places = sorted(rungs.index(name) for name in tried)
    return list(rungs[max(0, places[0] - RUNGS_BEYOND) : places[-1] + RUNGS_BEYOND + 1]) if places else []


def _speed(planned: Plan, arm: str, finished: dict[str, SegmentResult]) -> float | None:
    """Exact FLOPs per second of one worker on an arm's segments, where some are finished."""
    models = {cell.model for cell in planned.cells if cell.arm == arm}
    segments = [segment for segment in planned.segments if segment.trunk.model in models]
    return measured_flops_per_second(segments, finished)
