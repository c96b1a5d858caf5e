"""How far seeds differ in loss, from run tables with many seeds a cell.

python -m bench.seed_noise RUNS.parquet [OTHER.parquet]

Prints, for each arm, size and budget, the standard deviation of the losses over seeds with its 95 % interval
(chi-squared: for normal losses). With a second table, of the same cells on other data or at other settings, also the
ratio of variances with its 95 % interval (F).
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from mor_core.units import budget_text

LEVEL = 0.95
CELL = ("arm", "size", "budget")
Key = tuple[str, str, str]


def losses_by_cell(path: Path) -> dict[Key, np.ndarray]:
    """Losses over seeds of every cell that has two or more."""
    runs = pl.read_parquet(path).filter(pl.col("loss").is_not_null()).sort(*CELL, "seed")
    groups = {key: rows["loss"].to_numpy() for key, rows in runs.group_by(*CELL, maintain_order=True)}
    return {(str(arm), str(size), str(budget)): loss for (arm, size, budget), loss in groups.items() if len(loss) > 1}


def deviation(loss: np.ndarray) -> tuple[float, float, float]:
    """The standard deviation and the ends of its interval."""
    spread, degrees = float(np.std(loss, ddof=1)), len(loss) - 1
    low, high = (spread * np.sqrt(degrees / stats.chi2.ppf(share, degrees)) for share in _ends()[::-1])
    return spread, float(low), float(high)


def variance_ratio(loss: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Variance of `other` over that of `loss`, and the ends of its interval."""
    ratio = float(np.var(other, ddof=1) / np.var(loss, ddof=1))
    low, high = (ratio / stats.f.ppf(share, len(other) - 1, len(loss) - 1) for share in _ends()[::-1])
    return ratio, float(low), float(high)


def _ends() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2


def main(paths: list[str]) -> None:
    """See the module."""
    tables = [losses_by_cell(Path(path)) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        print(path)
        for (arm, size, budget), loss in table.items():
            spread, low, high = deviation(loss)
            where = f"{arm} {size} at {budget_text(int(budget))}"
            print(
                f"  {where}: {len(loss)} seeds, mean {loss.mean():.4f}, deviation {spread:.4f} [{low:.4f}, {high:.4f}]"
            )
    if len(tables) == 2:
        print("variance in the second over that in the first")
        for key in [key for key in tables[0] if key in tables[1]]:
            ratio, low, high = variance_ratio(tables[0][key], tables[1][key])
            print(f"  {key[0]} {key[1]} at {budget_text(int(key[2]))}: {ratio:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main(sys.argv[1:])
