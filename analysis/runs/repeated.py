"""The points of a run table with those that repeat their text, which no other fit uses."""

import polars as pl

from analysis.runs.points import read_points
from analysis.runs.quality import REPEATED

FLAG = "repeated-data"
"""What a sweep's own table calls such cells."""


def repeated_frame(
    table: pl.DataFrame, *, loss_column: str, leave_out_flags: tuple[str, ...], leave_out_cells: tuple[str, ...]
) -> pl.DataFrame | None:
    """`analysis.runs.points.Points.frame` of the rows whose passes over the text are known, with `epochs` and
    `unrolled_params` (null where the table does not say them) beside them; None where the table says nothing of passes.
    Raises as `read_points` does."""
    if "epochs" not in table.columns or table["epochs"].null_count() == table.height:
        return None
    status = pl.col("status")
    if "reason" in table.columns:
        again = pl.col("reason").cast(pl.Utf8).str.starts_with(REPEATED).fill_null(False)
        status = pl.when(again).then(pl.lit("finished")).otherwise(status)
    points = read_points(
        table.with_columns(status.alias("status")),
        loss_column=loss_column,
        leave_out_flags=tuple(flag for flag in leave_out_flags if flag != FLAG),
        leave_out_cells=leave_out_cells,
    )
    unrolled = pl.col("unrolled_params") if "unrolled_params" in table.columns else pl.lit(None)
    beside = table.select(
        "cell_id", pl.col("epochs").cast(pl.Float64), unrolled.cast(pl.Float64).alias("unrolled_params")
    )
    return points.frame.join(beside, on="cell_id", how="left", maintain_order="left").filter(
        pl.col("epochs").is_not_null()
    )
