"""What the search of shapes found, as files: `python -m bench.small_models.ladder_figure OUT FOLDER`.

Reads the OUT/trials.jsonl that `bench.small_models.ladder` wrote; writes FOLDER/trials.csv (one row a trial and
budget), shapes.png and shapes.svg, and prints the tables: shapes, factors, and the trials with more seeds.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl

from analysis.figures.drawing import ARM_COLOURS, MARKERS, STYLE
from mor_core.units import budget_label, short_count

SETTING = ["recursions", "budget", "layers", "width", "heads", "batch", "init"]
"""What tells one setting from another; its rate is tuned, and seeds repeat it."""
DEPTHS = {"recursions": 1, "heads": 2, "batch": 8, "init": "constant", "seed": 0}
"""The trials of the search over depth and width."""
SIZES = (12_000, 35_000, 100_000, 250_000)


def trials(path: Path) -> pl.DataFrame:
    """One row a trial and budget, without the losses of single windows."""
    rows = [row for line in path.read_text().splitlines() for row in json.loads(line)["rows"]]
    plain_rows = [
        {name: value for name, value in row.items() if not name.startswith("windows_") and name != "budgets"}
        for row in rows
    ]
    return pl.DataFrame(plain_rows, infer_schema_length=None).drop("seconds").sort(*SETTING, "seed", "rate")


def best_rates(frame: pl.DataFrame) -> pl.DataFrame:
    """Of each setting the first seed's trial at the rate that lost least, with how many rates were tried."""
    first = frame.filter((pl.col("seed") == 0) & (pl.col("order") == 0) & pl.col("loss").is_not_null())
    counts = first.group_by(SETTING).agg(pl.len().alias("rates"))
    return first.sort("loss").unique(SETTING, keep="first").join(counts, on=SETTING).sort(SETTING)


def repeated(frame: pl.DataFrame) -> pl.DataFrame:
    """Settings with several seeds at one rate: mean, deviation, number."""
    losses = pl.col("loss")
    groups = frame.group_by([*SETTING, "rate"]).agg(
        losses.mean().alias("mean"), losses.std().alias("deviation"), losses.len().alias("seeds")
    )
    return groups.filter(pl.col("seeds") > 2).sort(SETTING)


def size_of(params: int) -> int:
    """The size of the search that a shape stands for."""
    return min(SIZES, key=lambda size: abs(np.log(params / size)))


def draw(frame: pl.DataFrame, folder: Path) -> None:
    """Left: loss by depth at tuned rates, less the best depth's. Right: loss by rate, at one size."""
    shapes = frame.filter(**DEPTHS).filter(pl.col("rate_step") == pl.col("rate_step").round())
    best = best_rates(shapes).with_columns(
        pl.col("unique_params").map_elements(size_of, return_dtype=pl.Int64).alias("nominal")
    )
    with plt.rc_context(STYLE):
        figure, (by_depth, by_rate) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        for (nominal,), rows in best.group_by("nominal", maintain_order=True):
            place = SIZES.index(int(str(nominal)))
            budget = budget_label(str(rows["budget"][0]))
            by_depth.plot(
                rows["layers"],
                rows["loss"] - rows["loss"].min(),
                color=ARM_COLOURS[place],
                marker=MARKERS[place],
                label=f"{short_count(SIZES[place])} at {budget}",
            )
        by_depth.set(xlabel="layers", ylabel="loss above the best depth's (nats/token)", title="Depth, at tuned rates")
        by_depth.legend()
        middle = shapes.filter(pl.col("budget") == 80_000_000_000)
        for place, ((layers,), rows) in enumerate(middle.group_by("layers", maintain_order=True)):
            by_rate.plot(
                rows["rate"], rows["loss"], color=ARM_COLOURS[place], marker=MARKERS[place], label=f"{layers} layers"
            )
        by_rate.set(xscale="log", xlabel="peak learning rate", title="35k at 8e10 FLOPs, by depth and rate")
        by_rate.set_ylabel("loss (nats/token)")
        by_rate.legend()
        for ending in ("png", "svg"):
            figure.savefig(folder / f"shapes.{ending}", dpi=150, metadata={"Date": None} if ending == "svg" else None)


def main(out: Path, folder: Path) -> None:
    """See the module."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = trials(out / "trials.jsonl")
    frame.write_csv(folder / "trials.csv", float_precision=6)
    draw(frame, folder)
    print(f"{len(frame)} cells of {frame['unique_params'].len()} rows")
    with pl.Config(
        tbl_rows=200, tbl_cols=20, tbl_formatting="MARKDOWN", tbl_hide_column_data_types=True, tbl_width_chars=200
    ):
        print(best_rates(frame).select(*SETTING, "unique_params", "rates", "rate", "loss"))
        print(repeated(frame))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
