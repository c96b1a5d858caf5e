"""What the figures share: colours, markers, ticks, the words for refusals and losses, and another study drawn faintly
behind one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from analysis.frontier.study import Frontier, Study
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from mor_core.units import budget_label, short_count

# Seaborn's colours for the common kinds of colour blindness, the strongest first; its yellow and its pink are left out
# (too pale on white).
ARM_COLOURS = tuple(seaborn.color_palette("colorblind").as_hex()[place] for place in (0, 3, 2, 4, 7, 1, 9))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    **seaborn.plotting_context("paper"),
    **seaborn.axes_style("ticks"),
    "font.family": ["DejaVu Sans"],  # It comes with matplotlib, so that figures are the same everywhere.
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "svg.hashsalt": "mor-sweep",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}
WARN = "#8a1c1c"
FAINT = "#666666"
TICK_CHARACTER_INCHES = 0.075
"""Width of a digit beside an axis."""
REASONS = {
    RefusalKind.TOO_FEW_SIZES: "too few sizes",
    RefusalKind.OUTLIER: "one run is an outlier",
    RefusalKind.NOT_CONVEX: "parabola opens downwards",
    RefusalKind.MINIMUM_AT_EDGE: "minimum at the edge of the sizes",
    RefusalKind.NOISE_UNKNOWN: "too few points to know the noise",
    RefusalKind.CURVATURE_NOT_SIGNIFICANT: "curvature not distinguishable from zero",
    RefusalKind.UNSTABLE_MINIMUM: "minimum not stable under redrawing",
    RefusalKind.TOO_FEW_BUDGETS: "too few optima",
    RefusalKind.NO_OPTIMUM: "no supported optimum",
    RefusalKind.TOO_FEW_POINTS: "too few runs for a surface",
    RefusalKind.NOT_IDENTIFIED: "parameters not identified by these runs",
    RefusalKind.DOES_NOT_FIT: "the law does not describe these runs",
    RefusalKind.EXTRAPOLATION: "too far beyond the budgets measured",
    RefusalKind.NOT_COOLED: "the runs are not cooled down",
    RefusalKind.NO_CANDIDATE: "no cell to train that would help",
    RefusalKind.CONSTANT_COLUMN: "a column that does not vary",
    RefusalKind.AT_CHANCE: "at chance",
    RefusalKind.NOT_MONOTONE: "score does not rise steadily",
    RefusalKind.RANGE_NOT_REACHED: "too little of the curve covered",
}


LOSS_NAMES = {
    "loss": "causal loss",
    "loss_topk": "top-k loss (looks ahead)",
    "loss_half": "loss by the rule of one half",
}


def loss_name(study: Study) -> str:
    """What a figure calls the loss: of this tool's runs how they were routed; of a foreign table its column."""
    column = study.points.loss_column
    return column if study.reading is not None else LOSS_NAMES.get(column, column)


def plain_text(text: str) -> str:
    """Text that is shown as it is: a name with two dollar signs is no formula."""
    return text.replace("$", r"\$")


def shortened(text: str, most: int) -> str:
    """A name of at most so many characters: its beginning and its end tell it from others better than its middle."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def arm_style(arms: Sequence[str], arm: str) -> tuple[str, str]:
    """Colour and marker of an arm, the same in every figure of a study."""
    return style_at(list(arms).index(arm))


def style_at(index: int) -> tuple[str, str]:
    """Colour and marker of whatever comes at this place."""
    return ARM_COLOURS[index % len(ARM_COLOURS)], MARKERS[index % len(MARKERS)]


def error_bars(answers: Sequence[Estimate]) -> NDArray[np.float64]:
    """(2, n) how far the intervals of n answers reach below and above their values, never negative."""
    reaches = [[answer.value - answer.low, answer.high - answer.value] for answer in answers]
    return np.maximum(np.array(reaches).T, 0.0)


def draw_estimates(axes: Axes, estimates: dict[str, Estimate], dodge: float = 1.0, **look: Any) -> None:
    """Budget -> estimate as points with their intervals, moved along C by the factor `dodge`."""
    places = [float(budget) * dodge for budget in estimates]
    values = [estimate.value for estimate in estimates.values()]
    axes.errorbar(places, values, yerr=error_bars(list(estimates.values())), **look)


def budget_handles(colours: dict[str, Any], **look: Any) -> list[Line2D]:
    """What a legend shows of the budgets: each has its colour and, in turn, a marker."""
    return [
        Line2D([], [], color=colour, marker=MARKERS[index % len(MARKERS)], label=budget_label(budget), **look)
        for index, (budget, colour) in enumerate(colours.items())
    ]


def reasons_without_size(frontier: Frontier) -> list[str]:
    """One sentence a reason why there is no N*, naming its budgets."""
    refusals = [
        (optimum.budget, optimum.params.kind) for optimum in frontier.optima if isinstance(optimum.params, Refusal)
    ]
    kinds = dict.fromkeys(kind for _, kind in refusals)
    return [
        f"{', '.join(budget_label(budget) for budget, reason in refusals if reason is kind)}: {REASONS[kind]}"
        for kind in kinds
    ]


def count_ticks(axis: Axis, ratio: float) -> None:
    """Ticks for parameters or tokens (69k, 1.2M), as many as a logarithmic axis spanning `ratio` has room for."""
    fine, usual, coarse, decades = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)
    subs = fine if ratio < 5 else usual if ratio < 60 else coarse if ratio < 1500 else decades
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda count, _: tick_text(count)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def tick_text(count: float) -> str:
    """A count as short as it can be: 100M."""
    text = short_count(count)
    number, unit = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return f"{float(number):g}{unit}"


def budget_ticks(axes: Axes, budgets: list[int]) -> None:
    """A tick at every budget, a label where there is room for one."""
    axes.xaxis.set_major_locator(FixedLocator([float(budget) for budget in budgets]))
    axes.xaxis.set_minor_locator(NullLocator())
    span = np.log(budgets[-1] / budgets[0] * 1.5**2)
    # Before the layout makes axes wider, so that what has room now has room then.
    figure = axes.get_figure(root=True)
    assert figure is not None
    inches = axes.get_window_extent().width / figure.dpi
    texts: list[str] = []
    last_end = -np.inf
    for budget in budgets:
        label = budget_label(str(budget))
        centre, width = np.log(float(budget)) / span * inches, len(label) * TICK_CHARACTER_INCHES
        is_free = centre - width / 2 > last_end + 2 * TICK_CHARACTER_INCHES
        texts.append(label if is_free else "")
        last_end = centre + width / 2 if is_free else last_end
    axes.xaxis.set_major_formatter(FixedFormatter(texts))


def budget_colours(budgets: list[str]) -> dict[str, tuple]:
    """Dark to light with compute; the lightest end of the map is too pale for lines."""
    shades = np.linspace(0.0, 0.85, max(2, len(budgets)))
    palette = seaborn.color_palette("viridis", as_cmap=True)
    return {budget: palette(shade) for budget, shade in zip(budgets, shades, strict=False)}


REFERENCE_LOOK: dict[str, Any] = {
    "color": "#888888", "marker": "o", "markerfacecolor": "none", "linestyle": ":", "linewidth": 0.9, "markersize": 4,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A published study."""

    name: str
    """What the legend calls it."""
    study: Study
    """Its runs and what was fitted to them, in the convention of the study drawn."""


def draw_reference_runs(axes: Axes, arm: str, reference: Reference | None) -> None:
    """The runs of an arm, joined by budget."""
    if reference is None:
        return
    runs = reference.study.points.of_arm(arm)
    for budget in sorted(set(runs["budget"].to_list()), key=int):
        of_budget = runs.filter(pl.col("budget") == budget).sort("params")
        axes.plot(of_budget["params"], of_budget["loss"], **REFERENCE_LOOK, zorder=1)


def draw_reference_optima(axes: Axes, quantity: str, study: Study, reference: Reference) -> list[Line2D]:
    """The optima of every arm, and a handle for each that has any; an arm that both have keeps its colour."""
    handles = []
    arms = list(dict.fromkeys([*study.points.arms, *reference.study.points.arms]))
    for frontier in reference.study.frontiers:
        if not (estimates := frontier.estimates(quantity)):
            continue
        colour, marker = arm_style(arms, frontier.arm)
        look: dict[str, Any] = {"fmt": marker, "color": colour, "markerfacecolor": "none", "markersize": 6}
        draw_estimates(axes, estimates, alpha=0.6, elinewidth=0.9, capsize=2.0, **look)
        label = plain_text(f"{frontier.arm}, {reference.name} ({frontier.approach})")
        handles.append(
            Line2D([], [], color=colour, marker=marker, markerfacecolor="none", linestyle="", markersize=6, label=label)
        )
    return handles
