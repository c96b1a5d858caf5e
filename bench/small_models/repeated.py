"""What repeated text costs a looped arm and a vanilla one: the statistics of results/published/repeated/PLAN.md.

    python -m bench.small_models.repeated results/published/repeated/runs.csv results/published/recursion/fits.json

The first file is the run table of all sweeps of the plan together, the second the fits of the study whose surfaces give
each arm's B and β for the form that the overfitting one is held against. Prints Markdown. `mor-sweep fit` says the
means over all corpora; here are those of each corpus, the ranking of the arms, and errors on corpora left out.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from analysis.frontier.compare import REFERENCE
from analysis.runs.repeated import repeated_frame
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.quadratic import Floats
from analysis.surface.extended.excess import ArmExcess, Contrast, fit_excess, overfitting_term
from analysis.surface.extended.repetition import repeats, worth_of
from orchestrator.records.fits.fitted import TableFile, runs_of_table

MEAN_OVER = 3
"""The plan's mean is over the corpora that repeat most: those of 8, 16 and 32 passes at the middle size."""
LEVEL = 0.95
NUM_REDRAWN = 2000
SEED = 20
DECAYS = np.log(np.geomspace(0.01, 1e4, 2001)).tolist()
"""ln R_D* that are tried; its errors are read to a percent."""
Places = set[tuple[str, str]]
"""(size, corpus)."""


def heading(title: str, *columns: str) -> None:
    """A section that opens with the head of a Markdown table."""
    print(f"\n## {title}\n")
    row(*columns)
    print("|" + "---|" * len(columns))


def row(*values: str) -> None:
    """One row of a Markdown table."""
    print(f"| {' | '.join(values)} |")


def interval_text(answer: Estimate) -> str:
    """A signed number of nats with its interval."""
    return f"{answer.value:+.3f} [{answer.low:+.3f}, {answer.high:+.3f}]"


def corpora_of(pairs: pl.DataFrame) -> list[tuple[str, str]]:
    """(corpus, its distinct tokens as shown), the largest first."""
    corpora = pairs.group_by("corpus").agg(pl.col("unique").median()).sort("unique", descending=True)
    return [(corpus, f"{unique:,.0f}") for corpus, unique in corpora.iter_rows()]


def supported(answer: Contrast | Refusal) -> Contrast:
    """The answer. Raises SystemExit with the reason where there is none."""
    if isinstance(answer, Refusal):
        raise SystemExit(answer.sentence)
    return answer


def print_excesses(arms: dict[str, ArmExcess]) -> None:
    """Question 1: what repetition costs each arm, and beyond what it costs the reference."""
    sizes = arms[REFERENCE].pairs.sort("unrolled_params")["size"].unique(maintain_order=True).to_list()
    corpora = corpora_of(arms[REFERENCE].pairs)
    heading("Loss less that on fresh text, nats", "arm", "distinct tokens", *sizes)
    for name, arm in arms.items():
        for corpus, unique in corpora:
            row(name, unique, *(f"{supported(arm.mean({(size, corpus)})).value:+.3f}" for size in sizes))
    heading(f"The same less that of {REFERENCE}", "arm", "distinct tokens", *sizes, "mean over sizes")
    for name, arm in _others(arms):
        for corpus, unique in corpora:
            single = [_gap(arm, arms[REFERENCE], {(size, corpus)}) for size in sizes]
            mean = _gap(arm, arms[REFERENCE], {(size, corpus) for size in sizes})
            row(name, unique, *map(interval_text, [*single, mean]))
        last = {(size, corpus) for size in sizes for corpus, _ in corpora[-MEAN_OVER:]}
        mean = interval_text(_gap(arm, arms[REFERENCE], last))
        row(name, f"the {MEAN_OVER} smallest", *[""] * len(sizes), f"**{mean}**")


def _others(arms: dict[str, ArmExcess]) -> Iterator[tuple[str, ArmExcess]]:
    return ((name, arm) for name, arm in arms.items() if name != REFERENCE)


def _gap(arm: ArmExcess, other: ArmExcess, places: Places) -> Estimate:
    return supported(arm.mean(places)).less(supported(other.mean(places))).estimate(LEVEL)


def print_kappas(arms: dict[str, ArmExcess]) -> None:
    """Question 2: whether repetition costs per parameter that exists or per layer computed."""
    heading("κ of loss less that on fresh text = κ R^(1/3) (N / U)^(2/3)", "arm", "N unique", "N unrolled")
    for name, arm in arms.items():
        answers = [kappa.estimate(LEVEL) for kappa in (arm.kappa, arm.kappa_unrolled) if kappa is not None]
        row(name, *(f"{answer.value:.4f} [{answer.low:.4f}, {answer.high:.4f}]" for answer in answers))


def print_ranking(arms: dict[str, ArmExcess], runs: pl.DataFrame) -> None:
    """Question 3: whether the arms' order at equal FLOPs is another under repetition."""
    heading(f"Lowest loss over sizes less that of {REFERENCE}", "arm", "distinct tokens", "lowest loss", "gap")
    rng = np.random.default_rng(SEED)
    fresh = {name: runs.filter((pl.col("arm") == name) & (pl.col("epochs") <= 1)) for name in arms}
    repeated = [
        (unique, {name: arm.pairs.filter(pl.col("corpus") == corpus) for name, arm in arms.items()})
        for corpus, unique in corpora_of(arms[REFERENCE].pairs)
    ]
    for unique, by_arm in [("all", fresh), *repeated]:
        lowest = {name: _lowest(by_arm[name], arm, rng) for name, arm in arms.items()}
        value, draws = lowest[REFERENCE]
        for name, (arm_value, arm_draws) in lowest.items():
            low, high = np.quantile(arm_draws - draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            gap = Estimate(value=arm_value - value, low=float(low), high=float(high), level=LEVEL)
            row(name, unique, f"{arm_value:.3f}", interval_text(gap) if name != REFERENCE else "")


def _lowest(runs: pl.DataFrame, arm: ArmExcess, rng: np.random.Generator) -> tuple[float, Floats]:
    """The lowest mean over seeds among sizes, and [draw] alike of redrawn seeds."""
    assert arm.noise is not None
    means = runs.group_by("size").agg(pl.col("loss").mean(), pl.len().alias("seeds"))
    deviations = np.sqrt(arm.noise.variance / means["seeds"].to_numpy())
    drawn = means["loss"].to_numpy() + rng.normal(size=(NUM_REDRAWN, means.height)) * deviations
    return float(means["loss"].to_numpy().min()), drawn.min(axis=1)


def print_errors(arms: dict[str, ArmExcess], surfaces: dict[str, tuple[float, float]]) -> None:
    """Question 4: the mean size of the relative error on corpora that had no part in the fit of κ or R_D*."""
    heading("Error on corpora left out", "arm", "overfitting", "data decay", "no effect")
    for name, arm in arms.items():
        errors: dict[str, list[float]] = {"overfitting": [], "data decay": [], "no effect": []}
        for corpus, _ in corpora_of(arm.pairs):
            others, left = (arm.pairs.filter(pl.col("corpus") != corpus), arm.pairs.filter(pl.col("corpus") == corpus))
            loss, fresh = left["loss"].to_numpy(), left["fresh_loss"].to_numpy()
            x_p = _term(others)
            kappa = float(x_p @ others["excess"].to_numpy() / (x_p @ x_p))
            log_scale = _fitted_decay(others, surfaces[name])
            errors["overfitting"] += list(np.abs((fresh + kappa * _term(left)) / loss - 1))
            errors["data decay"] += list(np.abs((fresh + _decay_excess(left, log_scale, surfaces[name])) / loss - 1))
            errors["no effect"] += list(np.abs(fresh / loss - 1))
        row(name, *(f"{np.mean(of_form):.2%}" for of_form in errors.values()))


def _term(pairs: pl.DataFrame) -> Floats:
    return overfitting_term(*(pairs[name].to_numpy() for name in ("params", "unique", "epochs")))


def _decay_excess(pairs: pl.DataFrame, log_scale: float, surface: tuple[float, float]) -> Floats:
    """B / D'^β - B / D^β of Muennighoff's decay with ln R_D* = `log_scale`; `surface` is (ln B, β)."""
    log_amplitude, exponent = surface
    log_tokens, log_unique = np.log(pairs["tokens"].to_numpy()), np.log(pairs["unique"].to_numpy())
    again = repeats(log_tokens, log_unique)
    log_worth = log_unique + np.log1p(worth_of(again, np.full_like(again, log_scale)).value)
    return np.exp(log_amplitude - exponent * log_worth) - np.exp(log_amplitude - exponent * log_tokens)


def _fitted_decay(pairs: pl.DataFrame, surface: tuple[float, float]) -> float:
    """ln R_D* by least squares of the excess."""

    def misfit(log_scale: float) -> float:
        return float(((pairs["excess"].to_numpy() - _decay_excess(pairs, log_scale, surface)) ** 2).sum())

    return min(DECAYS, key=misfit)


def surfaces_of(path: Path) -> dict[str, tuple[float, float]]:
    """(ln B, β) by arm, of the surfaces in a fits.json."""
    laws = {
        frontier["arm"]: frontier["surface"]["law"]
        for frontier in json.loads(path.read_text())["frontiers"]
        if frontier["approach"] == "surface"
    }
    return {arm: (float(np.log(law["B"])), law["beta"]) for arm, law in laws.items()}


def main() -> None:
    """Print the answers to the plan's four questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="run table of all sweeps together")
    parser.add_argument("fits", type=Path, help="fits.json with a surface for each arm on fresh text")
    paths = parser.parse_args()
    table, _ = runs_of_table(TableFile(path=paths.runs), "loss", lambda line, _: print(line))
    runs = repeated_frame(table, loss_column="loss", leave_out_flags=(), leave_out_cells=())
    if runs is None:
        raise SystemExit(f"{paths.runs}: no column says how often runs saw their text (epochs)")
    arms = {name: arm for name, arm in fit_excess(runs, LEVEL).items() if not isinstance(arm, Refusal)}
    heading("Noise", "arm", "seeds of one cell differ by, nats", "degrees of freedom")
    for name, arm in arms.items():
        assert arm.noise is not None
        row(name, f"{np.sqrt(arm.noise.variance):.4f}", f"{arm.noise.freedom:.0f}")
    print_excesses(arms)
    print_kappas(arms)
    print_ranking(arms, runs)
    print_errors(arms, surfaces_of(paths.fits))


if __name__ == "__main__":
    main()
