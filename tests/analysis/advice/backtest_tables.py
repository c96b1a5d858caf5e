"""What laws would have predicted of later budgets of public studies and of this project's: the numbers of
`results/published/backtest`.

`python -m tests.analysis.advice.backtest_tables FOLDER OUT` reads the tables of others from FOLDER, which the project
does not hold (results/published/backtest/README.md says where each comes from), prints summaries in Markdown and writes
every error to OUT. Nothing of a table but its errors is written.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from analysis.advice.forecast.backtest import BackTest, History, fared, worst
from analysis.advice.forecast.forecast import rules_of
from analysis.advice.forecast.groups import group_history
from analysis.advice.forecast.record import histories, laws_of
from analysis.frontier.paper import paper_runs
from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.report.backtests import of_law, worst_line
from analysis.statistics.answers import Refusal
from analysis.statistics.bootstrap import Resampling
from tests.helpers.paths import ROOT

SETTINGS = FitSettings(resampling=Resampling(draws=300))
NEAR = (1.99, 4.01)
"""Reach of the summary: two to four times the largest budget fitted."""
LARGEST_LOSS_KEPT = 240
"""Epoch AI leave the five runs of largest loss out."""

N, D, C, L = (pl.col(name) for name in ("params", "tokens", "flops", "loss"))


def porian(folder: Path) -> pl.DataFrame:
    """Twelve budgets, one arm."""
    return pl.read_csv(folder / "porian_refinedweb/isoflop_points.csv").select(
        "flops", "tokens", "loss", params="n", arm=pl.lit("one configuration")
    )


def epoch(folder: Path) -> pl.DataFrame:
    """The digitised runs, D = C / (6 N)."""
    table = pl.read_csv(folder / "epoch_chinchilla/svg_extracted_data.csv")
    named = table.select("loss", params="Model Size", flops="Training FLOP", arm=pl.lit("all runs"))
    return named.sort("loss").head(LARGEST_LOSS_KEPT).with_columns(tokens=C / 6 / N)


def gadre(folder: Path) -> pl.DataFrame:
    """Over-trained runs, an arm a data set; loss on C4, C = 6 N D as stated."""
    table = pl.read_csv(folder / "gadre_overtraining/runs.csv")
    return table.select("flops", params="N", tokens="D", loss="loss_c4_val", arm="dataset_name")


def olmo(folder: Path) -> pl.DataFrame:
    """The ladder and the 7B model that it was made for; FLOPs as its authors count them."""
    table = pl.read_csv(folder / "olmo_ladder/runs.csv")
    return table.select(
        "params", "tokens", loss="c4_loss", flops=pl.col("flops_per_token") * D, arm=pl.lit("ladder and 7B")
    )


OUTSIDE = {
    "porian_refinedweb": (porian, "budgets"),
    "epoch_chinchilla": (epoch, "groups"),
    "gadre_overtraining": (gadre, "groups"),
    "olmo_ladder": (olmo, "groups"),
}
"""Table -> how it is read, and what it is rolled over."""


def as_runs(table: pl.DataFrame) -> pl.DataFrame:
    """A table of params, tokens, flops, loss and arm as a run table: each run its own trunk, its FLOPs its budget."""
    numbered = table.with_row_index("number").with_columns(
        budget=C.round().cast(pl.Int128).cast(pl.Utf8), cell_id=pl.format("run-{}", "number")
    )
    return numbered.select(
        "cell_id", "arm", "budget", "tokens", "loss", "flops",
        status=pl.lit("finished"), size=N.cast(pl.Utf8), budget_convention=pl.lit("as given"),
        seed=pl.col("number").cast(pl.Int64), unique_params=N, trunk_id="cell_id",
    )  # fmt: skip


def records(folder: Path) -> Iterator[tuple[str, Mapping[str, History | Refusal]]]:
    """Table -> arm -> its record."""
    for name, (read, over) in OUTSIDE.items():
        study = fit_study(as_runs(read(folder)), SETTINGS)
        yield name, histories(study) if over == "budgets" else by_groups(study)
    yield "cpu_demo", histories(fit_study(pl.read_parquet(ROOT / "results/published/cpu_demo/runs.parquet"), SETTINGS))
    yield "paper", histories(fit_study(paper_runs(), SETTINGS))


def by_groups(study: Study) -> dict[str, History | Refusal]:
    """Each arm rolled over groups of neighbouring FLOPs."""
    frame = study.points.frame
    return {arm: group_history(frame.filter(pl.col("arm") == arm), arm, rules_of(study)) for arm in study.points.arms}


def row(table: str, test: BackTest) -> dict[str, str | int | float | bool]:
    """One prediction without what was measured."""
    return {
        "table": table, "arm": test.arm, "quantity": test.quantity, "law": test.law, "fitted": test.fitted,
        "budget": f"{float(test.budget):.6g}", "reach": round(test.reach, 4), "error": round(test.error, 6),
        "half_width": round(test.half_width, 6), "covered": test.covered, "ahead": test.ahead,
    }  # fmt: skip


def near_lines(table: str, arm: str, record: History) -> Iterator[str]:
    """L*, or the mean loss of a group, at reach 2 to 4: one line a law."""
    for law in laws_of(record.backtests, "loss"):
        tests = [test for test in of_law(record.backtests, law, "loss") if NEAR[0] <= test.reach <= NEAR[1]]
        if tests:
            summary = fared(tests)
            yield (
                f"| {table} | {arm} | {law} | {summary.size:.2%} | {summary.error:+.2%} | {summary.half_width:.2%} | "
                f"{summary.covered} of {summary.count} |"
            )


def worst_lines(table: str, arm: str, record: History) -> Iterator[str]:
    """The worst loss of each law."""
    for law in laws_of(record.backtests, "loss"):
        test = worst(of_law(record.backtests, law, "loss"))
        yield f"| {table} | {arm} | {law} | {worst_line(test, 2, record.over)} |"


def main(folder: Path, out: Path) -> None:
    """Print both tables and write the errors."""
    rows, near, farthest = [], [], []
    for table, by_arm in records(folder):
        for arm, record in by_arm.items():
            if isinstance(record, Refusal):
                print(f"{table}, {arm}: {record.sentence}")
                continue
            rows += [row(table, test) for test in record.backtests]
            near += near_lines(table, arm, record)
            farthest += worst_lines(table, arm, record)
    pl.DataFrame(rows).write_csv(out)
    print("\n".join(["", *near, "", *farthest]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
