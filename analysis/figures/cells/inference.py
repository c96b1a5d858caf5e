"""Figures of inference: speed against loss, a text's loss by position and by depth, and where depth goes."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.drawing import ARM_COLOURS, FAINT, MARKERS, arm_style
from analysis.figures.layout import Sheet, legend_below


def plot_throughput(speeds: pl.DataFrame, sheet: Sheet) -> None:
    """Tokens per second over vanilla's, with the span of the rounds, against the loss (paper, Figure 4a). Columns: arm,
    batch, ratio, lowest, highest, loss."""
    with sheet.style():
        figure = Figure(figsize=(4.6, 3.4), layout="constrained")
        axes = figure.subplots()
        arms = speeds["arm"].unique(maintain_order=True).to_list()
        colour_of = {arm: arm_style(sorted(arms), arm)[0] for arm in arms}
        for batch, marker in zip(speeds["batch"].unique(maintain_order=True), MARKERS, strict=False):
            rows = speeds.filter(pl.col("batch") == batch)
            colours = [colour_of[arm] for arm in rows["arm"]]
            for row, colour in zip(rows.iter_rows(named=True), colours, strict=True):
                span = [row["lowest"], row["highest"]]
                axes.plot(span, [row["loss"]] * 2, "|-", color=colour, linewidth=1.0, markersize=5, zorder=3)
            axes.scatter(rows["ratio"], rows["loss"], c=colours, marker=marker, s=36, zorder=2)
            axes.scatter([], [], c="#777777", marker=marker, s=36, label=f"batch {batch}")
        for arm, colour in colour_of.items():
            axes.scatter([], [], c=colour, marker="s", s=20, label=arm)
        axes.set(xlabel="tokens/s over vanilla's at the same batch", ylabel="causal loss (nats/token), lower is better")
        axes.axvline(1.0, color=FAINT, linewidth=0.8, linestyle=":", zorder=1)
        legend_below(figure, axes.get_legend_handles_labels()[0])
        sheet.save(figure)


def plot_depth(rows: pl.DataFrame, title: str, sheet: Sheet) -> None:
    """Loss and speed against the deepest recursion (paper, Figure 5c). Columns: max_depth, loss, tokens_per_second."""
    with sheet.style():
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        loss, speed = figure.subplots(1, 2)
        for axes, column, label in (
            (loss, "loss", "loss (nats/token)"),
            (speed, "tokens_per_second", "generated tokens/s"),
        ):
            axes.plot(rows["max_depth"], rows[column], "o-", color=ARM_COLOURS[0])
            axes.set(xlabel="deepest recursion", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        speed.set_ylim(0, 1.07 * max(rows["tokens_per_second"]))  # Whole markers, from nothing.
        figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, fontweight="bold")
        sheet.save(figure)


def plot_routing(
    positions: pl.DataFrame,
    classes: pl.DataFrame,
    histograms: Sequence[Sequence[float]],
    title: str,
    sheet: Sheet,
) -> None:
    """Depth by position and by class, and how sure routers are. Columns: position or token_class, mean_depth."""
    with sheet.style():
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        place, kind, sure = figure.subplots(1, 3)
        place.step(positions["position"], positions["mean_depth"], where="post", color=ARM_COLOURS[0])
        place.set(xlabel="position in the window", ylabel="mean depth (recursions)", ylim=(1, None))
        shown = classes.reverse()
        kind.barh(shown["token_class"], shown["mean_depth"] - 1, left=1, color=ARM_COLOURS[0])
        kind.set_xlabel("mean depth (recursions)")
        _draw_histograms(sure, histograms)
        figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, fontweight="bold")
        sheet.save(figure)


def _draw_histograms(axes: Axes, histograms: Sequence[Sequence[float]]) -> None:
    axes.set(xlabel="router probability", ylabel="share of tokens")
    if not histograms:
        axes.text(0.5, 0.5, "no router", transform=axes.transAxes, ha="center")
    for index, shares in enumerate(histograms):
        edges = np.linspace(0.0, 1.0, len(shares) + 1)
        axes.stairs(list(shares), edges, color=ARM_COLOURS[index % len(ARM_COLOURS)], label=f"recursion {index + 1}")
    if histograms:
        axes.set_yscale("log")
        axes.legend()


def plot_text_loss(positions: pl.DataFrame, depths: pl.DataFrame, title: str, sheet: Sheet) -> None:
    """One line a routing rule. Columns: rule, loss, and position or depth with share."""
    with sheet.style():
        figure = Figure(figsize=(6.8, 2.9), layout="constrained")
        place, deep = figure.subplots(1, 2)
        rules = positions["rule"].unique(maintain_order=True)
        for rule, colour, marker in zip(rules, ARM_COLOURS, MARKERS, strict=False):
            of_rule = positions.filter(pl.col("rule") == rule)
            place.step(of_rule["position"], of_rule["loss"], where="post", color=colour, label=rule)
            of_rule = depths.filter(pl.col("rule") == rule)
            deep.plot(of_rule["depth"], of_rule["loss"], color=colour, linewidth=0.8)
            deep.scatter(
                of_rule["depth"], of_rule["loss"], s=(of_rule["share"] * 160 + 4).to_list(), color=colour, marker=marker
            )
        place.set(xlabel="position in the window (tokens)", ylabel="loss (nats/token)")
        place.legend()
        deep.set(xlabel="recursions of the predicting token\n(area: share of tokens)", ylabel="loss (nats/token)")
        deep.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, fontweight="bold")
        sheet.save(figure)
