"""The response of a tuning: the loss of every setting tried against one hyper-parameter, and the fitted curve."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.drawing import FAINT, REASONS, STYLE, WARN, plain_text, save
from analysis.estimate import Refusal, RefusalKind
from analysis.hyperparameter_law import TunedRung
from analysis.provenance import Provenance
from analysis.quadratic import Floats
from analysis.report import short_count
from analysis.response import Response, Trial

PANEL_INCHES = (3.4, 2.7)
PLACES = 60
"""Of a drawn curve."""
SHOWN_ABOVE = 4.0
"""Losses further above the lowest than this many times the spread of the better half are left out of a panel."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One rung."""

    rung: TunedRung
    """With its response."""
    trials: tuple[Trial, ...]
    """All that were tried."""


def plot_response(
    panels: Sequence[Panel], name: str, out_paths: Iterable[Path], provenance: Provenance | None = None
) -> None:
    """Loss against one hyper-parameter, one panel a rung; colour tells a second one that was varied with it."""
    with matplotlib.rc_context(STYLE):
        columns = min(3, max(1, len({panel.rung.size for panel in panels})))
        rows = max(1, -(-len(panels) // columns))
        figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.4), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for each, panel in zip(axes, panels, strict=False):
            _draw(each, panel, name)
        for each in axes[len(panels) :]:
            each.set_visible(False)
        save(figure, out_paths, provenance)


def _draw(axes: Axes, panel: Panel, name: str) -> None:
    rung, response = panel.rung, panel.rung.response
    axes.set_title(plain_text(f"{rung.arm} {rung.size}, {short_count(rung.tokens)} tokens"), loc="left")
    axes.set_xscale("log")
    axes.set_xlabel(name.replace("_", " "))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("loss (nats/token)")
    finished = [trial for trial in panel.trials if trial.counts]
    for trial in panel.trials:
        if trial.diverged:
            axes.axvline(trial.values[name], color=WARN, linewidth=0.8, linestyle=":")
    if finished:
        axes.set_ylim(*_shown(np.array([trial.loss for trial in finished])))
        axes.scatter(
            [trial.values[name] for trial in finished],
            [trial.loss for trial in finished],
            c=_second(finished, name),
            cmap="viridis",
            s=16,
            zorder=4,
        )
    if isinstance(response, Refusal):
        at_end = response.kind is RefusalKind.MINIMUM_AT_EDGE
        said = "no optimum: " + ("the lowest loss is at an end of the range" if at_end else REASONS[response.kind])
        axes.text(0.02, 0.02, said, transform=axes.transAxes, color=WARN, fontsize=7)
    elif name in response.names:
        _draw_fit(axes, response, name)


def _second(trials: Sequence[Trial], name: str) -> list[float]:
    """What colour stands for: the logarithm of the next hyper-parameter that differs, if there is one."""
    others = [key for key in trials[0].values if key != name and len({trial.values[key] for trial in trials}) > 1]
    return [float(np.log(trial.values[others[0]])) if others else 0.0 for trial in trials]


def _draw_fit(axes: Axes, response: Response, name: str) -> None:
    index = response.names.index(name)
    places = np.exp(np.linspace(response.low_d[index], response.high_d[index], PLACES))
    axes.plot(places, [response.loss({name: place}) for place in places], color=FAINT, linewidth=1.0)
    best = response.optimum(name)
    axes.axvspan(best.low, best.high, color="#0072B2", alpha=0.12, linewidth=0)
    axes.plot([best.value], [response.loss({})], "*", color="#0072B2", markersize=9, zorder=5)


def _shown(loss_n: Floats) -> tuple[float, float]:
    low = float(loss_n.min())
    spread = max(float(np.quantile(loss_n, 0.5)) - low, 1e-3)
    high = min(float(loss_n.max()), low + SHOWN_ABOVE * spread)
    return low - 0.25 * spread, high + 0.25 * spread
