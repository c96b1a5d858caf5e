"""Which 95 % intervals of a study are too narrow: how often such intervals held the truth in simulated studies.

`tests/analysis/frontier/coverage_study.py` simulates studies of many grids and writes the table; the most similar grid
counts. Nothing is corrected here: a factor that widens the intervals under one law and one kind of noise would be as
much of a guess as what it corrects.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import polars as pl

from analysis.frontier.study import Study
from analysis.statistics.answers import Estimate
from analysis.statistics.approach import SYMBOLS
from analysis.surface.extended.recursion import RecursionFit

TABLE = "coverage.csv"
FORECASTS = "forecast_coverage.csv"
"""The same of what is said beyond the budgets, by reach; `tests/analysis/advice/forecast_study.py` writes it."""
GOAL = 0.92
"""Lowest coverage of a 95 % interval that needs no word."""
FEWEST_GIVEN = 0.3
"""Share of the simulated studies below which a quantity was given too rarely to have a coverage."""
QUANTITIES = ("N*", "L*", "a")
BETWEEN_ARMS = ("gap", "compute multiplier", "parameter multiplier")
"""Their intervals take the noise of a trunk as common to arms trained on the same data; the simulations do not."""
ONE_MORE_RUN = "run"
"""What the table calls the loss of one more run, which only grids with several seeds have."""
LEAST_HELD = 0.90
"""Lowest coverage of a 95 % interval beyond the budgets with which it is given."""
MOST_HELD = 0.98
"""Highest coverage of a 95 % interval beyond the budgets that needs no word."""
LARGEST_GRID = 12
"""Sizes a budget beyond which no simulated grid is similar."""


@dataclass(frozen=True, kw_only=True)
class GridShape:
    """What a grid is like, as far as coverage depends on it."""

    sizes: int
    """Sizes a budget, the median."""
    budgets: int
    """Budgets with a point."""
    seeds: int
    """Seeds a cell, the fewest."""


def measured_coverage() -> pl.DataFrame:
    """grid, sizes, budgets, seeds, shared (part of the noise variance common to a trunk), quantity, held (share of the
    intervals given that hold the truth), given (share of the studies that give one), studies."""
    return pl.read_csv((resources.files("analysis.frontier") / "reference" / TABLE).read_bytes())


def shape_of(frame: pl.DataFrame) -> GridShape | None:
    """The grid of points (see `analysis.runs.points.Points.frame`); None where there is none."""
    if frame.is_empty():
        return None
    cells = frame.group_by("arm", "budget", "size").agg(pl.col("seed").n_unique())
    sizes = cells.group_by("arm", "budget").len()["len"].to_list()
    return GridShape(
        sizes=sorted(sizes)[len(sizes) // 2],
        budgets=cells["budget"].n_unique(),
        seeds=min(cells["seed"].to_list()),
    )


@dataclass(frozen=True, kw_only=True)
class _Narrow:
    """A kind of 95 % interval that is too narrow."""

    whose: str
    """Such as "by parabola"."""
    ranges: dict[str, tuple[float, float]]
    """Quantity -> the lowest and the highest share of simulated intervals that held the truth."""
    grid: str
    """What the simulated studies were like."""

    @property
    def shares(self) -> str:
        """Such as "N* 92% to 94%, a 89%"."""
        return ", ".join(f"{name} {_percent(*ends)}" for name, ends in self.ranges.items())


def coverage_notes(study: Study) -> tuple[str, ...]:
    """A sentence for each kind of 95 % interval of the study that is too narrow on such a grid."""
    return tuple(
        f"95 % intervals {kind.whose} are too narrow on such a grid: in simulated studies of {kind.grid} they "
        f"held the truth in these shares of cases: {kind.shares}, depending on how much of its noise a trunk "
        "passes on to all of its budgets."
        for kind in _narrow_kinds(study)
    )


def coverage_sentence(study: Study) -> str | None:
    """The same of all kinds at once; None where none is too narrow."""
    kinds = _narrow_kinds(study)
    if not kinds:
        return None
    shares = "; ".join(f"{kind.whose} {kind.shares}" for kind in kinds)
    return (
        f"95 % intervals are too narrow on such a grid. In simulated studies of {kinds[0].grid} they held the truth in "
        f"these shares of cases, depending on how much of its noise a trunk passes on to all of its budgets: {shares}."
    )


def coverage_span(study: Study) -> str | None:
    """The lowest and the highest share of all that are too low, such as "89% to 94%"; None where none is."""
    ends = [ends for kind in _narrow_kinds(study) for ends in kind.ranges.values()]
    return _percent(min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def _narrow_kinds(study: Study) -> list[_Narrow]:
    shape = shape_of(study.points.frame)
    if shape is None or shape.sizes > LARGEST_GRID:
        return []
    similar = _similar(shape)
    kinds = [
        (f"by {approach}", {name: f"{name} {approach}" for name in QUANTITIES})
        for approach in study.settings.approaches
        if any(frontier.approach == approach and not frontier.refused for frontier in study.frontiers)
    ]
    if any(isinstance(comparison.gap, Estimate) for comparison in study.comparisons):
        kinds.append(("between arms", {name: name for name in BETWEEN_ARMS}))
    if isinstance(study.recursion, RecursionFit):
        kinds.append(("of what a recursion is worth", {"φ": "phi"}))
    grid = _described(similar)
    narrow = [_Narrow(whose=whose, ranges=_too_narrow(similar, names), grid=grid) for whose, names in kinds]
    return [kind for kind in narrow if kind.ranges]


def _too_narrow(similar: pl.DataFrame, names: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Those of the quantities (shown as -> as tabled) whose intervals hold the truth too rarely."""
    ranges = {shown: _range(similar, tabled) for shown, tabled in names.items()}
    return {name: ends for name, ends in ranges.items() if ends and ends[0] < GOAL}


def _similar(shape: GridShape) -> pl.DataFrame:
    """The simulated grids with one seed or with several, as the study, whose sizes are nearest in number."""
    measured = measured_coverage()
    same_seeds = measured.filter((pl.col("seeds") > 1) == (shape.seeds > 1))
    distance = (pl.col("sizes") - shape.sizes).abs()
    return same_seeds.filter(distance == distance.min())


def _range(similar: pl.DataFrame, quantity: str) -> tuple[float, float] | None:
    shares = similar.filter((pl.col("quantity") == quantity) & (pl.col("given") >= FEWEST_GIVEN))["held"].to_list()
    return (min(shares), max(shares)) if shares else None


def _percent(low: float, high: float) -> str:
    return f"{low:.0%}" if round(low, 2) == round(high, 2) else f"{low:.0%} to {high:.0%}"


def _described(similar: pl.DataFrame) -> str:
    sizes, seeds = similar["sizes"][0], sorted(set(similar["seeds"].to_list()))
    return f"{sizes} sizes a budget and {' or '.join(map(str, seeds))} seed{'' if seeds == [1] else 's'}"


@lru_cache(1)
def forecast_coverage() -> pl.DataFrame:
    """grid, sizes, budgets, seeds, reach, approach, quantity, held (share of the intervals given that hold the truth),
    given (share of the studies that give one), error (median size, relative), width (median half-width, relative),
    studies, worst_truth and worst_held."""
    return pl.read_csv((resources.files("analysis.frontier") / "reference" / FORECASTS).read_bytes())


NAMES = SYMBOLS | {ONE_MORE_RUN: "one more run's loss"}


@dataclass(frozen=True, kw_only=True)
class SimulatedForecasts:
    """How forecasts of one quantity by one approach fared in simulated studies like one's own."""

    held: float
    """Share of the 95 % intervals that held the truth."""
    sentence: str
    """The same in words, with the grid and the reach."""

    @property
    def too_narrow(self) -> bool:
        """Whether they held it too rarely to be given."""
        return self.held < LEAST_HELD

    @property
    def too_wide(self) -> bool:
        """Whether they are wider than they need to be."""
        return self.held > MOST_HELD


def simulated_forecasts(
    shape: GridShape | None, approach: str, quantity: str, reach: float
) -> SimulatedForecasts | None:
    """How the intervals of an approach at `reach` fared on such a grid; None where nobody knows.

    A grid is like the simulated one whose budgets, sizes and seeds are nearest in number, a reach like the next larger.
    """
    if shape is None or reach <= 1:
        return None
    rows = _similar_forecasts(shape).filter((pl.col("approach") == approach) & (pl.col("quantity") == quantity))
    if rows.is_empty():
        return None
    farther = rows.filter(pl.col("reach") >= min(reach, float(str(rows["reach"].max())))).sort("reach").head(1)
    if farther["given"][0] < FEWEST_GIVEN:
        return None
    row = farther.row(0, named=True)
    return SimulatedForecasts(
        held=row["held"],
        sentence=f"at {row['reach']:g} times the largest budget its 95 % intervals of {NAMES[quantity]} held the "
        f"truth in {row['held']:.0%} of {row['studies']} simulated studies like this one ({row['grid']})",
    )


def _similar_forecasts(shape: GridShape) -> pl.DataFrame:
    """The simulated grid whose numbers of budgets, sizes and seeds are nearest, by their ratios."""
    measured = forecast_coverage()
    numbers = {"budgets": shape.budgets, "sizes": shape.sizes, "seeds": shape.seeds}
    distance = pl.sum_horizontal((pl.col(name) / number).log().abs() for name, number in numbers.items())
    return measured.filter(distance == distance.min())
