"""Figures of a text's loss: by position in the window, and by the depth of the token that predicts."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.drawing import ARM_COLOURS, MARKERS, STYLE, save


def plot_text_loss(positions: pl.DataFrame, depths: pl.DataFrame, title: str, out_paths: Iterable[Path]) -> None:
    """One line a routing rule. Columns: rule, loss, and position or depth with share."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 2.9), layout="constrained")
        place, deep = figure.subplots(1, 2)
        rules = positions["rule"].unique(maintain_order=True)
        for rule, colour, marker in zip(rules, ARM_COLOURS, MARKERS, strict=False):
            own = positions.filter(pl.col("rule") == rule)
            place.step(own["position"], own["loss"], where="post", color=colour, label=rule)
            own = depths.filter(pl.col("rule") == rule)
            deep.plot(own["depth"], own["loss"], color=colour, linewidth=0.8)
            deep.scatter(own["depth"], own["loss"], s=(own["share"] * 160 + 4).to_list(), color=colour, marker=marker)
        place.set_xlabel("position in the window (tokens)")
        place.set_ylabel("loss (nats/token)")
        place.legend()
        deep.set_xlabel("recursions of the predicting token\n(area: share of tokens)")
        deep.set_ylabel("loss (nats/token)")
        deep.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, fontweight="bold")
        save(figure, out_paths)
