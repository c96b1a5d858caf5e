"""One function per figure. A refused number is never drawn: the figure says in words why it is missing."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from analysis.drawing import (
    ARM_COLOURS,
    MARKERS,
    REASONS,
    STYLE,
    WARN,
    budget_colours,
    budget_ticks,
    count_ticks,
    grouped_reasons,
    plain_text,
    save,
    shortened,
    write_below,
)
from analysis.estimate import Estimate, Refusal, RefusalKind
from analysis.frontier import Frontier, Study
from analysis.isoflop import Isoflop
from analysis.parabola import Parabola
from analysis.power_law import FittedPowerLaw
from analysis.provenance import Provenance
from analysis.reference_marks import REFERENCE_LOOK, Reference, draw_reference_optima, draw_reference_runs
from analysis.report import EXPONENTS, QUANTITIES, caveat_of
from mor_core.units import budget_label

PANEL_INCHES = (3.5, 3.1)
FRONTIER_INCHES = (12.0, 3.9)
ROW_INCHES = 0.19
"""Of the legend below the frontier."""
LEGEND_CHARACTERS = 130
"""That fit beside each other in the legend of the frontier, less what its columns are apart."""
SHORTEST_NAME = 24
SLOPES = {
    "params": f"{EXPONENTS['params']} of N*",
    "tokens": f"{EXPONENTS['tokens']} of D*",
    "loss": "local slope of L*",
}
LABELS = {
    "params": "N*  (unique non-embedding parameters)",
    "tokens": "D*  (tokens)",
    "loss": "L*  (nats/token)",
}


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
        axes.set_xlabel("N  (unique non-embedding parameters)")
    figure.supylabel(f"{study.points.loss_column}  (nats/token)", fontsize=9)
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


def plot_frontier(
    study: Study, out_paths: Iterable[Path], provenance: Provenance | None = None, reference: Reference | None = None
) -> None:
    """N*(C), D*(C) and L*(C), every arm with intervals and power laws, written to every path (by its suffix).

    Optima of a reference are open marks in the colour of their arm.
    """
    with matplotlib.rc_context(STYLE):
        rows = 1 + len(study.frontiers) + (len(reference.study.frontiers) if reference else 0)
        heights = (FRONTIER_INCHES[1], ROW_INCHES * rows)
        figure = Figure(figsize=(FRONTIER_INCHES[0], sum(heights)), layout="constrained")
        grid = figure.add_gridspec(2, 3, height_ratios=heights)
        references: dict[object, Line2D] = {}
        for column, quantity in enumerate(QUANTITIES):
            drawn = _draw_frontier_panel(figure.add_subplot(grid[0, column]), quantity, study, reference)
            references |= {handle.get_label(): handle for handle in drawn}
        _write_exponents(figure.add_subplot(grid[1, :]), study, list(references.values()))
        if footer := _footer(study):
            write_below(figure, plain_text(footer), fontsize=7.5, color=WARN, linespacing=1.4)
        save(figure, out_paths, provenance)


def _draw_frontier_panel(axes: Axes, quantity: str, study: Study, reference: Reference | None) -> list[Line2D]:
    """Returns what the legend shows of the reference."""
    axes.set_xscale("log")
    if quantity != "loss":
        axes.set_yscale("log")
    frontiers = study.frontiers
    for index, frontier in enumerate(frontiers):
        colour, marker = _frontier_look(index)
        # Side by side, so that intervals at one budget stay readable; losses are apart already.
        dodge = 1 + (0.025 if quantity != "loss" else 0.0) * (index - (len(frontiers) - 1) / 2)
        _draw_optima(axes, quantity, frontier, colour, marker, dodge)
        _draw_law(axes, getattr(frontier, f"{quantity}_law"), colour)
    budgets = [int(optimum.budget) for frontier in frontiers for optimum in frontier.optima]
    handles: list[Line2D] = []
    if reference is not None:
        handles = draw_reference_optima(axes, quantity, study, reference)
        budgets += [int(optimum.budget) for frontier in reference.study.frontiers for optimum in frontier.optima]
    _finish_frontier_panel(axes, quantity, study, sorted(set(budgets)))
    return handles


def _frontier_look(index: int) -> tuple[str, str]:
    """Colour and marker of a frontier by its place."""
    return ARM_COLOURS[index % len(ARM_COLOURS)], MARKERS[index % len(MARKERS)]


def _write_exponents(axes: Axes, study: Study, references: Sequence[Line2D]) -> None:
    """The one legend of the figure, which is a table: an arm a row, its exponents in columns."""
    level = f"{study.settings.resampling.level:.0%}"
    blank = Line2D([], [], linestyle="")
    handles: list[Line2D] = [blank, *(_frontier_handle(*place) for place in enumerate(study.frontiers)), *references]
    columns = [[f"{symbol} [{level} interval]", *_exponents(study, quantity)] for quantity, symbol in SLOPES.items()]
    room = LEGEND_CHARACTERS - sum(max(map(len, column)) for column in columns)
    names = ["", *_frontier_names(study), *(str(handle.get_label()) for handle in references)]
    labels = [shortened(name, max(SHORTEST_NAME, room)) for name in names]
    for column in columns:
        labels += column + [""] * len(references)
    axes.set_axis_off()
    axes.legend(
        handles=handles + [blank] * (len(labels) - len(handles)),
        labels=[plain_text(label) for label in labels],
        loc="center",
        borderaxespad=0.0,
        ncols=1 + len(columns),
        handlelength=2.2,
        columnspacing=0.5,
    )


def _frontier_handle(index: int, frontier: Frontier) -> Line2D:
    colour, marker = _frontier_look(index)
    has_optimum = any(isinstance(getattr(each, name), Estimate) for each in frontier.optima for name in QUANTITIES)
    has_law = any(isinstance(getattr(frontier, f"{name}_law"), FittedPowerLaw) for name in QUANTITIES)
    return Line2D(
        [], [], color=colour, marker=marker if has_optimum else "", linestyle="-" if has_law else "", markersize=5
    )


def _frontier_names(study: Study) -> list[str]:
    """The arms, with the approach where there are several of one arm."""
    if len(study.settings.approaches) == 1:
        return [frontier.arm for frontier in study.frontiers]
    return [f"{frontier.arm} ({frontier.approach})" for frontier in study.frontiers]


def _exponents(study: Study, quantity: str) -> list[str]:
    """One text for each frontier."""
    laws = (getattr(frontier, f"{quantity}_law") for frontier in study.frontiers)
    return [
        f"none: {REASONS[law.kind]}"
        if isinstance(law, Refusal)
        else f"{law.exponent.value:.3f} [{law.exponent.low:.3f}, {law.exponent.high:.3f}]"
        for law in laws
    ]


def _draw_optima(axes: Axes, quantity: str, frontier: Frontier, colour: str, marker: str, dodge: float) -> None:
    answers = [(float(optimum.budget), getattr(optimum, quantity)) for optimum in frontier.optima]
    given = [(flops, answer) for flops, answer in answers if isinstance(answer, Estimate)]
    if not given:
        return
    value = np.array([answer.value for _, answer in given])
    low = np.array([answer.low for _, answer in given])
    high = np.array([answer.high for _, answer in given])
    axes.errorbar(
        np.array([flops for flops, _ in given]) * dodge,
        value,
        yerr=np.maximum([value - low, high - value], 0.0),
        fmt=marker,
        color=colour,
        markersize=5,
        elinewidth=1.1,
        capsize=2.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        zorder=4,
    )


def _draw_law(axes: Axes, law: FittedPowerLaw | Refusal, colour: str) -> None:
    if isinstance(law, Refusal):
        return
    flops = np.geomspace(float(law.budgets[0]), float(law.budgets[-1]), 60)
    low, high = law.band(flops)
    axes.plot(flops, law.law(flops), color=colour, linewidth=1.4, zorder=3)
    axes.fill_between(flops, low, high, color=colour, alpha=0.12, linewidth=0, zorder=2)


def _finish_frontier_panel(axes: Axes, quantity: str, study: Study, budgets: list[int]) -> None:
    axes.set_title(f"{quantity_symbol(quantity)} against compute", loc="left", fontweight="bold")
    axes.set_xlabel(f"C  ({study.points.budget_convention} training FLOPs)")
    axes.set_ylabel(LABELS[quantity])
    if budgets:
        axes.set_xlim(budgets[0] / 1.5, budgets[-1] * 1.5)
        budget_ticks(axes, budgets)
    if not axes.containers:
        axes.text(0.5, 0.5, "no optimum supported\nby these runs", transform=axes.transAxes, ha="center", color=WARN)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.yaxis.set_minor_locator(NullLocator())
    elif quantity != "loss":
        low, high = axes.get_ylim()
        count_ticks(axes.yaxis, high / low)


def quantity_symbol(quantity: str) -> str:
    """N*, D* or L*."""
    return LABELS[quantity].split()[0]


def _footer(study: Study) -> str:
    lines = []
    for frontier in study.frontiers:
        refusals = [
            (optimum.budget, optimum.params.kind) for optimum in frontier.optima if isinstance(optimum.params, Refusal)
        ]
        if refusals:
            lines.append(textwrap.fill(f"No N* for {frontier.arm} at {'; '.join(grouped_reasons(refusals))}.", 165))
    caveat = caveat_of(study)
    return "\n".join([*lines, *([caveat] if caveat else [])])
