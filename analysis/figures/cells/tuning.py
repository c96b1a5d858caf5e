"""The response of a tuning: the loss of every setting tried and what is fitted to it, over one hyper-parameter as a
curve and over two as a surface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from analysis.figures.drawing import FAINT, REASONS, WARN, error_bars, plain_text
from analysis.figures.layout import Sheet
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.quadratic import Floats
from analysis.tuning.law import TunedRung
from analysis.tuning.response import Response, Trial
from mor_core.units import short_count

PANEL_INCHES = (3.4, 2.7)
SURFACE_INCHES = (4.4, 3.0)
"""Of a panel with a bar of colours."""
ROOM_FOR_TITLES = 0.4
"""In inches, of the whole figure."""
FEW_VALUES = 6
"""An axis with no more different values has a tick at each."""
PLACES = 60
"""Of a drawn curve."""
SURFACE_PLACES = 30
"""Of a drawn surface, either way."""
NUM_LEVELS = 14
"""Shades of a drawn surface."""
SHOWN_ABOVE = 4.0
"""Losses further above the lowest than this many times the spread of the better half are left out of a panel."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One rung."""

    rung: TunedRung
    """With its response."""
    trials: tuple[Trial, ...]
    """All that were tried."""


def plot_response(panels: Sequence[Panel], name: str, sheet: Sheet) -> None:
    """Loss against one hyper-parameter, one panel a rung; colour tells a second one that was varied with it."""
    with sheet.style():
        figure = _figure(panels, PANEL_INCHES, sheet, lambda axes, panel: _draw_curve(axes, panel, name))
        sheet.save(figure)


def plot_response_surface(panels: Sequence[Panel], pair: tuple[str, str], sheet: Sheet) -> None:
    """Loss over two hyper-parameters, one panel a rung: every setting in the colour of its loss, those that diverged as
    crosses, the fitted surface, and its lowest place with intervals."""
    with sheet.style():
        figure = _figure(panels, SURFACE_INCHES, sheet, lambda axes, panel: _draw_surface(axes, panel, pair))
        sheet.save(figure)


def _figure(
    panels: Sequence[Panel], inches: tuple[float, float], sheet: Sheet, draw: Callable[[Axes, Panel], None]
) -> Figure:
    columns = min(3, max(1, len({panel.rung.size for panel in panels})))
    figure, panel_axes = sheet.panels(len(panels), columns, inches)
    figure.set_figheight(figure.get_figheight() + ROOM_FOR_TITLES)
    for axes, panel in zip(panel_axes, panels, strict=False):
        rung = panel.rung
        axes.set_title(plain_text(f"{rung.arm} {rung.size}, {short_count(rung.tokens)} tokens"), loc="left")
        draw(axes, panel)
    return figure


def _name_axis(axis: Axis, name: str, values: set[float]) -> None:
    few = len(values) <= FEW_VALUES
    axis.set_label_text(name.replace("_", " "))
    axis.set_major_locator(FixedLocator(sorted(values)) if few else LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _say_why_not(axes: Axes, response: Refusal) -> None:
    at_end = response.kind is RefusalKind.MINIMUM_AT_EDGE
    words = "no optimum: " + ("the lowest loss is at an end of the range" if at_end else REASONS[response.kind])
    axes.text(0.02, 0.02, words, transform=axes.transAxes, color=WARN, fontsize=7, in_layout=False)


def _draw_surface(axes: Axes, panel: Panel, pair: tuple[str, str]) -> None:
    response = panel.rung.response
    axes.set(xscale="log", yscale="log")
    for axis, name in zip((axes.xaxis, axes.yaxis), pair, strict=True):
        _name_axis(axis, name, {trial.values[name] for trial in panel.trials})
    axes.use_sticky_edges = False
    axes.margins(0.08)
    finished = [trial for trial in panel.trials if trial.counts]
    diverged = [trial for trial in panel.trials if trial.diverged]
    axes.plot(*_places(diverged, pair), "x", color=WARN, markersize=5, zorder=4)
    if finished:
        low, high = _shown(np.array([trial.loss for trial in finished]))
        shades = Normalize(vmin=low, vmax=high)
        if isinstance(response, Response) and set(pair) <= set(response.names):
            _shade(axes, response, pair, shades)
        losses = [trial.loss for trial in finished]
        places = axes.scatter(
            *_places(finished, pair), c=losses, cmap="viridis", norm=shades, s=20, edgecolor="black", linewidth=0.6,
            zorder=4,
        )  # fmt: skip
        axes.figure.colorbar(places, ax=axes, label="loss (nats/token)", extend="max")
    if isinstance(response, Refusal):
        _say_why_not(axes, response)


def _places(trials: Sequence[Trial], pair: tuple[str, str]) -> tuple[list[float], list[float]]:
    return [trial.values[pair[0]] for trial in trials], [trial.values[pair[1]] for trial in trials]


def _shade(axes: Axes, response: Response, pair: tuple[str, str], shades: Normalize) -> None:
    """The fitted loss where it was fitted, what else was varied at its best; and the optimum."""
    x, y = (_range(response, name, SURFACE_PLACES) for name in pair)
    loss = np.array([[response.loss({pair[0]: right, pair[1]: up}) for right in x] for up in y])
    levels = np.linspace(shades.vmin or 0.0, shades.vmax or 1.0, NUM_LEVELS)
    axes.contourf(x, y, loss, levels, cmap="viridis", norm=shades, alpha=0.55, extend="both")
    best = [response.optimum(name) for name in pair]
    x_bars, y_bars = (error_bars([optimum]) for optimum in best)
    axes.errorbar([best[0].value], [best[1].value], xerr=x_bars, yerr=y_bars, fmt="*", color="white",
                  markeredgecolor="black", ecolor="black", elinewidth=1.0, markersize=11, zorder=5)  # fmt: skip


def _range(response: Response, name: str, places: int) -> Floats:
    """Values of a hyper-parameter from end to end of what was fitted."""
    index = response.names.index(name)
    return np.exp(np.linspace(response.low_d[index], response.high_d[index], places))


def _draw_curve(axes: Axes, panel: Panel, name: str) -> None:
    response = panel.rung.response
    axes.set(xscale="log", ylabel="loss (nats/token)")
    _name_axis(axes.xaxis, name, {trial.values[name] for trial in panel.trials})
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
        _say_why_not(axes, response)
    elif name in response.names:
        _draw_fit(axes, response, name)


def _second(trials: Sequence[Trial], name: str) -> list[float]:
    """What colour stands for: the logarithm of the next hyper-parameter that differs, if there is one."""
    others = [key for key in trials[0].values if key != name and len({trial.values[key] for trial in trials}) > 1]
    return [float(np.log(trial.values[others[0]])) if others else 0.0 for trial in trials]


def _draw_fit(axes: Axes, response: Response, name: str) -> None:
    places = _range(response, name, PLACES)
    axes.plot(places, [response.loss({name: place}) for place in places], color=FAINT, linewidth=1.0)
    best = response.optimum(name)
    axes.axvspan(best.low, best.high, color="#0072B2", alpha=0.12, linewidth=0)
    axes.plot([best.value], [response.loss({})], "*", color="#0072B2", markersize=9, zorder=5)


def _shown(loss_n: Floats) -> tuple[float, float]:
    low = float(loss_n.min())
    spread = max(float(np.quantile(loss_n, 0.5)) - low, 1e-3)
    high = min(float(loss_n.max()), low + SHOWN_ABOVE * spread)
    return low - 0.25 * spread, high + 0.25 * spread
