"""Cells that a sweep could train next, what each would take, and the commands that train them."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from analysis.advice.suggest import Candidate, Suggestion
from mor_core.data.prepare import find
from mor_core.data.snapshot import DataSnapshot, load_snapshot
from mor_core.data.spec import DataError
from mor_core.errors import UserError
from mor_core.units import budget_text
from orchestrator.planning.cells import Cell
from orchestrator.planning.costs.speeds import measured_flops_per_second
from orchestrator.planning.ladder import LADDERS, RUNGS_BEYOND
from orchestrator.planning.plan import Plan, PlanError, plan, segment_flops
from orchestrator.planning.spec.sweep_file import Override, SpecError, preset_names, recipe_overrides
from orchestrator.planning.spec.sweep_spec import SweepSpec, load_spec
from orchestrator.records.revisions import Sweep
from orchestrator.store.published import SegmentResult
from orchestrator.store.store import Store


class NoAdvice(UserError):
    """A sweep for which no command can be given; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a sweep was asked for, found again."""

    preset: str
    """The shipped sweep or the file."""
    corpus: str | None
    """What --data said; None where the preset's own corpus was taken."""
    recipe: str | None
    """What --recipe said; None where the preset's own rates and batches were taken."""
    spec: SweepSpec
    """The preset with the sweep's name and arms."""
    data: DataSnapshot
    """What the sweep trained on."""


@dataclass(frozen=True, kw_only=True)
class Costed:
    """A candidate and what it takes in both units."""

    candidate: Candidate
    """Its cost is in seconds of one worker where speeds are measured, otherwise in FLOPs."""
    flops: int
    """Exact training FLOPs of what is not trained yet."""
    seconds: float | None
    """On one worker, at the speed of the arm's finished segments; None where none is finished."""


def find_origin(sweep: Sweep, preset: str | None, corpus: str | None, recipe: str | None = None) -> Origin:
    """The preset whose settings are the sweep's. Raises NoAdvice where none is, SpecError where a file is wrong."""
    data = _snapshot(sweep)
    for name in [preset] if preset else preset_names():
        laws = recipe_overrides(recipe) if recipe is not None else []
        spec = _spec(name, [*_overrides(sweep, corpus), *laws], is_given=preset is not None)
        if spec is not None and _settings_id(spec, data) == sweep.settings_id:
            _check_data(spec, data, corpus)
            return Origin(preset=name, corpus=corpus, recipe=recipe, spec=spec, data=data)
    said = f"{preset!r} has other settings than" if preset else "no shipped preset has the settings of"
    raise NoAdvice(
        f"{said} sweep {sweep.name!r}: give --preset with the sweep file that it was started with, as it was then, and "
        "--recipe where it had one"
    )


def _spec(preset: str, overrides: Sequence[Override], *, is_given: bool) -> SweepSpec | None:
    """The sweep file with the sweep's grid; None where a shipped one does not take it."""
    try:
        return load_spec(preset, overrides)
    except SpecError:
        if is_given:
            raise
        return None


def _settings_id(spec: SweepSpec, data: DataSnapshot) -> str | None:
    """None where the sweep file cannot be planned on these data: it is another sweep's."""
    try:
        return plan(spec, data).settings_id
    except (SpecError, PlanError):
        return None


def _snapshot(sweep: Sweep) -> DataSnapshot:
    folder = Path(sweep.data_folder)
    try:
        return load_snapshot(folder)
    except (DataError, OSError) as error:
        raise NoAdvice(
            f"the data that sweep {sweep.name!r} trained on is not at {folder}: new cells could not join it; set "
            "MOR_SWEEP_CACHE to the cache that holds it, or start a new sweep"
        ) from error


def _check_data(spec: SweepSpec, data: DataSnapshot, corpus: str | None) -> None:
    found = find(spec.data_spec)
    if found is None or found.fingerprint != data.fingerprint:
        given = f"--data {corpus}" if corpus else "the preset's own corpus"
        raise NoAdvice(
            f"{given} is not what the sweep trained on ({data.name}): give the --data that it was started with"
        )


def _overrides(sweep: Sweep, corpus: str | None) -> list[Override]:
    """The sweep's name and grid over a preset, arms of the grid included; variants are the preset's own."""
    budgets = sorted({cell.budget for cell in sweep.cells})
    sizes = list(dict.fromkeys(cell.size for cell in sweep.cells))
    found = [
        Override(flag="--name", path=("name",), value=sweep.name),
        Override(flag="--budgets", path=("budgets",), value=[str(budget) for budget in budgets]),
        Override(flag="--sizes", path=("sizes",), value={"names": sizes}),
    ]
    grid = [cell for cell in sweep.cells if _is_of_grid(cell)]
    if grid:
        architectures = list(dict.fromkeys(cell.architecture for cell in grid))
        counts = sorted({cell.recursions for cell in grid if cell.recursions > 1})
        found.append(Override(flag="--arms", path=("arms", "architectures"), value=architectures))
        if counts:
            found.append(Override(flag="--recursions", path=("arms", "recursions"), value=counts))
    if corpus is not None:
        found.append(Override(flag="--data", path=("data", "corpus"), value=corpus))
    return found


def _is_of_grid(cell: Cell) -> bool:
    """Whether its label is that of the grid of [arms], not of a named variant."""
    return cell.arm in (cell.architecture, f"{cell.architecture}-{cell.recursions}")


def candidate_cells(store: Store, sweep: Sweep, planned: Plan, runs: pl.DataFrame) -> list[Costed]:
    """What could be trained at the sweep's arms and budgets: untried sizes near those tried, holes of the grid, and
    one more seed of each size tried; none on a trunk that diverged. `planned` is the sweep's `wide_plan`, `runs` its
    run table."""
    costs = segment_flops(planned)
    needs = {segment.id: segment.needs for segment in planned.segments}
    finished = {segment.id: result for segment in planned.segments if (result := store.result(segment.id))}
    ended = runs.filter(pl.col("status") != "pending").select("arm", "size", "budget", "seed")
    taken = {(arm, size, int(budget), seed) for arm, size, budget, seed in ended.iter_rows()}
    tried = {(cell.arm, cell.size) for cell in sweep.cells}
    arms = {cell.arm for cell in sweep.cells}
    newest = max(cell.seed for cell in sweep.cells) + 1
    speeds = {arm: _speed(planned, arm, finished) for arm in arms}
    found = []
    for cell in planned.cells:
        is_again = cell.seed == newest
        if (cell.arm, cell.size, cell.budget, cell.seed) in taken or cell.arm not in arms:
            continue
        if is_again and (cell.arm, cell.size) not in tried:
            continue
        chain = _chain(str(cell.evaluate_segment), needs)
        if any(not finished[each].is_finished for each in chain if each in finished):
            continue
        flops = sum(costs[each] for each in chain if each not in finished)
        found.append(_costed(cell, flops, speeds[cell.arm]))
    return found


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
    names = _sizes_around(list(dict.fromkeys(cell.size for cell in sweep.cells)))
    changes: dict[str, Any] = {"seeds": (*seeds, seeds[-1] + 1)}
    if spec.sizes is None:
        raise NoAdvice(f"sweep {sweep.name!r} starts from pretrained weights of one size: there is none to add")
    changes["sizes"] = spec.sizes.model_copy(update={"names": tuple(names), "auto": None})
    if spec.budgets is None:
        raise NoAdvice(f"sweep {sweep.name!r} asks for tokens, not for budgets: there is no N*(C) to know better")
    return plan(spec.model_copy(update=changes), data)


def _sizes_around(tried: Sequence[str]) -> list[str]:
    """Those tried and the rungs around them, by the ladder that holds them; as they are where none does."""
    for ladder in LADDERS.values():
        names = [size.name for size in ladder]
        if set(tried) <= set(names):
            places = sorted(names.index(name) for name in tried)
            return names[max(0, places[0] - RUNGS_BEYOND) : places[-1] + RUNGS_BEYOND + 1]
    return list(tried)


def _chain(evaluate: str, needs: dict[str, tuple[str, ...]]) -> list[str]:
    chain, pending = [], [evaluate]
    while pending:
        chain.append(pending.pop())
        pending += needs[chain[-1]]
    return chain


def _speed(planned: Plan, arm: str, finished: dict[str, SegmentResult]) -> float | None:
    """Exact FLOPs per second of one worker on an arm's segments, where some are finished."""
    models = {cell.model for cell in planned.cells if cell.arm == arm}
    return measured_flops_per_second([each for each in planned.segments if each.trunk.model in models], finished)


def commands(suggestions: Iterable[Suggestion], sweep: Sweep, origin: Origin, results: Path) -> list[str]:
    """Commands that train just these cells: each is a whole grid of sizes and budgets of one arm and seed."""
    cells: dict[tuple[str, int], dict[str, list[str]]] = {}
    for each in suggestions:
        wanted = each.candidate
        cells.setdefault((wanted.arm, wanted.seed), {}).setdefault(wanted.budget, []).append(wanted.size)
    found = []
    for (arm, seed), by_budget in cells.items():
        grids: dict[tuple[str, ...], list[str]] = {}
        for budget, sizes in sorted(by_budget.items(), key=lambda item: int(item[0])):
            grids.setdefault(tuple(sorted(set(sizes), key=_rung)), []).append(budget)
        found += [_command(sweep, origin, results, arm, seed, sizes, budgets) for sizes, budgets in grids.items()]
    return found


def _rung(size: str) -> int:
    names = [each.name for ladder in LADDERS.values() for each in ladder]
    return names.index(size) if size in names else len(names)


def _command(
    sweep: Sweep, origin: Origin, results: Path, arm: str, seed: int, sizes: Sequence[str], budgets: Sequence[str]
) -> str:
    cell = next(each for each in sweep.cells if each.arm == arm)
    words = ["mor-sweep", "isoflop", "--preset", origin.preset, "--name", sweep.name]
    if _is_of_grid(cell):
        words += ["--arms", cell.architecture]
        words += ["--recursions", str(cell.recursions)] if cell.recursions > 1 else []
        words += ["--only", arm] if origin.spec.variants else []
    else:
        words += ["--only", arm]
    words += ["--sizes", ",".join(sizes), "--budgets", ",".join(budget_text(int(each)) for each in budgets)]
    words += ["--seeds", str(seed)]
    words += ["--data", origin.corpus] if origin.corpus else []
    words += ["--recipe", origin.recipe] if origin.recipe else []
    words += ["--results", str(results)] if results != Path("results") else []
    return shlex.join(words)
