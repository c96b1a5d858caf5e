"""Loss against size, one panel an arm: the runs of each budget with their parabola and its minimum."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.drawing import (
    MARKERS,
    REFERENCE_LOOK,
    STYLE,
    WARN,
    Reference,
    budget_colours,
    count_ticks,
    draw_reference_runs,
    grouped_reasons,
    plain_text,
    save,
)
from analysis.frontier.study import Frontier, Study
from analysis.isoflop.approach import Isoflop
from analysis.isoflop.parabola import Parabola
from analysis.report.provenance import Provenance
from analysis.report.text import params_label
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from mor_core.units import budget_label

PANEL_INCHES = (3.5, 3.1)


def plot_isoflop(
    study: Study, out_paths: Iterable[Path], provenance: Provenance | None = None, reference: Reference | None = None
) -> None:
    """Loss against N, one panel per arm and one colour per budget, and write it to every path (by its suffix).

    A parabola is solid over the sizes it was fitted to and dashed over the others; a star marks its minimum, with the
    interval of N* across it. Runs of a reference are open grey marks, joined by budget.
    """
    with matplotlib.rc_context(STYLE):
        frontiers = [frontier for frontier in study.frontiers if frontier.isoflops]
        budgets = sorted({isoflop.budget for frontier in frontiers for isoflop in frontier.isoflops}, key=int)
        colours = budget_colours(budgets)
        columns = min(3, max(1, len(frontiers)))
        rows = max(1, -(-len(frontiers) // columns))
        figure = Figure(figsize=(PANEL_INCHES[0] * columns + 1.3, PANEL_INCHES[1] * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, frontier in zip(panels.flat, frontiers, strict=False):
            _draw_isoflop_panel(axes, study.points.frame, frontier, colours)
            draw_reference_runs(axes, frontier.arm, reference)
        _finish_isoflop(figure, list(panels.flat), frontiers, study, colours, reference)
        save(figure, out_paths, provenance)


def _draw_isoflop_panel(axes: Axes, frame: pl.DataFrame, frontier: Frontier, colours: dict[str, tuple]) -> None:
    axes.set_xscale("log")
    axes.set_title(frontier.arm, loc="left", fontweight="bold")
    mine = frame.filter(pl.col("arm") == frontier.arm)
    for isoflop, optimum in zip(frontier.isoflops, frontier.optima, strict=True):
        here = mine.filter(pl.col("budget") == isoflop.budget)
        colour = colours[isoflop.budget]
        marker = MARKERS[list(colours).index(isoflop.budget) % len(MARKERS)]
        axes.plot(here["params"], here["loss"], marker, color=colour, markersize=4, alpha=0.8, markeredgewidth=0)
        if isinstance(isoflop.params, Parabola):
            _draw_parabola(axes, isoflop.params, here["params"].to_numpy(), colour)
            _draw_star(axes, isoflop.params, optimum.params, colour)


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
    reach = [[answer.value - answer.low], [answer.high - answer.value]]
    axes.errorbar(
        [answer.value],
        [parabola.minimum_loss],
        xerr=np.maximum(reach, 0.0),
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
    figure: Figure,
    panels: list[Axes],
    frontiers: list[Frontier],
    study: Study,
    colours: dict[str, tuple],
    reference: Reference | None,
) -> None:
    notes = [_wrapped_refusals(_isoflop_refusals(frontier.isoflops, frontier), 52) for frontier in frontiers]
    room = max((note.count("\n") + 1 for note in notes if note), default=0)
    for axes, note in zip(panels, notes, strict=False):
        axes.text(0.02, 0.985, note, transform=axes.transAxes, va="top", fontsize=7, color=WARN, zorder=6)
    for axes in panels[len(frontiers) :]:
        axes.set_visible(False)
    if not frontiers:
        panels[0].set_visible(False)
        figure.supylabel("")
        figure.text(0.5, 0.5, "no points to draw", ha="center", va="center", color=WARN)
        return
    _leave_headroom(panels[0], room)
    _format_counts_axis(panels[: len(frontiers)])
    columns = min(3, len(frontiers))
    for axes in panels[max(0, len(frontiers) - columns) : len(frontiers)]:
        axes.set_xlabel(f"N  ({plain_text(params_label(study))})")
    figure.supylabel(f"{study.points.loss_column}  ({study.points.loss_unit})", fontsize=9)
    handles = [
        Line2D([], [], color=colour, marker=MARKERS[index % len(MARKERS)], markersize=4.5, label=budget_label(budget))
        for index, (budget, colour) in enumerate(colours.items())
    ]
    handles.append(_star_handle(study.settings.resampling.level))
    if reference is not None:
        handles.append(Line2D([], [], **REFERENCE_LOOK, label=reference.name))
    title = f"C  ({study.points.budget_convention} FLOPs)"
    figure.legend(handles=handles, loc="outside right upper", title=title, title_fontsize=8)


def _star_handle(level: float) -> Line2D:
    label = f"minimum and its\n{level:.0%} interval"
    return Line2D([], [], color="black", marker="*", markerfacecolor="white", markersize=10, label=label)


def _isoflop_refusals(isoflops: Sequence[Isoflop], frontier: Frontier) -> list[tuple[str, RefusalKind]]:
    found = []
    for isoflop, optimum in zip(isoflops, frontier.optima, strict=True):
        for answer in (isoflop.params, optimum.params):
            if isinstance(answer, Refusal):
                found.append((isoflop.budget, answer.kind))
                break
    return found


def _wrapped_refusals(refusals: list[tuple[str, RefusalKind]], width: int) -> str:
    lines = [textwrap.fill(line, width, subsequent_indent="   ") for line in grouped_reasons(refusals)]
    return "\n".join(lines)


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
