"""Arms with shared exponents, planted: are intervals narrower at equal coverage, how often is sharing refused where it
holds, and how often where it does not?

Run as a program it prints two tables and writes them:
`python -m tests.analysis.frontier.sharing_study STUDIES PATH.csv`, whose intervals go to PATH.csv and refusals to
PATH-refusals.csv.

Studies are those of `coverage_study`. Its arms share their exponents by construction: N_once + r^φ N_rec is ρ_N times
the unique parameters at every size, and ρ_D is 1.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from analysis.runs.points import Points, read_points
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.approach import QUANTITIES, SYMBOLS, SampledOptimum
from analysis.statistics.bootstrap import Resampling, Sample
from analysis.surface.approach import fit_surface_approach
from analysis.surface.extended.shared_exponents.fit import SharedExponentsFit, fit_shared_exponents
from analysis.surface.optimum import SurfaceRules
from tests.analysis.frontier.coverage_study import ALPHA, BETA, FAMILIES, GRIDS, A, B, E, Family, Grid, table

DRAWS = 300
TEST_DRAWS = 150
"""Where nothing but the test is asked."""
MIDDLE = (1.5e4, 3.0e5)
"""N and D at which an arm with exponents of its own has the terms of the others: in the middle of the demo's grid."""


@dataclass(frozen=True, kw_only=True)
class OddFamily(Family):
    """An arm whose exponents or asymptote are its own."""

    alpha: float = ALPHA
    beta: float = BETA
    bottom: float = E

    def loss(self, width, tokens):
        once, block = self.split(width)
        effective = once + self.depth**self.phi * block
        params_term = A / effective**ALPHA * (effective / MIDDLE[0]) ** (ALPHA - self.alpha)
        return self.bottom + params_term + B / tokens**BETA * (tokens / MIDDLE[1]) ** (BETA - self.beta)


def with_odd(**odd: float) -> tuple[Family, ...]:
    """The arms, of which recursive-2 has something of its own."""
    mor, recursive, vanilla = FAMILIES
    return mor, OddFamily(**vars(recursive), **odd), vanilla


PLANTED = {
    "shared": FAMILIES,
    "one arm's α 0.42, not 0.4": with_odd(alpha=0.42),
    "one arm's α 0.45, not 0.4": with_odd(alpha=0.45),
    "one arm's E 1.65, not 1.6": with_odd(bottom=1.65),
}
MEASURED = ("demo: 6 sizes, 3 budgets, 1 seed", "7 sizes, 4 budgets, 1 seed", "demo, 3 seeds")
"""Names of the grids that are simulated."""


def points_of_study(grid: Grid, number: int, families: tuple[Family, ...] = FAMILIES) -> Points:
    """The points of one planted study."""
    return read_points(table(grid, number, families))


def shared_fit(points: Points, draws: int = DRAWS) -> SharedExponentsFit | Refusal:
    """The law of arms with shared exponents, as `fit` fits it."""
    return fit_shared_exponents(points, SurfaceRules(), Resampling(draws=draws))


def refused_as_not_shared(fit: SharedExponentsFit | Refusal) -> bool:
    """Whether a fit was refused because the arms have exponents of their own."""
    return isinstance(fit, Refusal) and fit.kind is RefusalKind.DOES_NOT_FIT


@dataclass
class Tally:
    """The intervals of one quantity, with and without sharing."""

    separate: list[bool | None]
    """Whether each interval of an arm's own surface holds the truth; None where none is given."""
    shared: list[bool | None]
    """The same of the law with shared exponents."""
    narrowing: list[float]
    """Width of the second over that of the first, where both are given."""


def measure(grid: Grid, studies: int) -> dict[str, Tally]:
    """By quantity, over all arms and budgets of so many studies."""
    tallies: dict[str, Tally] = defaultdict(lambda: Tally([], [], []))
    for number in range(studies):
        points = points_of_study(grid, number)
        shared = shared_fit(points)
        for family in FAMILIES:
            budgets = points.budgets_of(family.arm)
            surface = fit_surface_approach(
                points.of_arm(family.arm), family.arm, budgets, SurfaceRules(), Resampling(draws=DRAWS)
            )
            for separate in surface.optima:
                together = None if isinstance(shared, Refusal) else shared.optimum(family.arm, separate.budget)
                _note(tallies, family, separate, together)
            if isinstance(shared, SharedExponentsFit) and family.arm in shared.rho_params:
                _note_worths(tallies, family, shared)
    return tallies


def _note(tallies: dict[str, Tally], family: Family, separate: SampledOptimum, together: SampledOptimum | None) -> None:
    budget = float(separate.budget)
    width, loss = family.best(budget)
    truths = {"params": family.unique(width), "tokens": budget / family.flops_per_token(width), "loss": loss}
    for quantity in QUANTITIES:
        tally, truth = tallies[SYMBOLS[quantity]], truths[quantity]
        one, other = getattr(separate, quantity), getattr(together, quantity, None)
        tally.separate.append(_holds(one, truth))
        tally.shared.append(_holds(other, truth))
        if isinstance(one, Sample) and isinstance(other, Sample):
            tally.narrowing.append(_width(other) / _width(one))


def _note_worths(tallies: dict[str, Tally], family: Family, shared: SharedExponentsFit) -> None:
    once, block = family.split(1.0)
    worth = (once + family.depth**family.phi * block) / (once + block)
    for name, answer, truth in (
        ("ρ_N", shared.rho_params[family.arm], worth),
        ("ρ_D", shared.rho_tokens[family.arm], 1.0),
    ):
        tallies[name].shared.append(answer.low <= truth <= answer.high)


def _holds(answer: Sample | Refusal | None, truth: float) -> bool | None:
    return answer.estimate.low <= truth <= answer.estimate.high if isinstance(answer, Sample) else None


def _width(answer: Sample) -> float:
    return float(np.log(answer.estimate.high / answer.estimate.low))


def rows(grid: Grid, tallies: dict[str, Tally], studies: int) -> list[dict]:
    """The lines of the table of intervals for one grid."""
    return [
        {
            "grid": grid.name,
            "quantity": name,
            "held_separate": _share(tally.separate),
            "given_separate": _given(tally.separate),
            "held_shared": _share(tally.shared),
            "given_shared": _given(tally.shared),
            "narrowing": round(float(np.median(tally.narrowing)), 3) if tally.narrowing else None,
            "studies": studies,
        }
        for name, tally in tallies.items()
    ]


def _share(hits: Iterable[bool | None]) -> float | None:
    answered = [hit for hit in hits if hit is not None]
    return round(float(np.mean(answered)), 3) if answered else None


def _given(hits: list[bool | None]) -> float | None:
    return round(float(np.mean([hit is not None for hit in hits])), 3) if hits else None


def refusals(grid: Grid, studies: int) -> list[dict]:
    """How often sharing is refused as untenable, by what was planted."""
    return [
        {
            "grid": grid.name,
            "planted": name,
            "refused": sum(
                refused_as_not_shared(shared_fit(points_of_study(grid, number, families), TEST_DRAWS))
                for number in range(studies)
            ),
            "studies": studies,
        }
        for name, families in PLANTED.items()
    ]


if __name__ == "__main__":
    count, path = int(sys.argv[1]), Path(sys.argv[2])
    interval_rows, refusal_rows = [], []
    for simulated in (grid for grid in GRIDS if grid.name in MEASURED):
        interval_rows += rows(simulated, measure(simulated, count), count)
        pl.DataFrame(interval_rows).write_csv(path)
        refusal_rows += refusals(simulated, count)
        pl.DataFrame(refusal_rows).write_csv(path.with_name(f"{path.stem}-refusals.csv"))
        print(simulated.name, *interval_rows[-5:], *refusal_rows[-len(PLANTED) :], sep="\n", flush=True)
