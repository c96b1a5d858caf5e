"""The surface fit against the published procedures, on one table of runs, in one process with pinned threads.

    python -m bench.fit --table runs.csv --columns params=N,tokens=D,loss=L [--starts 4500]

Published, re-implemented as their papers describe (Hoffmann et al. 2022; Besiroglu et al. 2024): L-BFGS from a grid of
4500 starts with numeric gradients on the sum of Huber's loss (delta = 1e-3) over residuals of ln L; for the bootstrap,
one BFGS start a draw from Hoffmann's values. `--starts` takes an even sample of the grid and scales the time; the
objective reported is the best of those taken. Seconds are wall time; the processor time beside them is the least
disturbed reading on a busy machine.
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize

from analysis.runs.column_map import parse_columns
from analysis.runs.column_names import complete_columns
from analysis.runs.table_file import read_table
from analysis.statistics.bootstrap import Resampling
from analysis.statistics.quadratic import Floats
from analysis.surface.draws import redraw_surface
from analysis.surface.optimum import SurfaceRules, fit_optimum
from analysis.surface.problem import SurfacePoints, huber, plain_points

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
DELTA = 1e-3
GRID = tuple(
    itertools.product(range(0, 30, 5), range(0, 30, 5), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2))
)
"""(a, b, e, alpha, beta), uncentred: 6 x 6 x 5 x 5 x 5 = 4500."""
HOFFMANN = (6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083)
DRAWS = 4000
REPEATS = 20


def published_objective(points: SurfacePoints, weights: Floats) -> Callable[[Floats], float]:
    """Sum of Huber's loss, parameters uncentred, as the papers write it."""
    log_n, log_d, log_loss = points.log_params, points.log_tokens, np.log(points.loss)

    def objective(theta: Floats) -> float:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
        top = terms.max(axis=0)
        predicted = top + np.log(np.exp(terms - top).sum(axis=0))
        return float(weights @ huber(predicted - log_loss, DELTA))

    return objective


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, wall seconds and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - processor


def published_fit(points: SurfacePoints, starts: int) -> tuple[float, int]:
    """Best objective over an even sample of the grid, and how many starts came within 1e-6 of it."""
    objective = published_objective(points, np.ones(len(points)))
    chosen = np.linspace(0, len(GRID) - 1, starts).round().astype(int)
    objectives = np.array(
        [optimize.minimize(objective, np.array(GRID[index], dtype=float), method="L-BFGS-B").fun for index in chosen]
    )
    return float(objectives.min()), int((objectives <= objectives.min() * (1 + 1e-6)).sum())


def published_bootstrap(points: SurfacePoints, draws: int) -> Floats:
    """(draws, 5): rows drawn with replacement, one BFGS start each."""
    rng, n = np.random.default_rng(42), len(points)
    laws = []
    for _ in range(draws):
        weights = np.bincount(rng.integers(0, n, n), minlength=n).astype(float)
        laws.append(optimize.minimize(published_objective(points, weights), np.array(HOFFMANN), method="BFGS").x)
    return np.array(laws)


def compare(points: SurfacePoints, starts: int, sampled_draws: int) -> None:
    """Print the side-by-side timings."""
    print(f"{len(points)} points, one thread, load average {os.getloadavg()[0]:.1f}")
    rules = SurfaceRules(delta=DELTA)
    fit_optimum(points, rules)
    timings = [timed(lambda: fit_optimum(points, rules)) for _ in range(REPEATS)]
    best = timings[0][0]
    wall, processor = (float(np.median([timing[index] for timing in timings])) for index in (1, 2))
    print(f"surface fit: {1e3 * wall:.1f} ms wall, {1e3 * processor:.1f} ms processor (median of {REPEATS})")
    print(f"  objective {best.objective:.14g}, {best.share_reached:.0%} of {best.num_starts} starts reached it")
    (objective, reached), their_wall, their_processor = timed(lambda: published_fit(points, starts))
    scale = len(GRID) / starts
    print(
        f"published grid of {len(GRID)} starts: {scale * their_wall:.0f} s wall, {scale * their_processor:.0f} s "
        f"processor{'' if scale == 1 else f' (scaled from {starts})'}"
    )
    print(f"  objective {objective:.14g}, {reached / starts:.0%} of the starts reached it")
    print(
        f"  faster by {scale * their_wall / wall:.0f} (wall), {scale * their_processor / processor:.0f} (processor); "
        f"objective no higher: {best.objective <= objective}"
    )
    keys = tuple(str(index) for index in range(len(points)))
    draws, wall, processor = timed(lambda: redraw_surface(best, keys, "bench", Resampling(draws=DRAWS)))
    print(f"{DRAWS} bootstrap draws: {wall:.2f} s wall, {processor:.2f} s processor, {draws.method}")
    print(
        f"  standard errors: alpha {draws.law.alpha.std():.5f}, beta {draws.law.beta.std():.5f}, "
        f"E {draws.law.E.std():.5f}"
    )
    published_laws, wall, processor = timed(lambda: published_bootstrap(points, sampled_draws))
    scale = DRAWS / sampled_draws
    print(
        f"published bootstrap: {scale * wall:.0f} s wall, {scale * processor:.0f} s processor for {DRAWS} draws "
        f"(scaled from {sampled_draws}); alpha {published_laws[:, 3].std():.5f}, beta {published_laws[:, 4].std():.5f}"
    )


def main() -> None:
    """Parse, pin the threads (in a process of its own, before numpy loads), compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--columns", default="", help="as for `mor-sweep fit`")
    parser.add_argument("--starts", type=int, default=len(GRID))
    parser.add_argument("--sampled-draws", type=int, default=100)
    parser.add_argument("--drop-highest", type=int, default=0, help="leave out so many of the highest losses")
    options = parser.parse_args()
    if any(os.environ.get(name) != "1" for name in THREADS):
        pinned = os.environ | dict.fromkeys(THREADS, "1")
        sys.exit(subprocess.run([sys.executable, "-m", "bench.fit", *sys.argv[1:]], env=pinned, check=False).returncode)
    table = read_table(options.table)
    columns = complete_columns(table, parse_columns(options.columns))
    arrays = [table[columns[name].name].to_numpy() * columns[name].factor for name in ("params", "tokens", "loss")]
    is_kept = np.argsort(np.argsort(arrays[2], kind="stable")) < len(arrays[2]) - options.drop_highest
    compare(plain_points(*(values[is_kept] for values in arrays)), options.starts, options.sampled_draws)


if __name__ == "__main__":
    main()
