"""What a token costs that a trained model serves, in FLOPs: a forward pass at the depths that its routers choose."""

import polars as pl

from analysis.statistics.quadratic import Floats
from analysis.surface.contour import Contour

FORWARD_SHARE = {"paper": 1.0}
"""Share of the forward pass in training FLOPs by convention; a third where the convention counts the backward pass."""


def depth_ratios(runs: pl.DataFrame) -> dict[str, float]:
    """By arm: FLOPs of a served token over those of a forward pass at the planned depths, from a run table.

    The median over an arm's cells, FLOPs exact on both sides; empty for a table that does not say. A routed arm goes on
    by thresholds when it serves, so that its depth is what it turns out to be.
    """
    if not {"forward_flops_per_token", "flops_exact", "tokens"} <= set(runs.columns):
        return {}
    planned = pl.col("flops_exact").cast(pl.Float64) / pl.col("tokens") / 3
    ratio = (pl.col("forward_flops_per_token") / planned).alias("ratio")
    ratios = runs.select("arm", ratio).drop_nulls().group_by("arm").agg(pl.col("ratio").median())
    return {arm: float(ratio) for arm, ratio in ratios.iter_rows()}


def served_token_flops(contour: Contour, convention: str, depth_ratio: float, params: Floats) -> Floats:
    """FLOPs of a served token at numbers of parameters (m,), where `contour` gives training FLOPs in `convention`."""
    return contour.flops_per_token(params) * FORWARD_SHARE.get(convention, 1 / 3) * depth_ratio
