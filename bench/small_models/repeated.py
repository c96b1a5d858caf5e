"""What repeated text costs a looped arm and a vanilla one: the statistics of results/published/repeated/PLAN.md.

    python -m bench.small_models.repeated results/published/repeated/runs.csv results/published/recursion/fits.json

The first file is the run table of all sweeps of the plan together, the second the fits of the study whose surfaces give
each arm's B and β for the form that the overfitting one is held against. Prints Markdown.

The *excess* of a run is its loss less that of the run of the same arm, size and seed on fresh text: same N, same D.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats
from scipy.optimize import minimize_scalar

from analysis.frontier.compare import REFERENCE
from analysis.statistics.quadratic import Floats
from analysis.surface.extended.repetition import OVERFIT_POWERS, repeats, worth_of

FRESH_EPOCHS = 1.0
"""Runs that saw their text fewer times are the fresh ones."""
MEAN_OVER = 3
"""The mean gap is over the corpora that repeat most; the plan names three, 8, 16 and 32 passes at the middle size."""
LEVEL = 0.95
NUM_REDRAWN = 2000
SEED = 20


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much two runs of one cell differ, pooled over the cells of an arm."""

    deviation: float
    """Standard deviation over seeds, nats."""
    freedom: int
    """Its degrees of freedom."""


def cells_of(runs: pl.DataFrame) -> pl.DataFrame:
    """One row per arm, size, corpus and seed with its excess, R and both N / U.

    `passes` names the corpus: those of the reference arm at the middle size.
    """
    runs = runs.filter(pl.col("status") == "finished").with_columns(
        unique=(pl.col("tokens") / pl.col("epochs")).round()
    )
    names = (
        runs.filter(pl.col("arm") == REFERENCE)
        .group_by("sweep")
        .agg(passes=pl.col("epochs").median(), fresh=(pl.col("epochs") < FRESH_EPOCHS).all())
    )
    runs = runs.join(names, on="sweep").sort("passes", "arm", "unrolled_params", "seed")
    fresh = runs.filter("fresh").select("arm", "size", "seed", fresh_loss="loss")
    return runs.join(fresh, on=["arm", "size", "seed"]).with_columns(
        excess=pl.col("loss") - pl.col("fresh_loss"),
        again=pl.when("fresh").then(0.0).otherwise((pl.col("epochs") - 1).clip(lower_bound=0.0)),
        per_unique=pl.col("unique_params") / pl.col("unique"),
        per_unrolled=pl.col("unrolled_params") / pl.col("unique"),
    )


def noise_of(cells: pl.DataFrame) -> dict[str, Noise]:
    """By arm, over all of its cells, those on fresh text too."""
    spread = cells.group_by("arm", "sweep", "size").agg(
        squares=(pl.col("loss") - pl.col("loss").mean()).pow(2).sum(), freedom=pl.len() - 1
    )
    pooled = spread.group_by("arm").agg(pl.col("squares").sum(), pl.col("freedom").cast(pl.Int64).sum())
    return {
        arm: Noise(deviation=float(np.sqrt(squares / freedom)), freedom=freedom)
        for arm, squares, freedom in pooled.sort("arm").iter_rows()
    }


def half_width(noises: list[Noise], share: float) -> float:
    """Half of the t-interval of a sum whose variance is share × the sum of the noises' (Welch and Satterthwaite)."""
    variances = [noise.deviation**2 for noise in noises]
    freedom = sum(variances) ** 2 / sum(
        variance**2 / noise.freedom for variance, noise in zip(variances, noises, strict=True)
    )
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(share * sum(variances)))


def heading(title: str, *columns: str) -> None:
    """A section that opens with the head of a Markdown table."""
    print(f"\n## {title}\n")
    row(*columns)
    print("|" + "---|" * len(columns))


def row(*values: str) -> None:
    """One row of a Markdown table."""
    print(f"| {' | '.join(values)} |")


def print_excesses(cells: pl.DataFrame, noises: dict[str, Noise]) -> None:
    """Question 1: what repetition costs an arm beyond what it costs the reference."""
    num_seeds = cells["seed"].n_unique()
    sizes = cells.unique("size").sort("unrolled_params")["size"].to_list()
    mean = cells.filter(~pl.col("fresh")).group_by("arm", "passes", "size").agg(pl.col("excess").mean())
    heading("Excess over the same runs on fresh text, nats (mean over seeds)", "arm", "passes", *sizes)
    for (arm, passes), corpus in mean.sort("arm", "passes").group_by("arm", "passes", maintain_order=True):
        by_size = dict(corpus.select("size", "excess").iter_rows())
        row(arm, f"{passes:.3g}", *(f"{by_size[size]:+.3f}" for size in sizes))
    heading(f"Excess less that of {REFERENCE}", "arm", "passes", *sizes, "interval of each", "mean over sizes")
    for arm in sorted(set(noises) - {REFERENCE}):
        pair = [noises[arm], noises[REFERENCE]]
        single = half_width(pair, 2 / num_seeds)
        over_sizes = half_width(pair, 2 / (len(sizes) * num_seeds))
        differences = _differences(mean, arm)
        for (passes,), corpus in differences.sort("passes").group_by("passes", maintain_order=True):
            by_size = dict(corpus.select("size", "difference").iter_rows())
            shown = [f"{by_size[size]:+.3f}" for size in sizes]
            row(
                arm,
                f"{passes:.3g}",
                *shown,
                f"± {single:.3f}",
                f"{corpus['difference'].mean():+.3f} ± {over_sizes:.3f}",
            )
        corpora = sorted(differences["passes"].unique())[-MEAN_OVER:]
        # The fresh runs stand in the differences of all corpora, so that they count once per size only.
        share = 1 / (len(sizes) * num_seeds) + 1 / (len(sizes) * len(corpora) * num_seeds)
        overall = differences.filter(pl.col("passes").is_in(corpora))["difference"].mean()
        blank = [""] * (len(sizes) + 1)
        row(arm, f"mean of the last {len(corpora)}", *blank, f"**{overall:+.3f} ± {half_width(pair, share):.3f}**")


def _differences(mean: pl.DataFrame, arm: str) -> pl.DataFrame:
    reference = mean.filter(pl.col("arm") == REFERENCE).select("passes", "size", reference="excess")
    return (
        mean.filter(pl.col("arm") == arm)
        .join(reference, on=["passes", "size"])
        .with_columns(difference=pl.col("excess") - pl.col("reference"))
    )


def redrawn(cells: pl.DataFrame, noises: dict[str, Noise]) -> np.ndarray:
    """Losses [draw, cell]: each cell's mean over seeds, with new seeds around it."""
    rng = np.random.default_rng(SEED)
    means = cells.select(pl.col("loss").mean().over("arm", "sweep", "size")).to_series().to_numpy()
    deviations = np.array([noises[arm].deviation for arm in cells["arm"]])
    return means + rng.normal(size=(NUM_REDRAWN, len(cells))) * deviations


def kappa_of(again: Floats, per_token: Floats, excess: Floats) -> Floats:
    """κ of excess = κ R^(1/3) (N / U)^(2/3) by least squares through 0; `excess` [..., run]."""
    term = again ** OVERFIT_POWERS[0] * per_token ** OVERFIT_POWERS[1]
    return (excess * term).sum(-1) / (term**2).sum()


def print_kappas(cells: pl.DataFrame, noises: dict[str, Noise]) -> None:
    """Question 2: whether repetition costs per parameter that exists or per layer computed."""
    losses = redrawn(cells, noises)
    place = {key: row for row, key in enumerate(cells.select("arm", "size", "sweep", "seed").iter_rows())}
    fresh_sweep = cells.filter("fresh")["sweep"][0]
    heading("κ of excess = κ R^(1/3) (N / U)^(2/3)", "arm", "N of unique parameters", "N of unrolled parameters")
    for arm in sorted(noises):
        runs = cells.filter((pl.col("arm") == arm) & ~pl.col("fresh"))
        rows = [place[key] for key in runs.select("arm", "size", "sweep", "seed").iter_rows()]
        fresh = [place[arm, size, fresh_sweep, seed] for size, seed in runs.select("size", "seed").iter_rows()]
        again, excess = runs["again"].to_numpy(), runs["excess"].to_numpy()
        shown = []
        for counted in ("per_unique", "per_unrolled"):
            per_token = runs[counted].to_numpy()
            value = kappa_of(again, per_token, excess)
            draws = kappa_of(again, per_token, losses[:, rows] - losses[:, fresh])
            low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            shown.append(f"{value:.4f} [{low:.4f}, {high:.4f}]")
        row(arm, *shown)


def print_ranking(cells: pl.DataFrame, noises: dict[str, Noise]) -> None:
    """Question 3: whether the arms' order at equal FLOPs is another under repetition."""
    losses = redrawn(cells, noises)
    heading(f"Lowest loss over sizes less that of {REFERENCE}", "arm", "passes", "lowest loss", "gap")
    places = cells.with_row_index("place").with_columns(passes=pl.when("fresh").then(0.0).otherwise("passes"))
    for (passes,), corpus in places.sort("passes").group_by("passes", maintain_order=True):
        lowest = {arm: _lowest(corpus.filter(pl.col("arm") == arm), losses) for arm in noises}
        value, draws = lowest[REFERENCE]
        name = f"{passes:.3g}" if passes else "fresh"
        for arm in sorted(noises):
            arm_value, arm_draws = lowest[arm]
            low, high = np.quantile(arm_draws - draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            gap = f"{arm_value - value:+.3f} [{low:+.3f}, {high:+.3f}]" if arm != REFERENCE else ""
            row(arm, name, f"{arm_value:.3f}", gap)


def _lowest(runs: pl.DataFrame, losses: np.ndarray) -> tuple[float, np.ndarray]:
    """The lowest mean over seeds among sizes, and [draw] alike."""
    groups = [rows for _, rows in runs.group_by("size")]
    value = min(float(rows["loss"].to_numpy().mean()) for rows in groups)
    draws = np.min([losses[:, rows["place"].to_list()].mean(axis=1) for rows in groups], axis=0)
    return value, draws


def print_errors(cells: pl.DataFrame, surfaces: dict[str, tuple[float, float]]) -> None:
    """Question 4: the mean size of the relative error on corpora that had no part in the fit of κ or R_D*."""
    repeated = cells.filter(~pl.col("fresh"))
    heading("Error on corpora left out", "arm", "overfitting", "data decay", "no effect")
    for (arm,), runs in repeated.group_by("arm", maintain_order=True):
        errors: dict[str, list[float]] = {"overfitting": [], "data decay": [], "no effect": []}
        for (passes,), rest in runs.group_by("passes"):
            others = runs.filter(pl.col("passes") != passes)
            kappa = kappa_of(*(others[name].to_numpy() for name in ("again", "per_unique", "excess")))
            term = rest["again"].to_numpy() ** OVERFIT_POWERS[0] * rest["per_unique"].to_numpy() ** OVERFIT_POWERS[1]
            loss, fresh = rest["loss"].to_numpy(), rest["fresh_loss"].to_numpy()
            errors["overfitting"] += list(np.abs((fresh + kappa * term) / loss - 1))
            errors["no effect"] += list(np.abs(fresh / loss - 1))
            if arm in surfaces:
                scale = _fitted_decay(others, surfaces[arm])
                errors["data decay"] += list(np.abs((fresh + _decay_excess(rest, scale, surfaces[arm])) / loss - 1))
        shown = [f"{100 * np.mean(values):.2f}%" if values else "no surface" for values in errors.values()]
        row(arm, *shown)


def _decay_excess(runs: pl.DataFrame, log_scale: float, surface: tuple[float, float]) -> Floats:
    """B / D'^β - B / D^β of Muennighoff's decay with ln R_D* = `log_scale`; `surface` is (ln B, β)."""
    log_amplitude, exponent = surface
    log_tokens, log_unique = np.log(runs["tokens"].to_numpy()), np.log(runs["unique"].to_numpy())
    again = repeats(log_tokens, log_unique)
    seen_once = np.minimum(log_tokens, log_unique)
    log_worth = seen_once + np.log1p(worth_of(again, np.full_like(again, log_scale)).value)
    return np.exp(log_amplitude - exponent * log_worth) - np.exp(log_amplitude - exponent * log_tokens)


def _fitted_decay(runs: pl.DataFrame, surface: tuple[float, float]) -> float:
    """ln R_D* by least squares of the excess."""

    def misfit(log_scale: float) -> float:
        return float(((runs["excess"].to_numpy() - _decay_excess(runs, log_scale, surface)) ** 2).sum())

    return float(minimize_scalar(misfit, bounds=(np.log(0.01), np.log(1e4)), method="bounded").x)


def surfaces_of(path: Path) -> dict[str, tuple[float, float]]:
    """(ln B, β) by arm, of the surfaces in a fits.json; arms without one are left out."""
    fits = json.loads(path.read_text())
    return {
        frontier["arm"]: (float(np.log(frontier["surface"]["law"]["B"])), frontier["surface"]["law"]["beta"])
        for frontier in fits["frontiers"]
        if frontier["approach"] == "surface" and frontier.get("surface")
    }


def main() -> None:
    """Print the answers to the plan's four questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="run table of all sweeps together")
    parser.add_argument("fits", type=Path, help="fits.json with a surface for each arm on fresh text")
    paths = parser.parse_args()
    cells = cells_of(pl.read_csv(paths.runs, infer_schema_length=None))
    noises = noise_of(cells)
    heading("Noise", "arm", "seeds of one cell differ by, nats", "degrees of freedom")
    for arm, noise in noises.items():
        row(arm, f"{noise.deviation:.4f}", str(noise.freedom))
    print_excesses(cells, noises)
    print_kappas(cells, noises)
    print_ranking(cells, noises)
    print_errors(cells, surfaces_of(paths.fits))


if __name__ == "__main__":
    main()
