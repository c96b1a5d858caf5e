"""How often 95 % intervals hold the truth, by the grid of a study: planted vanilla, recursive and routed arms.

Run as a program it prints the table and writes it: `python -m tests.analysis.frontier.coverage_study STUDIES PATH.csv`.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.optimize import brentq, minimize_scalar

from analysis.frontier.study import FitSettings, fit_study
from analysis.statistics.answers import Estimate
from analysis.statistics.bootstrap import Resampling
from analysis.surface.extended.recursion import RecursionFit
from tests.helpers.runs import planted_runs

E, A, ALPHA, B, BETA = 1.6, 55.0, 0.4, 135.0, 0.4
NOISE = 0.006
DRAWS = 300
APPROACHES = ("parabola", "surface", "akima")
FEW = 0.3
"""Share of the studies below which a quantity was given too rarely to say."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """An arm: a quarter of a vanilla model's layers is passed once, the rest are shared by two recursions."""

    arm: str
    architecture: str
    recursions: int
    depth: float
    phi: float

    def split(self, width):
        """(N_once, N_rec) of the arm made from a vanilla model of `width` parameters."""
        return (0.25 * width, 0.75 * width / self.recursions) if self.recursions > 1 else (width, 0.0 * width)

    def unique(self, width):
        return sum(self.split(width))

    def flops_per_token(self, width):
        once, block = self.split(width)
        return 6 * (once + self.depth * block)

    def loss(self, width, tokens):
        once, block = self.split(width)
        return E + A / (once + self.depth**self.phi * block) ** ALPHA + B / tokens**BETA

    def best(self, flops):
        """(width, loss) at the optimum."""
        best = minimize_scalar(
            lambda x: self.loss(np.exp(x), flops / self.flops_per_token(np.exp(x))), bounds=(5, 20), method="bounded"
        )
        return float(np.exp(best.x)), float(best.fun)


FAMILIES = (
    Family(arm="mor-2", architecture="mor", recursions=2, depth=1.5, phi=0.7),
    Family(arm="recursive-2", architecture="recursive", recursions=2, depth=2.0, phi=0.5),
    Family(arm="vanilla", architecture="vanilla", recursions=1, depth=1.0, phi=1.0),
)


@dataclass(frozen=True, kw_only=True)
class Grid(planted_runs.Grid):
    """What is trained, and what its noise has in common."""

    shared: float = 0.5
    """Share of the noise variance that the cells of a trunk have in common."""
    common: float = 0.0
    """Share of that which arms of one size and seed have in common."""


THREE = (8e10, 1.6e11, 3.2e11)
FOUR = (1e11, 3e11, 1e12, 3e12)
GRIDS = (
    Grid(name="paper: 4 sizes, 3 budgets, 1 seed", sizes=4, budgets=(2e12, 5e12, 1.65e13), step=0.39),
    Grid(name="demo: 6 sizes, 3 budgets, 1 seed", sizes=6, budgets=THREE),
    Grid(name="demo, noise of the cells alone", sizes=6, budgets=THREE, shared=0.0),
    Grid(name="demo, noise of the trunks alone", sizes=6, budgets=THREE, shared=0.95),
    Grid(name="demo, 3 seeds", sizes=6, budgets=THREE, seeds=3),
    Grid(name="demo, trunks alone, arms alike", sizes=6, budgets=THREE, shared=0.95, common=0.9),
    Grid(name="7 sizes, 4 budgets, 1 seed", sizes=7, budgets=FOUR),
    Grid(name="7 sizes, 4 budgets, trunks alone", sizes=7, budgets=FOUR, shared=0.95),
    Grid(name="9 sizes, 4 budgets, 2 seeds", sizes=9, budgets=FOUR, seeds=2, step=0.14),
)


def table(grid: Grid, study: int, families: tuple[Family, ...] = FAMILIES) -> pl.DataFrame:
    """A run table of all arms; runs of a trunk have a part of their noise in common, and arms a part of that."""
    rng = np.random.default_rng([study, len(grid.name)])
    trunk: dict[tuple, float] = defaultdict(rng.normal)
    rows = []
    for family in families:
        for budget in grid.budgets:
            for width in grid.sizes_about(family.best(budget)[0]):
                tokens = budget / family.flops_per_token(width)
                once, block = family.split(width)
                for seed in range(grid.seeds):
                    name = f"{width:.5g}"
                    alone, together, cell = trunk[name, family.arm, seed], trunk[name, seed], rng.normal()
                    along = np.sqrt(grid.common) * together + np.sqrt(1 - grid.common) * alone
                    noise = NOISE * (np.sqrt(grid.shared) * along + np.sqrt(1 - grid.shared) * cell)
                    rows.append(
                        {
                            "cell_id": f"{family.arm}/{name}/{budget:.0f}/{seed}", "status": "finished",
                            "arm": family.arm, "architecture": family.architecture, "size": name,
                            "budget": f"{budget:.0f}", "budget_convention": "exact", "seed": seed,
                            "unique_params": once + block, "unrolled_params": once + family.recursions * block,
                            "recursions": family.recursions, "depth_mean": family.depth, "tokens": tokens,
                            "loss": family.loss(width, tokens) + noise, "trunk_id": f"{family.arm}/{name}/{seed}",
                        }
                    )  # fmt: skip
    return pl.DataFrame(rows)


def truths(grid: Grid) -> dict[tuple, float]:
    """What the intervals should hold, by (quantity, arm[, other], budget)."""
    values = {}
    by_arm = {family.arm: family for family in FAMILIES}
    for family in FAMILIES:
        for budget in grid.budgets:
            width, loss = family.best(budget)
            values["N*", family.arm, f"{budget:.0f}"] = family.unique(width)
            values["L*", family.arm, f"{budget:.0f}"] = loss
    for one, other in (("mor-2", "recursive-2"), ("mor-2", "vanilla"), ("recursive-2", "vanilla")):
        for budget in grid.budgets:
            arm, reference = by_arm[one], by_arm[other]
            (width, loss), (_, target) = arm.best(budget), reference.best(budget)
            place = (one, other, f"{budget:.0f}")
            values["gap", *place] = loss - target
            needed = brentq(
                lambda x, arm=arm, target=target: arm.best(np.exp(x))[1] - target,
                np.log(budget) - 5,
                np.log(budget) + 5,
            )
            values["compute multiplier", *place] = budget / np.exp(needed)
            tokens = budget / arm.flops_per_token(width)
            equal = brentq(lambda x, other=reference, d=tokens, loss=loss: other.loss(np.exp(x), d) - loss, 3, 30)
            values["parameter multiplier", *place] = reference.unique(np.exp(equal)) / arm.unique(width)
    return values


def measure(grid: Grid, studies: int) -> dict[str, tuple[float, float]]:
    """By quantity: (share of the given intervals that hold the truth, share that was given)."""
    settings = FitSettings(approaches=APPROACHES, resampling=Resampling(draws=DRAWS))
    truth = truths(grid)
    hits: dict[str, list[bool | None]] = defaultdict(list)

    def note(name, answer, value):
        hits[name].append(answer.low <= value <= answer.high if isinstance(answer, Estimate) else None)

    for number in range(studies):
        study = fit_study(table(grid, number), settings)
        for frontier in study.frontiers:
            for optimum in frontier.optima:
                note(f"N* {frontier.approach}", optimum.params, truth["N*", frontier.arm, optimum.budget])
                note(f"L* {frontier.approach}", optimum.loss, truth["L*", frontier.arm, optimum.budget])
            law = frontier.params_law
            note(f"a {frontier.approach}", getattr(law, "exponent", None), BETA / (ALPHA + BETA))
        for pair in study.comparisons:
            place = (pair.arm, pair.other, pair.budget)
            note("gap", pair.gap, truth["gap", *place])
            note("compute multiplier", pair.compute, truth["compute multiplier", *place])
            note("parameter multiplier", pair.params, truth["parameter multiplier", *place])
        phi = study.recursion.phi if isinstance(study.recursion, RecursionFit) else {}
        for family in FAMILIES[:2]:
            note("phi", phi.get(family.architecture), family.phi)
    return {name: _shares(hits_of_name) for name, hits_of_name in hits.items()}


def _shares(hits: list[bool | None]) -> tuple[float, float]:
    answered = [hit for hit in hits if hit is not None]
    return (float(np.mean(answered)) if answered else float("nan")), len(answered) / len(hits)


def lines(measured: dict[str, dict[str, tuple[float, float]]]) -> list[str]:
    """A Markdown table: one row a grid, coverage in per cent, and in brackets how often a number was given at all."""
    names = list(next(iter(measured.values())))
    table_lines = [f"| grid | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for grid, shares in measured.items():
        cells = [
            "refused"
            if answered < FEW
            else f"{100 * right:.0f}" + (f" ({100 * answered:.0f})" if answered < 0.995 else "")
            for right, answered in (shares[name] for name in names)
        ]
        table_lines.append(f"| {grid} | {' | '.join(cells)} |")
    return table_lines


def rows(grid: Grid, shares: dict[str, tuple[float, float]], studies: int) -> list[dict]:
    """The lines of analysis/frontier/reference/coverage.csv for one grid."""
    return [
        grid.shape | {"shared": grid.shared, "quantity": name, "held": round(right, 3), "given": round(answered, 3)}
        | {"studies": studies}
        for name, (right, answered) in shares.items()
        if answered > 0
    ]  # fmt: skip


if __name__ == "__main__":
    number, path = int(sys.argv[1]), sys.argv[2]
    measured, table_rows = {}, []
    for grid in GRIDS:
        measured[grid.name] = measure(grid, number)
        table_rows += rows(grid, measured[grid.name], number)
        pl.DataFrame(table_rows).write_csv(path)
        print(lines(measured)[-1], flush=True)
    print("\n".join(lines(measured)))
