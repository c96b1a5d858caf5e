"""How often forecasts hold the truth, by grid, reach and truth: the law that surfaces fit, and laws that they do not.

A study is one arm, one grid and one truth, planted anew; the truths take turns. As a program:

    python -m tests.analysis.advice.forecast_study FIRST LAST PATH.parquet [GRID ...]
    python -m tests.analysis.advice.forecast_study summary PATH.csv PATH.parquet ...

The first writes the predictions of the studies of these numbers, so that several processes can share them; the second
makes the table of them.
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.optimize import minimize_scalar

from analysis.advice.forecast.backtest import roll
from analysis.advice.forecast.forecast import one_more_run, run_noise
from analysis.advice.forecast.forecaster import COMBINED
from analysis.advice.forecast.outlook import APPROACHES, OutlookRules
from analysis.frontier.coverage import ONE_MORE_RUN
from analysis.isoflop.parabola import ParabolaRules
from analysis.runs.points import read_points
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.bootstrap import Resampling, Sample
from analysis.surface.optimum import SurfaceRules
from tests.helpers.runs.planted_runs import Grid

E, A, ALPHA, B, BETA = 1.6, 55.0, 0.4, 135.0, 0.4
NOISE = 0.006
"""nats, of a run."""
SHARED = 0.5
"""Share of its variance that the budgets of a trunk have in common."""
DRAWS = 300
REACHES = (2.0, 4.0, 10.0)
CENTRE_N, CENTRE_D = 3e4, 5e5
"""About where the grids lie."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What the runs follow."""

    name: str
    loss: Callable
    """(N, D) -> nats/token."""
    shape_merit: float = 0.0
    """Standard deviation of what a size gains or loses at every budget, nats."""
    noise_exponent: float = 0.0
    """Growth of the noise with C."""

    def best(self, flops: float) -> tuple[float, float]:
        """N* and L*."""
        best = minimize_scalar(lambda x: self.loss(np.exp(x), flops / 6 / np.exp(x)), bounds=(3, 25), method="bounded")
        return float(np.exp(best.x)), float(best.fun)


def law(n, d):
    """The surface."""
    return E + A / n**ALPHA + B / d**BETA


def best_of_law(flops):
    """N* of the surface in closed form (Hoffmann et al. 2022, equation 4)."""
    return (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (flops / 6) ** (BETA / (ALPHA + BETA))


TRUTHS = (
    Truth(name="the law", loss=law),
    Truth(name="a shape's merit", loss=law, shape_merit=0.02),
    Truth(name="rates for small sizes", loss=lambda n, d: law(n, d) + 0.012 * np.log(n / CENTRE_N) ** 2),
    Truth(
        name="rates for the optimum",
        loss=lambda n, d: law(n, d) + 0.04 * np.log(n / best_of_law(6 * n * d)) ** 2,
    ),
    Truth(
        name="a drifting exponent",
        loss=lambda n, d: (
            E + A / n**ALPHA + B / CENTRE_D**BETA * (d / CENTRE_D) ** -(0.4 - 0.04 * np.log(d / CENTRE_D))
        ),
    ),
    Truth(name="no asymptote", loss=lambda n, d: 1.0 + 5.2 / n**0.14 + 7.5 / d**0.14),
    Truth(name="noise that shrinks", loss=law, noise_exponent=-0.4),
)


def budgets(first: float, ratio: float, number: int) -> tuple[float, ...]:
    return tuple(first * ratio**index for index in range(number))


GRIDS = (
    Grid(name="paper: 4 sizes, 3 budgets", sizes=4, budgets=(2e12, 5e12, 1.65e13), step=0.39),
    Grid(name="gpu preset: 5 sizes, 3 budgets", sizes=5, budgets=(1e14, 2e14, 4e14)),
    Grid(name="6 sizes, 3 budgets", sizes=6, budgets=(4e10, 1.1e11, 3e11)),
    Grid(name="demo: 5 sizes, 3 budgets, 4 seeds", sizes=5, budgets=(2e10, 4.5e10, 1e11), seeds=4),
    Grid(name="7 sizes, 4 budgets", sizes=7, budgets=budgets(1e11, 3, 4)),
    Grid(name="10 sizes, 6 budgets", sizes=10, budgets=budgets(5e10, 2.5, 6), step=0.14),
)


def table(grid: Grid, truth: Truth, study: int) -> pl.DataFrame:
    """A run table of one arm; runs of a trunk have a part of their noise in common."""
    rng = np.random.default_rng([study, len(grid.name)])
    trunk: dict[tuple, float] = defaultdict(rng.normal)
    merit: dict[str, float] = defaultdict(rng.normal)
    rows = []
    for budget in grid.budgets:
        for size in grid.sizes_about(truth.best(budget)[0]):
            name, tokens = f"{size:.5g}", budget / 6 / size
            for seed in range(grid.seeds):
                noise = np.sqrt(SHARED) * trunk[name, seed] + np.sqrt(1 - SHARED) * rng.normal()
                rows.append(
                    {
                        "cell_id": f"{name}/{budget:.0f}/{seed}", "status": "finished", "arm": "vanilla",
                        "size": name, "budget": f"{budget:.0f}", "budget_convention": "6nd", "seed": seed,
                        "unique_params": size, "tokens": tokens, "trunk_id": f"{name}/{seed}",
                        "loss": truth.loss(size, tokens) + truth.shape_merit * merit[name]
                        + _spread(grid, truth, budget) * noise,
                    }
                )  # fmt: skip
    return pl.DataFrame(rows)


def study_rows(grid: Grid, truth: Truth, number: int) -> list[dict]:
    """What every approach says at every reach, beside the truth."""
    points = read_points(table(grid, truth, number))
    rules = OutlookRules(
        parabola=ParabolaRules(), surface=SurfaceRules(), resampling=Resampling(draws=DRAWS, paired=0.0)
    )
    forecaster = roll(points.frame, "vanilla", points.budgets_of("vanilla"), rules).forecaster
    noise, seed = run_noise(points.frame), np.random.default_rng([number, 1])
    rows = []
    for reach in REACHES:
        flops = grid.budgets[-1] * reach
        best, loss = truth.best(flops)
        truths = {"params": best, "tokens": flops / 6 / best, "loss": loss}
        answers = forecaster.at(f"{flops:.0f}")
        place = {"grid": grid.name, "truth": truth.name, "reach": reach, "study": number}
        rows += [
            place
            | {"approach": approach, "quantity": quantity}
            | _judged(_estimate(answers[approach][quantity]), value)
            for approach in (*APPROACHES, COMBINED)
            for quantity, value in truths.items()
        ]
        if noise is not None:
            mean = answers[COMBINED]["loss"]
            run = one_more_run(mean, noise, rules.resampling) if isinstance(mean, Sample) else mean
            measured = loss + _spread(grid, truth, flops) * seed.normal()
            rows.append(place | {"approach": COMBINED, "quantity": ONE_MORE_RUN} | _judged(run, measured))
    return rows


def _estimate(answer: Sample | Refusal) -> Estimate | Refusal:
    return answer if isinstance(answer, Refusal) else answer.estimate


def _judged(answer: Estimate | Refusal, value: float) -> dict:
    """Whether a number was given, how far off it was, how wide its interval is and whether that held `value`."""
    if isinstance(answer, Refusal):
        return {"given": False}
    width, error = (answer.high - answer.low) / 2 / value, answer.value / value - 1
    return {"given": True, "error": error, "width": width, "held": answer.low <= value <= answer.high}


def _spread(grid: Grid, truth: Truth, flops: float) -> float:
    """The standard deviation of a run at `flops`, nats."""
    return NOISE * (flops / float(np.exp(np.mean(np.log(grid.budgets))))) ** truth.noise_exponent


def measure(grid: Grid, numbers: range) -> pl.DataFrame:
    """One row a prediction of the studies of these numbers."""
    rows = [row for number in numbers for row in study_rows(grid, TRUTHS[number % len(TRUTHS)], number)]
    return pl.DataFrame(rows, infer_schema_length=None)


def summary(predictions: pl.DataFrame) -> pl.DataFrame:
    """The lines of analysis/frontier/reference/forecast_coverage.csv."""
    shapes = pl.DataFrame([grid.shape for grid in GRIDS])
    by = ["grid", "reach", "approach", "quantity"]
    shares = [
        pl.col("held").mean(),
        pl.col("given").mean(),
        pl.col("error").abs().median().alias("error"),
        pl.col("width").median(),
    ]
    whole = predictions.group_by(by, maintain_order=True).agg(*shares, pl.len().alias("studies"))
    of_truth = predictions.group_by(*by, "truth", maintain_order=True).agg(pl.col("held").mean().alias("worst_held"))
    worst = of_truth.drop_nulls().sort("worst_held", maintain_order=True).unique(by, keep="first", maintain_order=True)
    whole = whole.join(worst.rename({"truth": "worst_truth"}), on=by, how="left", maintain_order="left")
    return shapes.join(whole, on="grid", maintain_order="right").with_columns(
        pl.col("held", "given", "worst_held").round(3), pl.col("error", "width").round(5)
    )


if __name__ == "__main__":
    if sys.argv[1] == "summary":
        summary(pl.concat([pl.read_parquet(path) for path in sys.argv[3:]], how="diagonal")).write_csv(sys.argv[2])
        sys.exit()
    first, last, path, chosen = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    frames = [
        measure(grid, range(first, last)) for index, grid in enumerate(GRIDS) if not chosen or str(index) in chosen
    ]
    pl.concat(frames).write_parquet(path)
