"""Loss against size, one panel an arm: the runs of each budget with their parabola and its minimum."""

import textwrap

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.drawing import (
    FAINT,
    MARKERS,
    REFERENCE_LOOK,
    WARN,
    Reference,
    budget_colours,
    budget_handles,
    count_ticks,
    draw_reference_runs,
    error_bars,
    loss_name,
    plain_text,
    reasons_without_size,
)
from analysis.figures.layout import Sheet, legend_below, name_arm, say_instead, width_of
from analysis.frontier.study import Frontier, Study
from analysis.isoflop.parabola import Parabola
from analysis.report.text import params_label
from analysis.statistics.answers import Estimate, Refusal

PANEL_INCHES = (4.0, 3.4)
FAR_ABOVE = 1.6
"""The loss axis ends at the valley where the runs reach so many times as far up as the valley does."""


def plot_isoflop(study: Study, sheet: Sheet, reference: Reference | None = None) -> None:
    """Loss against N, one panel per arm and one colour per budget, and write it to every path (by its suffix).

    A parabola is solid over the sizes it was fitted to and dashed over the others; a star marks its minimum, with the
    interval of N* across it. Runs of a budget without a parabola are joined by a faint dashed line. Runs far above all
    parabolas are left out of the picture, and counted. Runs of a reference are open grey marks, joined by budget.
    """
    with sheet.style():
        frontiers = [frontier for frontier in study.frontiers if frontier.isoflops]
        budgets = sorted({isoflop.budget for frontier in frontiers for isoflop in frontier.isoflops}, key=int)
        colours = budget_colours(budgets)
        beside = min(3, max(1, len(frontiers)))
        figure, panels = sheet.panels(len(frontiers), beside, PANEL_INCHES, sharex=True, sharey=True)
        for axes, frontier in zip(panels, frontiers, strict=False):
            _draw_isoflop_panel(axes, study.points.of_arm(frontier.arm), frontier, colours)
            draw_reference_runs(axes, frontier.arm, reference)
        _finish_isoflop(figure, panels, frontiers, study, reference)
        handles = [*budget_handles(colours, markersize=4.5), _star_handle(study.settings.resampling.level)]
        if reference is not None:
            handles.append(Line2D([], [], **REFERENCE_LOOK, label=reference.name))
        if frontiers:
            legend_below(figure, handles, f"C  ({study.points.budget_convention} FLOPs)")
        sheet.save(figure)


def _draw_isoflop_panel(axes: Axes, runs: pl.DataFrame, frontier: Frontier, colours: dict[str, tuple]) -> None:
    axes.set_xscale("log")
    name_arm(axes, frontier.arm)
    for isoflop, optimum in zip(frontier.isoflops, frontier.optima, strict=True):
        of_budget = runs.filter(pl.col("budget") == isoflop.budget)
        colour = colours[isoflop.budget]
        marker = MARKERS[list(colours).index(isoflop.budget) % len(MARKERS)]
        axes.plot(
            of_budget["params"], of_budget["loss"], marker, color=colour, markersize=4, alpha=0.8, markeredgewidth=0
        )
        if isinstance(isoflop.params, Parabola):
            _draw_parabola(axes, isoflop.params, of_budget["params"].to_numpy(), colour)
            _draw_star(axes, isoflop.params, optimum.params, colour)
        else:
            means = of_budget.group_by("params").agg(pl.col("loss").mean()).sort("params")
            axes.plot(means["params"], means["loss"], "--", color=colour, linewidth=0.9, alpha=0.45)


def _draw_parabola(axes: Axes, parabola: Parabola, params: np.ndarray, colour: tuple) -> None:
    spans = (
        (params.min(), parabola.lowest, "--"),
        (parabola.lowest, parabola.highest, "-"),
        (parabola.highest, params.max(), "--"),
    )
    ceiling = parabola.loss(np.array([parabola.lowest, parabola.highest])).max() + 0.5
    for low, high, style in spans:
        if high > low * (1 + 1e-9):
            x = np.geomspace(low, high, 120)
            y = parabola.loss(x)
            axes.plot(x[y <= ceiling], y[y <= ceiling], style, color=colour, linewidth=1.3, alpha=0.9)


def _draw_star(axes: Axes, parabola: Parabola, answer: Estimate | Refusal, colour: tuple) -> None:
    if isinstance(answer, Refusal):
        return
    axes.errorbar(
        [answer.value],
        [parabola.minimum_loss],
        xerr=error_bars([answer]),
        fmt="*",
        color=colour,
        markersize=9,
        markeredgecolor="black",
        markeredgewidth=0.6,
        ecolor="black",
        elinewidth=1.1,
        capsize=2.5,
        zorder=5,
    )


def _finish_isoflop(
    figure: Figure, panels: list[Axes], frontiers: list[Frontier], study: Study, reference: Reference | None
) -> None:
    if not frontiers:
        say_instead(figure, "no points to draw")
        return
    shown = panels[: len(frontiers)]
    if reference is None:
        _end_at_the_valley(shown, frontiers, study)
    inches = width_of(shown[0])
    notes = [_why_not(frontier, int(17 * inches)) for frontier in frontiers]
    for axes, note in zip(shown, notes, strict=True):
        axes.text(0.02, 0.985, note, transform=axes.transAxes, va="top", fontsize=7, color=WARN, zorder=6)
    _leave_headroom(shown[0], max((note.count("\n") + 1 for note in notes if note), default=0))
    _format_counts_axis(shown)
    for axes in shown:
        if (place := axes.get_subplotspec()) is None or place.is_last_row() or axes is shown[-1]:
            axes.set_xlabel(f"N  ({plain_text(params_label(study))})")
    figure.supylabel(f"{loss_name(study)}  ({study.points.loss_unit})", fontsize=matplotlib.rcParams["axes.labelsize"])


def _end_at_the_valley(panels: list[Axes], frontiers: list[Frontier], study: Study) -> None:
    """Few runs far above all others would press the parabolas flat: the panels that lose some say how many."""
    tops = [
        float(parabola.loss(np.array([parabola.lowest, parabola.highest])).max())
        for frontier in frontiers
        for isoflop in frontier.isoflops
        if isinstance(parabola := isoflop.params, Parabola)
    ]
    if not tops:
        return
    losses = study.points.frame["loss"].to_numpy()
    lowest, highest = float(losses.min()), float(losses.max())
    if highest - lowest < FAR_ABOVE * (max(tops) - lowest):
        return
    ceiling = max(tops) + 0.1 * (max(tops) - lowest)
    panels[0].set_ylim(lowest - 0.05 * (ceiling - lowest), ceiling)
    for axes, frontier in zip(panels, frontiers, strict=True):
        above = study.points.frame.filter((pl.col("arm") == frontier.arm) & (pl.col("loss") > ceiling)).height
        if above:
            words = f"↑ {above} run{'s' * (above > 1)} above, to {highest:.3g}"
            axes.text(0.98, 0.985, words, transform=axes.transAxes, ha="right", va="top", fontsize=7, color=FAINT)


def _star_handle(level: float) -> Line2D:
    label = f"minimum and its {level:.0%} interval"
    return Line2D([], [], color="black", marker="*", markerfacecolor="white", markersize=10, label=label)


def _why_not(frontier: Frontier, characters: int) -> str:
    reasons = reasons_without_size(frontier)
    return "\n".join(textwrap.fill(reason, characters, subsequent_indent="   ") for reason in reasons)


def _leave_headroom(axes: Axes, num_lines: int) -> None:
    """Stretch the loss axis upwards so that lines of words sit above the points."""
    low, high = axes.get_ylim()
    share = min(0.6, 0.045 * num_lines + (0.03 if num_lines else 0.0))
    axes.set_ylim(low, low + (high - low) / (1 - share))


def _format_counts_axis(panels: list[Axes]) -> None:
    low, high = panels[0].get_xlim()
    for axes in panels:
        count_ticks(axes.xaxis, high / low)
        axes.tick_params(labelbottom=True)
