"""Training curves of a sweep: every cell from its first step to its evaluation."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.drawing import STYLE, WARN, count_ticks, plain_text, save
from analysis.report.provenance import Provenance
from analysis.runs.curves import CellCurve
from analysis.statistics.quadratic import Floats

PANEL_INCHES = (3.9, 3.2)
SMOOTHING = 0.02
"""Share of a curve over which its median is drawn."""
SHOWN_FROM = 0.02
"""Share of the tokens before which the curve is not drawn: it falls from the loss of chance."""


def smoothed(loss: Floats) -> Floats:
    """The median over a centred stretch of the curve, so that single batches do not hide it."""
    reach = max(1, int(len(loss) * SMOOTHING / 2))
    return np.array([np.median(loss[max(0, place - reach) : place + reach + 1]) for place in range(len(loss))])


def plot_curves(
    curves: Sequence[CellCurve], loss_column: str, out_paths: Iterable[Path], provenance: Provenance | None = None
) -> None:
    """Training loss against tokens, one panel an arm, dark to light with size; a dot is a cell's evaluation."""
    arms = sorted({curve.arm for curve in curves})
    with matplotlib.rc_context(STYLE):
        columns = min(3, max(1, len(arms)))
        rows = max(1, -(-len(arms) // columns))
        figure = Figure(figsize=(PANEL_INCHES[0] * columns + 1.2, PANEL_INCHES[1] * rows + 0.4), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
        sizes = {curve.size: curve.params for curve in sorted(curves, key=lambda each: each.params)}
        shades = dict(
            zip(sizes, matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, max(2, len(sizes)))), strict=False)
        )
        for axes, arm in zip(panels, arms, strict=False):
            axes.set_title(plain_text(arm), loc="left", fontweight="bold")
            _draw_arm(axes, [curve for curve in curves if curve.arm == arm], shades)
        for axes in panels[len(arms) :]:
            axes.set_visible(False)
        if arms:
            ends = any(curve.final_loss is not None for curve in curves)
            panels[0].set_ylabel(f"training loss{f', and {loss_column} at the end' if ends else ''}  (nats/token)")
            handles = [Line2D([], [], color=shades[size], label=plain_text(size)) for size in sizes]
            handles.append(Line2D([], [], color="black", marker="o", linestyle="", markersize=4, label="evaluated"))
            figure.legend(handles=handles, loc="outside right upper", title="size", title_fontsize=8)
        else:
            panels[0].set_visible(False)
            figure.text(0.5, 0.5, "no curve to draw: nothing has been trained", ha="center", color=WARN)
        save(figure, out_paths, provenance)


def _draw_arm(axes: Axes, curves: Sequence[CellCurve], shades: dict) -> None:
    axes.set_xscale("log")
    longest = max(curves, key=lambda curve: len(curve.tokens))
    if len(longest.tokens) == 0:
        return
    first = SHOWN_FROM * longest.tokens[-1]
    for curve in sorted(curves, key=lambda each: int(each.budget), reverse=True):
        shown = curve.tokens >= min(first, curve.tokens[-1]) if len(curve.tokens) else np.array([], dtype=bool)
        colour = shades[curve.size]
        axes.plot(curve.tokens[shown], smoothed(curve.loss)[shown], color=colour, linewidth=1.0, alpha=0.85)
        if curve.final_loss is not None and len(curve.tokens):
            axes.plot(
                [curve.tokens[-1]], [curve.final_loss], "o", color=colour, markersize=5, markeredgecolor="black",
                markeredgewidth=0.6, zorder=5,
            )  # fmt: skip
    axes.set_xlabel("tokens")
    low, high = axes.get_xlim()
    count_ticks(axes.xaxis, high / low)
