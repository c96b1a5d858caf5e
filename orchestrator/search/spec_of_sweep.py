"""The sweep file and data that a recorded sweep was planned from, and the commands that add cells to it."""

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.advice.suggest import Suggestion
from mor_core.data.prepare import find
from mor_core.data.snapshot import DataSnapshot, load_snapshot
from mor_core.data.spec import DataError
from mor_core.errors import UserError
from mor_core.units import budget_text
from orchestrator.planning.cells import Cell
from orchestrator.planning.ladder import LADDERS, ladder_of
from orchestrator.planning.spec.sweep_file import RECORD_IT, Override, SweepFile, with_overrides
from orchestrator.planning.spec.sweep_spec import SweepSpec, parse_spec
from orchestrator.records.revisions import Sweep


class NoAdvice(UserError):
    """A sweep for which no command can be given; the message says what is missing."""


def spec_of_sweep(sweep: Sweep) -> tuple[SweepSpec, DataSnapshot]:
    """How a sweep was asked for: its sweep file, with all arms, sizes and budgets that it has cells of, and what it
    trained on. Raises NoAdvice where its plan records no file, or where its data are not here any more,
    SpecError where this version does not know what is recorded."""
    if sweep.spec is None:
        raise NoAdvice(f"sweep {sweep.name!r} has no sweep file: {RECORD_IT}")
    file = SweepFile(source=f"sweep.json of {sweep.name}", document=sweep.spec)
    spec = parse_spec(with_overrides(file, _grid_of_cells(sweep, sweep.spec)))
    data = _snapshot(sweep)
    _check_data(spec, data)
    return spec, data


def _snapshot(sweep: Sweep) -> DataSnapshot:
    folder = Path(sweep.data_folder)
    try:
        return load_snapshot(folder)
    except (DataError, OSError) as error:
        raise NoAdvice(
            f"the data that sweep {sweep.name!r} trained on is not at {folder}: new cells could not join it; set "
            "MOR_SWEEP_CACHE to the cache that holds it, or start a new sweep"
        ) from error


def _check_data(spec: SweepSpec, data: DataSnapshot) -> None:
    snapshot = find(spec.data_spec)
    if snapshot is None or snapshot.fingerprint != data.fingerprint:
        raise NoAdvice(
            f"{spec.data.corpus} is not what the sweep trained on any more ({data.name}): new cells could not join it; "
            "work in the folder where it was started, with the text as it was then"
        )


def _grid_of_cells(sweep: Sweep, document: Mapping[str, Any]) -> list[Override]:
    """All arms, sizes and budgets that the sweep has cells of: its latest plan may have asked for some of them only."""
    architectures = list(dict.fromkeys(cell.architecture for cell in sweep.cells if _is_of_grid(cell)))
    recursions = sorted({cell.recursions for cell in sweep.cells if _is_of_grid(cell) and cell.recursions > 1})
    grid: dict[tuple[str, ...], Any] = {("only",): None}
    if "budgets" in document:
        grid["budgets",] = [str(budget) for budget in sorted({cell.budget for cell in sweep.cells})]
    if "sizes" in document:
        grid["sizes",] = {"names": list(dict.fromkeys(cell.size for cell in sweep.cells))}
    if architectures:
        grid["arms", "architectures"] = architectures
    if recursions:
        grid["arms", "recursions"] = recursions
    return [Override(flag="the cells of sweep.json", path=path, value=value) for path, value in grid.items()]


def _is_of_grid(cell: Cell) -> bool:
    """Whether its label is that of the grid of [arms], not of a named variant or of an own model."""
    return cell.architecture != "own" and cell.arm in (cell.architecture, f"{cell.architecture}-{cell.recursions}")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Cells of one arm and seed: all sizes at all budgets."""

    arm: str
    """The architecture."""
    seed: int
    """Their seed."""
    sizes: tuple[str, ...]
    """Base shapes, or sizes of an own model, by the ladder."""
    budgets: tuple[str, ...]
    """As people write them, ascending."""


def grids(suggestions: Iterable[Suggestion]) -> list[Grid]:
    """The suggested cells and no others, as grids."""
    cells: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    for suggestion in suggestions:
        cell = suggestion.candidate
        cells.setdefault((cell.arm, cell.seed), {}).setdefault(cell.budget, {})[cell.size] = cell.params
    all_grids: list[Grid] = []
    for (arm, seed), by_budget in cells.items():
        budgets_of: dict[tuple[str, ...], list[str]] = {}
        for budget, params_of in sorted(by_budget.items(), key=lambda item: int(item[0])):
            sizes = tuple(_ascending(sorted(params_of, key=params_of.__getitem__)))
            budgets_of.setdefault(sizes, []).append(budget_text(int(budget)))
        all_grids += [
            Grid(arm=arm, seed=seed, sizes=sizes, budgets=tuple(budgets)) for sizes, budgets in budgets_of.items()
        ]
    return all_grids


def _ascending(sizes: Collection[str]) -> list[str]:
    """By the ladder that has them all, since ladders share rungs; else ladder by ladder, and those of none as given."""
    ladder = ladder_of(sizes)
    names = [size.name for name, rungs in LADDERS.items() if ladder in (name, None) for size in rungs]
    return sorted(sizes, key=lambda size: names.index(size) if size in names else len(names))


def commands(suggestions: Iterable[Suggestion], sweep: Sweep, results: Path) -> list[str]:
    """Commands that train just these cells into the sweep, from the sweep file that it was recorded with."""
    return [_command(grid, sweep, results) for grid in grids(suggestions)]


def command_at(arm: str, sizes: Sequence[str], flops: int, sweep: Sweep, results: Path) -> str | None:
    """The command that trains these sizes of an arm at one budget into the sweep, with its first seed; None where the
    sweep asks for no sizes or no budgets, or does not record what it asked for."""
    if sweep.spec is None or not sizes or not {"budgets", "sizes"} <= sweep.spec.keys():
        return None
    seed = min(cell.seed for cell in sweep.cells if cell.arm == arm)
    grid = Grid(arm=arm, seed=seed, sizes=tuple(_ascending(dict.fromkeys(sizes))), budgets=(budget_text(flops),))
    return _command(grid, sweep, results)


def _command(grid: Grid, sweep: Sweep, results: Path) -> str:
    words = ["mor-sweep", "isoflop", "--preset", str(results / "sweeps" / sweep.name / "sweep.json")]
    cell = next(cell for cell in sweep.cells if cell.arm == grid.arm)
    if _is_of_grid(cell):
        words += ["--arms", cell.architecture]
        words += ["--recursions", str(cell.recursions)] if cell.recursions > 1 else []
    words += ["--only", grid.arm]
    words += ["--sizes", ",".join(grid.sizes), "--budgets", ",".join(grid.budgets), "--seeds", str(grid.seed)]
    words += ["--results", str(results)] if results != Path("results") else []
    return shlex.join(words)
