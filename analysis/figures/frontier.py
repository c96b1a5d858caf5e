"""The frontier: N*, D* and L* of every arm against compute. A refused number is never drawn: the figure says in words
why it is missing."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from analysis.figures.drawing import (
    REASONS,
    WARN,
    Reference,
    budget_ticks,
    count_ticks,
    draw_estimates,
    draw_reference_optima,
    plain_text,
    reasons_without_size,
    shortened,
    style_at,
)
from analysis.figures.layout import Sheet, width_of, write_below
from analysis.frontier.study import Frontier, Study
from analysis.report.text import EXPONENTS, caveat_of, params_label
from analysis.statistics.answers import Refusal
from analysis.statistics.approach import QUANTITIES, SYMBOLS
from analysis.statistics.power_law import FittedPowerLaw

PANEL_INCHES = (4.0, 3.9)
ROW_INCHES = 0.19
"""Of the legend below the frontier."""
CHARACTERS_PER_INCH = 14.0
"""That fit beside each other in the legend of the frontier, less what its columns are apart."""
FOOTER_CHARACTERS = 13.7
"""Of the lines below the legend, for each inch of the figure."""
SHORTEST_NAME = 24
SLOPES = {
    "params": f"{EXPONENTS['params']} of N*",
    "tokens": f"{EXPONENTS['tokens']} of D*",
    "loss": "local slope of L*",
}
LABELS = {
    "params": "N*",
    "tokens": "D*  (tokens)",
    "loss": "L*  ({unit})",
}


def plot_frontier(study: Study, sheet: Sheet, reference: Reference | None = None) -> None:
    """N*(C), D*(C) and L*(C), every arm with intervals and power laws, written to every path (by its suffix).

    Optima of a reference are open marks in the colour of their arm.
    """
    with sheet.style():
        columns, wide, high = sheet.grid(len(QUANTITIES), PANEL_INCHES)
        rows = len(QUANTITIES) // columns
        num_lines = 1 + len(study.frontiers) + (len(reference.study.frontiers) if reference else 0)
        # Beside each other, the exponents stand in columns; on a narrow sheet, below each other.
        legend = ROW_INCHES * num_lines * (1 if rows == 1 else len(QUANTITIES))
        figure = Figure(figsize=(wide * columns, high * rows + legend), layout="constrained")
        grid = figure.add_gridspec(rows + 1, columns, height_ratios=[*[high] * rows, legend])
        references: dict[object, Line2D] = {}
        for place, quantity in enumerate(QUANTITIES):
            axes = figure.add_subplot(grid[place // columns, place % columns])
            drawn = _draw_frontier_panel(axes, quantity, study, reference)
            references |= {handle.get_label(): handle for handle in drawn}
        _write_exponents(figure.add_subplot(grid[rows, :]), study, list(references.values()), stacked=rows > 1)
        if footer := "\n".join(_footer(study, int(FOOTER_CHARACTERS * wide * columns))):
            write_below(figure, plain_text(footer), fontsize=7.5, color=WARN, linespacing=1.4)
        sheet.save(figure)


def _draw_frontier_panel(axes: Axes, quantity: str, study: Study, reference: Reference | None) -> list[Line2D]:
    """Returns what the legend shows of the reference."""
    axes.set(xscale="log", yscale="linear" if quantity == "loss" else "log")
    frontiers = study.frontiers
    for index, frontier in enumerate(frontiers):
        colour, marker = style_at(index)
        # Side by side, so that intervals at one budget stay readable; losses are apart already.
        dodge = 1 + (0.025 if quantity != "loss" else 0.0) * (index - (len(frontiers) - 1) / 2)
        if estimates := frontier.estimates(quantity):
            draw_estimates(
                axes, estimates, dodge, fmt=marker, color=colour, markersize=5, elinewidth=1.1, capsize=2.5,
                markeredgecolor="white", markeredgewidth=0.5, zorder=4,
            )  # fmt: skip
        _draw_law(axes, getattr(frontier, f"{quantity}_law"), colour)
    budgets = [int(optimum.budget) for frontier in frontiers for optimum in frontier.optima]
    handles: list[Line2D] = []
    if reference is not None:
        handles = draw_reference_optima(axes, quantity, study, reference)
        budgets += [int(optimum.budget) for frontier in reference.study.frontiers for optimum in frontier.optima]
    _finish_frontier_panel(axes, quantity, study, sorted(set(budgets)))
    return handles


def _write_exponents(axes: Axes, study: Study, references: Sequence[Line2D], *, stacked: bool) -> None:
    """The one legend of the figure, which is a table: an arm a row, its exponents in columns, or `stacked` below each
    other."""
    level = f"{study.settings.resampling.level:.0%}"
    arms = [_frontier_handle(*place) for place in enumerate(study.frontiers)]
    tables = [[f"{symbol} [{level} interval]", *_exponents(study, quantity)] for quantity, symbol in SLOPES.items()]
    characters = int(CHARACTERS_PER_INCH * width_of(axes))
    reserved = (
        max(len(text) for column in tables for text in column)
        if stacked
        else sum(max(map(len, column)) for column in tables)
    )
    most = max(SHORTEST_NAME, characters - reserved)
    names = [plain_text(shortened(name, most)) for name in _frontier_names(study)]
    beside = [plain_text(shortened(str(handle.get_label()), most)) for handle in references]
    blank = Line2D([], [], linestyle="")
    if stacked:
        handles = [handle for _ in tables for handle in [blank, *arms]] + list(references)
        left = [name for _ in tables for name in ["", *names]] + beside
        right = [text for column in tables for text in column] + [""] * len(references)
        columns = [left, right]
    else:
        handles = [blank, *arms, *references]
        columns = [["", *names, *beside], *([*column, *[""] * len(references)] for column in tables)]
    labels = [label for column in columns for label in column]
    axes.set_axis_off()
    axes.legend(
        handles=handles + [blank] * (len(labels) - len(handles)),
        labels=labels,
        loc="center",
        borderaxespad=0.0,
        ncols=len(columns),
        handlelength=2.2,
        columnspacing=0.5,
    )


def _frontier_handle(index: int, frontier: Frontier) -> Line2D:
    colour, marker = style_at(index)
    has_law = any(isinstance(getattr(frontier, f"{name}_law"), FittedPowerLaw) for name in QUANTITIES)
    return Line2D(
        [], [], color=colour, marker="" if frontier.refused else marker, linestyle="-" if has_law else "", markersize=5
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


def _draw_law(axes: Axes, law: FittedPowerLaw | Refusal, colour: str) -> None:
    if isinstance(law, Refusal):
        return
    flops = np.geomspace(float(law.budgets[0]), float(law.budgets[-1]), 60)
    low, high = law.band(flops)
    axes.plot(flops, law.law(flops), color=colour, linewidth=1.4, zorder=3)
    axes.fill_between(flops, low, high, color=colour, alpha=0.12, linewidth=0, zorder=2)


def _finish_frontier_panel(axes: Axes, quantity: str, study: Study, budgets: list[int]) -> None:
    axes.set_title(f"{SYMBOLS[quantity]} against compute", loc="left", fontweight="bold")
    counted = f"  ({plain_text(params_label(study))})" if quantity == "params" else ""
    label = LABELS[quantity].format(unit=study.points.loss_unit) + counted
    axes.set(xlabel=f"C  ({study.points.budget_convention} training FLOPs)", ylabel=label)
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


def _footer(study: Study, characters: int) -> Iterator[str]:
    for frontier in study.frontiers:
        if reasons := reasons_without_size(frontier):
            yield textwrap.fill(f"No N* for {frontier.arm} at {'; '.join(reasons)}.", characters)
    if caveat := caveat_of(study):
        yield textwrap.fill(caveat, characters)
