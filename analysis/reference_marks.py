"""Another study drawn faintly into a figure, so that one's own can be read against it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.drawing import ARM_COLOURS, MARKERS, plain_text
from analysis.estimate import Estimate
from analysis.frontier import Study

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
    mine = reference.study.points.frame.filter(pl.col("arm") == arm)
    for budget in sorted(set(mine["budget"].to_list()), key=int):
        here = mine.filter(pl.col("budget") == budget).sort("params")
        axes.plot(here["params"], here["loss"], **REFERENCE_LOOK, zorder=1)


def draw_reference_optima(axes: Axes, quantity: str, study: Study, reference: Reference) -> list[Line2D]:
    """The optima of every arm, and a handle for each that has any; an arm that both have keeps its colour."""
    handles = []
    arms = list(dict.fromkeys([*study.points.arms, *reference.study.points.arms]))
    for frontier in reference.study.frontiers:
        answers = [(float(each.budget), getattr(each, quantity)) for each in frontier.optima]
        found = [(flops, answer) for flops, answer in answers if isinstance(answer, Estimate)]
        if not found:
            continue
        index = arms.index(frontier.arm)
        colour, marker = ARM_COLOURS[index % len(ARM_COLOURS)], MARKERS[index % len(MARKERS)]
        value = np.array([answer.value for _, answer in found])
        low, high = (np.array([getattr(answer, end) for _, answer in found]) for end in ("low", "high"))
        look: dict[str, Any] = {"fmt": marker, "color": colour, "markerfacecolor": "none", "markersize": 6}
        axes.errorbar(
            [flops for flops, _ in found], value, yerr=np.maximum([value - low, high - value], 0.0), alpha=0.6,
            elinewidth=0.9, capsize=2.0, **look,
        )  # fmt: skip
        label = plain_text(f"{frontier.arm}, {reference.name} ({frontier.approach})")
        handles.append(
            Line2D([], [], color=colour, marker=marker, markerfacecolor="none", linestyle="", markersize=6, label=label)
        )
    return handles
