"""How often a fitted law is doubted where it is sound, and where it is wrong, by the grid of a planted study.

Run as a program it prints the table and writes it:
`python -m tests.analysis.surface.identifiability_study STUDIES PATH.csv`.

A study is **sound** where L* at four times its largest budget lies in its own 95 % interval and less than 1 % from the
truth, and no exponent's interval is more than 25 % off. It is **wrong** where that L* is off by more than 2 %, or the
interval of α or β ends more than 25 % from the truth. A **false alarm** is a doubt about a sound study of a grid that
tells the law; a **miss** is a wrong study without a doubt, of any grid. What is refused before a law is
given is neither.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.statistics.answers import Refusal
from analysis.statistics.bootstrap import Resampling, interval
from analysis.surface.contour import contour_of_runs
from analysis.surface.fit import SurfaceFit, fit_surface
from analysis.surface.optimum import SurfaceRules
from tests.helpers.runs import planted_runs
from tests.helpers.runs.planted_runs import Truth

DRAWS = 200
BEYOND = 4.0
"""The budget asked for, over the largest one trained."""
SOUND, WRONG, EXPONENT_OFF = 0.01, 0.02, 0.25
TINY = Truth(bottom=1.6, params_scale=55, params_power=0.4, tokens_scale=135, tokens_power=0.4)
LARGE = Truth(bottom=1.8172, params_scale=482, params_power=0.3478, tokens_scale=2085, tokens_power=0.3658)
UNEQUAL = Truth(params_power=0.46, params_scale=500, tokens_power=0.23, tokens_scale=60)
LITTLE_E = Truth(bottom=0.2, params_scale=30, params_power=0.25, tokens_scale=60, tokens_power=0.25)


@dataclass(frozen=True, kw_only=True)
class Grid(planted_runs.Grid):
    """What is trained, and how it scatters."""

    tells: bool
    """Whether the grid is meant to tell the law."""
    truth: Truth = TINY
    budgets: tuple[float, ...] = (1e11, 3e11, 1e12, 3e12)
    sizes: int = 7
    step: float = 0.2
    follows: bool = True
    """Whether the sizes move with the budget's optimum, or are the same at all."""
    noise: float = 0.006
    """Nats, of a run."""
    shared: float = 0.0
    """Share of its variance that the runs of a trunk have in common."""
    merit: float = 0.0
    """Nats, standard deviation of what a shape is better or worse by, whatever its budget and seed."""


DECADE = (1e11, 3.2e11, 1e12)
CLOSE = (1e11, 1.22e11, 1.5e11)
EIGHTEEN = (1e18, 3e18, 1e19, 3e19)
TELLING = (
    Grid(name="7 sizes, 4 budgets", tells=True),
    Grid(name="7 sizes, 4 budgets, trunks", tells=True, shared=0.5, merit=0.003),
    Grid(name="7 sizes, 4 budgets, half the noise", tells=True, noise=0.003, shared=0.5, merit=0.003),
    Grid(name="6 sizes, a decade of budgets", tells=True, budgets=DECADE, sizes=6, step=0.25, noise=0.003),
    Grid(name="6 sizes, a decade, trunks", tells=True, budgets=DECADE, sizes=6, step=0.25, shared=0.5, merit=0.003),
    Grid(name="6 sizes of one decade", tells=True, sizes=6, follows=False, shared=0.5, merit=0.003),
    Grid(name="9 sizes, 2 seeds", tells=True, sizes=9, seeds=2, shared=0.5, merit=0.003),
    Grid(name="1e18 FLOPs", tells=True, truth=LARGE, budgets=EIGHTEEN),
    Grid(name="1e18 FLOPs, trunks", tells=True, truth=LARGE, budgets=EIGHTEEN, shared=0.5, merit=0.003),
    Grid(
        name="unequal exponents", tells=True, truth=UNEQUAL, budgets=(1e13, 3e13, 1e14, 3e14), shared=0.5, merit=0.003
    ),
)
SILENT = (
    Grid(name="sizes within 1.2", tells=False, sizes=5, step=0.02, follows=False, merit=0.01),
    Grid(name="sizes within 1.2, odd shapes", tells=False, sizes=5, step=0.02, follows=False, merit=0.03),
    Grid(name="sizes within 1.2, 3 seeds", tells=False, sizes=5, step=0.02, follows=False, seeds=3, merit=0.01),
    Grid(name="sizes within 1.5", tells=False, sizes=5, step=0.044, follows=False, merit=0.01),
    Grid(name="9 sizes within 1.5", tells=False, sizes=9, step=0.022, follows=False, merit=0.02),
    Grid(name="sizes within 1.5, odd shapes", tells=False, sizes=5, step=0.044, follows=False, seeds=2, merit=0.03),
    Grid(
        name="1e18 FLOPs, within 1.5", tells=False, truth=LARGE, budgets=EIGHTEEN, sizes=5, step=0.044, follows=False,
        merit=0.01,
    ),
    Grid(name="sizes within 3", tells=False, sizes=6, step=0.1, follows=False, seeds=2, merit=0.01),
    Grid(name="sizes within 3, odd shapes", tells=False, sizes=6, step=0.1, follows=False, merit=0.03),
    Grid(name="budgets within 1.5", tells=False, budgets=CLOSE, merit=0.02),
    Grid(name="both within 1.5", tells=False, budgets=CLOSE, sizes=5, step=0.044, follows=False, merit=0.01),
    Grid(name="little E", tells=False, truth=LITTLE_E, budgets=(1e10, 2e10, 4e10), sizes=5, step=0.12, merit=0.01),
    Grid(
        name="budgets within 4, odd shapes", tells=False, budgets=(8e10, 1.6e11, 3.2e11), sizes=6, step=0.17,
        merit=0.03,
    ),
)  # fmt: skip
GRIDS = (*TELLING, *SILENT)


def points(grid: Grid, study: int) -> pl.DataFrame:
    """The points of one arm, as `analysis.surface.fit.fit_surface` takes them."""
    rng = np.random.default_rng([study, *grid.name.encode()])
    merits: dict[int, float] = {}
    trunks: dict[str, float] = {}
    centre = float(np.exp(np.mean(np.log(grid.budgets))))
    rows = []
    for budget in grid.budgets:
        for params in map(int, grid.sizes_about(grid.truth.best_params(budget if grid.follows else centre))):
            tokens = budget / 6 / params
            merit = grid.merit * merits.setdefault(params, rng.normal())
            for seed in range(grid.seeds):
                trunk = f"{params}/{seed}"
                along = np.sqrt(grid.shared) * trunks.setdefault(trunk, rng.normal())
                noise = grid.noise * (along + np.sqrt(1 - grid.shared) * rng.normal())
                rows.append(
                    {
                        "cell_id": f"{trunk}/{budget:.0f}", "trunk_key": trunk, "budget": f"{budget:.0f}",
                        "flops": budget, "params": float(params), "tokens": tokens,
                        "loss": grid.truth.loss(params, tokens) + merit + noise,
                    }
                )  # fmt: skip
    return pl.DataFrame(rows)


def fitted(frame: pl.DataFrame, draws: int = DRAWS) -> SurfaceFit | Refusal:
    """The surface of one arm's points."""
    contour = contour_of_runs(*(frame[name].to_numpy() for name in ("params", "tokens", "flops")))
    return fit_surface(frame, "planted", contour, SurfaceRules(), Resampling(draws=draws))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One study that gave a law."""

    is_sound: bool
    is_wrong: bool
    kinds: tuple[str, ...]
    """Of its doubts."""


def outcome(grid: Grid, surface: SurfaceFit) -> Outcome:
    """What the law says of a budget four times the largest, and of its exponents, against the truth."""
    flops, truth = BEYOND * max(grid.budgets), grid.truth
    best = truth.best_params(flops)
    true_loss = truth.loss(best, flops / 6 / best)
    laws = surface.best.as_law.then(surface.draws.law)
    value, *drawn = laws.optimum(flops, surface.contour).loss_k
    predicted = interval(value, np.array(drawn), surface.resampling.level)
    miss = abs(value / true_loss - 1)
    bounds = ((surface.parameters["alpha"], truth.params_power), (surface.parameters["beta"], truth.tokens_power))
    is_off = any(
        exponent.low > (1 + EXPONENT_OFF) * power or exponent.high < (1 - EXPONENT_OFF) * power
        for exponent, power in bounds
    )
    return Outcome(
        is_sound=predicted.low <= true_loss <= predicted.high and miss < SOUND and not is_off,
        is_wrong=miss > WRONG or is_off,
        kinds=tuple(sorted({doubt.kind.value for doubt in surface.doubts})),
    )


def measure(grid: Grid, studies: int) -> dict:
    """One line of the table: counts of studies."""
    surfaces = [fitted(points(grid, number)) for number in range(studies)]
    laws = [outcome(grid, surface) for surface in surfaces if isinstance(surface, SurfaceFit)]
    kinds = sorted({kind for law in laws for kind in law.kinds})
    return {
        "grid": grid.name,
        "tells": grid.tells,
        "studies": studies,
        "refused": studies - len(laws),
        "doubted": sum(bool(law.kinds) for law in laws),
        "sound": sum(law.is_sound for law in laws),
        "sound_doubted": sum(law.is_sound and bool(law.kinds) for law in laws),
        "wrong": sum(law.is_wrong for law in laws),
        "wrong_undoubted": sum(law.is_wrong and not law.kinds for law in laws),
        "doubts": " ".join(f"{kind}:{sum(kind in law.kinds for law in laws)}" for kind in kinds),
    }


def rates(rows: Sequence[dict]) -> tuple[float, float]:
    """(false alarms among the sound studies of telling grids, misses among the wrong studies of all grids)."""
    telling = [row for row in rows if row["tells"]]
    alarms = sum(row["sound_doubted"] for row in telling) / max(sum(row["sound"] for row in telling), 1)
    misses = sum(row["wrong_undoubted"] for row in rows) / max(sum(row["wrong"] for row in rows), 1)
    return alarms, misses


if __name__ == "__main__":
    number, path = int(sys.argv[1]), sys.argv[2]
    rows = []
    for planted in GRIDS:
        rows.append(measure(planted, number))
        pl.DataFrame(rows).write_csv(path)
        print(rows[-1], flush=True)
    print("false alarms {:.1%}, misses {:.1%}".format(*rates(rows)))
