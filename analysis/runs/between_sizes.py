"""A quantity of an arm at any size: between the sizes trained it is a line in ln N."""

import numpy as np
import polars as pl


def at_size(runs: pl.DataFrame, quantity: pl.Expr, params: float) -> float:
    """`quantity`, an aggregation over the runs of one size, at a model of `params`.

    `runs` are those of one arm; beyond the sizes trained the nearest one stands in.
    """
    sizes = runs.group_by(pl.col("unique_params").cast(pl.Float64)).agg(quantity.alias("quantity"))
    sizes = sizes.sort("unique_params")
    return float(np.interp(np.log(params), np.log(sizes["unique_params"].to_numpy()), sizes["quantity"].to_numpy()))
