"""The paper's IsoFLOP study as a run table: Bae et al. 2025 (arXiv:2507.10524v3), Table 9, 36 cells.

Losses are the paper's validation negative log-likelihoods in nats/token, under top-k routing where there is any;
budgets count FLOPs as the paper does (`paper`: forward only, no LM head). Steps are what those budgets buy in batches
of 1024 sequences of 2048 tokens; they agree with the token counts that the paper prints. Parameters are those of the
shapes, which round to the printed ones. A routed token goes through 2 of 3 recursions on average
(capacities 1, 2/3, 1/3).
"""

from importlib import resources

import polars as pl

from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.runs.points import TableError
from analysis.statistics.bootstrap import Resampling
from mor_core.errors import Fix

TABLE = "paper_isoflop.csv"
CONVENTION = "paper"
NAME = "Bae et al. 2025"
SOURCE = "Bae et al. 2025 (arXiv:2507.10524v3, Table 9)"


def paper_runs() -> pl.DataFrame:
    """The 36 cells in the columns of a run table."""
    path = resources.files("analysis.frontier") / "reference" / TABLE
    return pl.read_csv(path.read_bytes(), schema_overrides={"budget": pl.Utf8}).with_columns(
        cell_id=pl.format("{}/{}/{}", "arm", "size", "budget"),
        trunk_id=pl.col("trunk"),
        status=pl.lit("finished"),
        reason=pl.lit(None, pl.Utf8),
        flags=pl.lit(""),
        budget_convention=pl.lit(CONVENTION),
        seed=pl.lit(0),
        loss_topk=pl.col("loss"),
    )


def paper_study(convention: str, approaches: tuple[str, ...] = ("parabola",)) -> Study:
    """What can be fitted from the paper's cells, to be drawn beside runs whose FLOPs are counted in `convention`.

    Raises:
        TableError: that convention is not the paper's.
    """
    if convention != CONVENTION:
        raise TableError(
            f"these budgets count {convention} FLOPs and the paper's count {CONVENTION} FLOPs: FLOPs counted "
            "differently are not comparable, so only a sweep with budget_convention = 'paper' can be drawn beside it.",
            fix=Fix(setting="paper"),
        )
    return fit_study(paper_runs(), FitSettings(approaches=approaches, resampling=Resampling()))
