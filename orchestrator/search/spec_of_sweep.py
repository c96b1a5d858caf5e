"""Which sweep file a recorded sweep was asked with: the one whose settings have the sweep's id, and the flags over
it."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.advice.suggest import Suggestion
from mor_core.data.prepare import find
from mor_core.data.snapshot import DataSnapshot, load_snapshot
from mor_core.data.spec import DataError
from mor_core.errors import UserError
from mor_core.units import budget_text
from orchestrator.planning.cells import Cell
from orchestrator.planning.ladder import LADDERS
from orchestrator.planning.plan import PlanError, plan
from orchestrator.planning.spec.sweep_file import Override, SpecError, preset_names, recipe_overrides
from orchestrator.planning.spec.sweep_spec import SweepSpec, load_spec
from orchestrator.records.revisions import Sweep


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
