"""Training curves of a sweep: every size at every budget, from its first steps to its evaluation."""

from collections.abc import Sequence
from dataclasses import replace

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures.drawing import LOSS_NAMES, budget_colours, count_ticks, plain_text
from analysis.figures.layout import Sheet, legend_below, name_arm, say_instead
from analysis.runs.curves import CellCurve
from analysis.statistics.quadratic import Floats
from mor_core.units import budget_label

PANEL_INCHES = (5.2, 4.0)
REACH = 0.12
"""In ln tokens, to either side: the stretch of a curve that one place of its line is fitted to."""
SHOWN_FROM = 0.02
"""Share of the tokens before which the curve is not drawn: it falls from the loss of chance."""


def smoothed(tokens: Floats, loss: Floats) -> Floats:
    """(n,) the line through (n,) losses: at each place a straight line in ln tokens fitted to what is near it.

    A straight line does not lag behind a curve that falls up to its last step, as a mean does. Local regression with
    equal weights (Cleveland 1979, section 2).
    """
    x = np.log(tokens)
    first, last = np.searchsorted(x, x - REACH), np.searchsorted(x, x + REACH, side="right")
    # Neighbours at least, where single steps are further apart than the reach.
    first, last = np.minimum(first, np.maximum(np.arange(len(x)) - 1, 0)), np.maximum(last, np.arange(len(x)) + 2)
    last = np.minimum(last, len(x))

    def mean(values: Floats) -> Floats:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return (sums[last] - sums[first]) / (last - first)

    mean_x, mean_y = mean(x), mean(loss)
    spread = mean(x * x) - mean_x**2
    slope = np.where(spread > 1e-12, (mean(x * loss) - mean_x * mean_y) / np.maximum(spread, 1e-12), 0.0)
    return mean_y + slope * (x - mean_x)


def mean_over_seeds(curves: Sequence[CellCurve]) -> list[CellCurve]:
    """One curve for each arm, size and budget, over the seeds that have logged the same steps as the first."""
    groups: dict[tuple[str, str, str], list[CellCurve]] = {}
    for curve in curves:
        groups.setdefault((curve.arm, curve.size, curve.budget), []).append(curve)
    return [_mean_of(group) for group in groups.values()]


def _mean_of(group: Sequence[CellCurve]) -> CellCurve:
    longest = max(group, key=lambda curve: len(curve.tokens))
    alike = [curve for curve in group if np.array_equal(curve.tokens, longest.tokens)]
    finals = [curve.final_loss for curve in group if curve.final_loss is not None]
    return replace(
        longest,
        loss=np.mean([curve.loss for curve in alike], axis=0),
        final_loss=float(np.mean(finals)) if finals else None,
    )


def plot_curves(curves: Sequence[CellCurve], loss_column: str, sheet: Sheet) -> None:
    """Training loss against tokens, one panel an arm, one colour a budget, the mean over seeds; the cooldown is the
    thick end of a curve, a dot its evaluation, with the size beside it."""
    arms = sorted({curve.arm for curve in curves})
    with sheet.style():
        beside = min(3, max(1, len(arms)))
        figure, panels = sheet.panels(len(arms), beside, PANEL_INCHES, sharey=True)
        colours = budget_colours(sorted({curve.budget for curve in curves}, key=int))
        for axes, arm in zip(panels, arms, strict=False):
            name_arm(axes, arm)
            _draw_arm(
                axes,
                [curve for curve in mean_over_seeds(curves) if curve.arm == arm],
                colours,
                named=sheet.width is None,
            )
        if arms:
            ends = any(curve.final_loss is not None for curve in curves)
            evaluated = f", and {LOSS_NAMES.get(loss_column, loss_column)} at the end" if ends else ""
            figure.supylabel(f"training loss{evaluated}  (nats/token)", fontsize=matplotlib.rcParams["axes.labelsize"])
            legend_below(figure, _handles(colours, named=sheet.width is None), "C  (FLOPs)")
        else:
            say_instead(figure, "no curve to draw: nothing has been trained")
        sheet.save(figure)


def _handles(colours: dict[str, tuple], *, named: bool) -> list[Line2D]:
    evaluated = "evaluated, with its size" if named else "evaluated"
    return [
        *(Line2D([], [], color=colour, label=budget_label(budget)) for budget, colour in colours.items()),
        Line2D([], [], color="black", linewidth=2.4, label="cooldown"),
        Line2D([], [], color="black", marker="o", linestyle="", markersize=4, label=evaluated),
    ]


def _draw_arm(axes: Axes, curves: Sequence[CellCurve], colours: dict[str, tuple], *, named: bool) -> None:
    """Larger budgets first: the trunk that budgets share has the colour of the smallest that it serves.
    Sizes are `named` where there is room."""
    axes.set(xscale="log", xlabel="tokens")
    drawn = [curve for curve in curves if len(curve.tokens)]
    if not drawn:
        return
    first = SHOWN_FROM * max(curve.tokens[-1] for curve in drawn)
    drawn.sort(key=lambda curve: (int(curve.budget), curve.params), reverse=True)
    spans = [_draw_curve(axes, curve, first, colours[curve.budget], named=named) for curve in drawn]
    lowest, highest = min(low for low, _ in spans), max(high for _, high in spans)
    axes.set_ylim(bottom=min(axes.get_ylim()[0], lowest - 0.08 * (highest - lowest)))
    low, high = axes.get_xlim()
    count_ticks(axes.xaxis, high / low)


def _draw_curve(axes: Axes, curve: CellCurve, first: float, colour: tuple, *, named: bool) -> tuple[float, float]:
    """Returns the lowest and the highest loss drawn."""
    line = smoothed(curve.tokens, curve.loss)
    shown = curve.tokens >= min(first, curve.tokens[-1])
    axes.plot(curve.tokens[shown], line[shown], color=colour, linewidth=0.9, alpha=0.8)
    if curve.cooldown_from is not None:
        cooled = curve.tokens >= curve.cooldown_from
        axes.plot(curve.tokens[cooled], line[cooled], color=colour, linewidth=2.4, solid_capstyle="butt")
    if curve.final_loss is not None:
        end = (curve.tokens[-1], curve.final_loss)
        axes.plot(*end, "o", color=colour, markersize=4.5, markeredgecolor="black", markeredgewidth=0.6, zorder=5)
        if named:
            axes.annotate(
                plain_text(curve.size), end, xytext=(0, -5), textcoords="offset points", fontsize=5.5, ha="center",
                va="top", zorder=6,
            )  # fmt: skip
    drawn = [*line[shown], *([curve.final_loss] if curve.final_loss is not None else [])]
    return float(min(drawn)), float(max(drawn))
