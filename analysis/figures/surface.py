"""Figures of fitted surfaces: the law over (N, D) with its optimum, and what it leaves unexplained."""

import textwrap
from collections.abc import Sequence

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy import stats

from analysis.figures.drawing import (
    ARM_COLOURS,
    FAINT,
    MARKERS,
    REASONS,
    WARN,
    budget_colours,
    budget_handles,
    budget_ticks,
    count_ticks,
    error_bars,
    loss_name,
    plain_text,
)
from analysis.figures.layout import Sheet, legend_below, name_arm, say, say_instead
from analysis.frontier.study import Frontier, Study
from analysis.report.text import params_label
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.quadratic import Floats
from analysis.surface.fit import SurfaceFit
from mor_core.units import budget_label

PANEL_INCHES = (4.4, 3.8)
RESIDUAL_INCHES = (3.0, 2.6)
STRENGTH = 0.62
"""Of the shades: paler, so that lines and words are seen on all of them."""
SHADES = ListedColormap(
    1.0 - STRENGTH * (1.0 - seaborn.color_palette("cividis", as_cmap=True)(np.linspace(0.0, 1.0, 256))[:, :3])
)
"""Of the field, the runs and the bar of colours alike. Readable in grey and with any kind of colour blindness."""
NUM_LEVELS = 14
MARGIN = 1.35
"""Factor by which the axes go beyond the runs."""
FAR_ABOVE = 4.0
"""Losses further above the lowest than so many times the median have the last shade."""
LABEL_SHARE = 0.12
"""Of a panel's width, for the names of the budgets at its right."""
LEAST_LABEL_GAP = 0.055
"""Of the panel's height, between the labels of two budgets."""


def surfaces_of(study: Study) -> list[Frontier]:
    """The frontiers of a study that come from a surface, given or refused."""
    return [frontier for frontier in study.frontiers if frontier.approach == "surface"]


def plot_surface(study: Study, sheet: Sheet) -> None:
    """The law's loss over N and D, one panel an arm: runs in the colour of their own loss, contours of equal FLOPs,
    and the optimum along each with its intervals."""
    frontiers = surfaces_of(study)
    with sheet.style():
        beside = min(3, max(1, len(frontiers)))
        figure, panels = sheet.panels(len(frontiers), beside, PANEL_INCHES)
        losses = study.points.frame["loss"].to_numpy()
        shades = surface_shades(losses)
        for axes, frontier in zip(panels, frontiers, strict=False):
            _draw_surface(axes, study, frontier, shades)
        if len(losses):
            shown = panels[: max(1, len(frontiers))]
            label = f"{loss_name(study)}  ({study.points.loss_unit})"
            extend = "max" if losses.max() > (shades.vmax or 0.0) else "neither"
            figure.colorbar(
                ScalarMappable(norm=shades, cmap=SHADES), ax=shown, label=label, shrink=0.85, pad=0.02, extend=extend
            )
            legend_below(figure, _surface_handles(study))
        else:
            figure.text(0.5, 0.5, "no points to draw", ha="center", color=WARN)
        sheet.save(figure)


def surface_shades(losses: Floats) -> Normalize:
    """From the lowest loss up, as far as the valley goes."""
    if not len(losses):
        return Normalize(0.0, 1.0)
    lowest = float(losses.min())
    return Normalize(lowest, min(float(losses.max()), lowest + FAR_ABOVE * (float(np.median(losses)) - lowest + 1e-3)))


def _draw_surface(axes: Axes, study: Study, frontier: Frontier, shades: Normalize) -> None:
    name_arm(axes, frontier.arm, pad=14)
    axes.set(xlabel=f"N  ({plain_text(params_label(study))})", ylabel="D  (tokens)")
    axes.grid(visible=False)
    runs = study.points.of_arm(frontier.arm)
    if runs.is_empty():
        say(axes, "no finished run")
        return
    params, tokens = (runs[name].to_numpy() for name in ("params", "tokens"))
    right = params.max() * MARGIN * (params.max() / params.min()) ** LABEL_SHARE
    sides = {"xlim": (params.min() / MARGIN, right), "ylim": (tokens.min() / MARGIN, tokens.max() * MARGIN)}
    axes.set(xscale="log", yscale="log", **sides)
    if isinstance(frontier.surface, SurfaceFit):
        _draw_law(axes, frontier, frontier.surface, shades)
    elif isinstance(frontier.surface, Refusal):
        axes.text(
            0.03, 0.03, textwrap.fill(f"no surface: {frontier.surface.sentence}", 58), transform=axes.transAxes,
            fontsize=7, color=WARN, va="bottom", bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0}, zorder=8,
        )  # fmt: skip
    # Above the stars, which are larger.
    axes.scatter(
        params, tokens, c=runs["loss"], cmap=SHADES, norm=shades, s=17, edgecolor="black", linewidth=0.6, zorder=7
    )
    count_ticks(axes.xaxis, params.max() / params.min() * MARGIN**2)
    count_ticks(axes.yaxis, tokens.max() / tokens.min() * MARGIN**2)


def _draw_law(axes: Axes, frontier: Frontier, surface: SurfaceFit, shades: Normalize) -> None:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    params, tokens = np.geomspace(left, right, 160), np.geomspace(bottom, top, 160)
    loss = surface.law.loss(params[None, :], tokens[:, None])
    levels = np.linspace(shades.vmin or 0.0, shades.vmax or 1.0, NUM_LEVELS)
    axes.contourf(params, tokens, loss, levels, cmap=SHADES, norm=shades, extend="both")
    axes.contour(params, tokens, loss, levels, colors="white", linewidths=0.5)
    for optimum in frontier.optima:
        axes.plot(
            params, surface.contour.tokens(params, float(optimum.budget)), "--", color="black", linewidth=0.8, alpha=0.7
        )
    _name_budgets(axes, [optimum.budget for optimum in frontier.optima], surface)
    budgets = [float(optimum.budget) for optimum in frontier.optima] or [1.0]
    path = np.geomspace(min(budgets), max(budgets), 40)
    places = [surface.law.n_opt(flops, surface.contour) for flops in path]
    bought = [surface.law.d_opt(flops, surface.contour) for flops in path]
    axes.plot(places, bought, color="black", linewidth=1.6)
    for optimum in frontier.optima:
        if isinstance(optimum.params, Estimate) and isinstance(optimum.tokens, Estimate):
            axes.errorbar(
                [optimum.params.value], [optimum.tokens.value], xerr=error_bars([optimum.params]),
                yerr=error_bars([optimum.tokens]), fmt="*", markersize=13, color="white", markeredgecolor="black",
                markeredgewidth=0.8, ecolor="black", elinewidth=1.0, capsize=2.5, zorder=6,
            )  # fmt: skip
    residuals = surface.residuals
    axes.text(
        0.0, 1.015, f"residuals {residuals.sd:.2%}, {residuals.explained:.1%} explained", transform=axes.transAxes,
        va="bottom", fontsize=7, color=FAINT,
    )  # fmt: skip
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _name_budgets(axes: Axes, budgets: Sequence[str], surface: SurfaceFit) -> None:
    """A label at the right end of each line of equal FLOPs, where there is room for one."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    last = -np.inf
    for budget in budgets:
        place = np.geomspace(left, right, 200)
        bought = surface.contour.tokens(place, float(budget))
        inside = np.flatnonzero((bought > bottom) & (bought < top))
        if not len(inside):
            continue
        up = float(np.log(bought[inside[-1]] / bottom) / np.log(top / bottom))
        at_right = inside[-1] == len(place) - 1
        if at_right and up < last + LEAST_LABEL_GAP:
            continue
        last = up if at_right else last
        axes.annotate(
            budget_label(budget), (place[inside[-1]], bought[inside[-1]]), fontsize=6.5, xytext=(-2, 3),
            textcoords="offset points", ha="right", va="bottom", annotation_clip=False,
            bbox={"facecolor": "white", "alpha": 0.55, "linewidth": 0, "pad": 0.6}, zorder=8,
        )  # fmt: skip


def _surface_handles(study: Study) -> list[Line2D]:
    level = study.settings.resampling.level
    return [
        Line2D([], [], color="#cccccc", marker="o", linestyle="", markeredgecolor="black", markersize=4.5,
               label="a run, in the colour of its loss"),
        Line2D([], [], color="black", linestyle="--", linewidth=0.8, label="equal FLOPs"),
        Line2D([], [], color="black", linewidth=1.6, label="optimum of the law"),
        Line2D([], [], color="black", marker="*", markerfacecolor="white", linestyle="", markersize=10,
               label=f"optimum with its {level:.0%} intervals"),
    ]  # fmt: skip


RESIDUAL_PANELS = ("against N", "against D", "normal quantiles", "budgets left out")


def plot_residuals(study: Study, sheet: Sheet) -> None:
    """What each surface leaves: against N, against D, against normal quantiles, and on budgets left out of the fit."""
    frontiers = surfaces_of(study)
    with sheet.style():
        beside = len(RESIDUAL_PANELS)
        figure, panels = sheet.panels(beside * max(1, len(frontiers)), beside, RESIDUAL_INCHES, least_inches=1.6)
        budgets = sorted(set(study.points.frame["budget"].to_list()), key=int)
        colours = budget_colours(budgets)
        for row, frontier in enumerate(frontiers):
            _draw_residuals(panels[row * beside : (row + 1) * beside], study, frontier, colours)
        if frontiers:
            legend_below(figure, _residual_handles(colours if len(budgets) <= 24 else {}))
        else:
            say_instead(figure, "no points to draw")
        sheet.save(figure)


def _residual_handles(colours: dict[str, tuple]) -> list[Line2D | Patch]:
    square = {"color": ARM_COLOURS[1], "marker": "s", "markersize": 5}
    return [
        *budget_handles(colours, linestyle="", markersize=4.5),
        Patch(color="#eeeeee", label="± 2 standard deviations"),
        Line2D([], [], color="black", linewidth=0.8, label="a normal distribution of that spread"),
        Line2D([], [], **square, label="mean error on that budget, ± the mean size"),
        Line2D([], [], **square, linestyle="", markerfacecolor="white", label="extrapolated to it"),
    ]


def _draw_residuals(panels: list[Axes], study: Study, frontier: Frontier, colours: dict[str, tuple]) -> None:
    name_arm(panels[0], frontier.arm, pad=14)
    surface = frontier.surface
    if not isinstance(surface, SurfaceFit):
        words = f"no surface: {REASONS[surface.kind]}" if isinstance(surface, Refusal) else "no surface"
        for axes in panels:
            say(axes, words if axes is panels[0] else "", framed=False)
        return
    for axes, title in zip(panels, RESIDUAL_PANELS, strict=True):
        axes.text(0.0, 1.015, title, transform=axes.transAxes, va="bottom", color=FAINT, fontsize=7)
    runs = study.points.of_arm(frontier.arm)
    percent = 100 * relative_residuals(surface)
    limit = 1.15 * max(float(np.abs(percent).max()), 1e-9)
    spread = 100 * surface.residuals.sd
    for axes, column, label in zip(panels[:2], ("params", "tokens"), ("N", "D  (tokens)"), strict=True):
        x = runs[column].to_numpy()
        axes.set_xscale("log")
        axes.axhspan(-2 * spread, 2 * spread, color="#eeeeee", linewidth=0)
        axes.axhline(0.0, color="black", linewidth=0.8)
        for index, (budget, colour) in enumerate(colours.items()):
            of_budget = (runs["budget"] == budget).to_numpy()
            axes.plot(
                x[of_budget], percent[of_budget], MARKERS[index % len(MARKERS)], color=colour, markersize=4.5, alpha=0.9
            )
        axes.set(xlabel=label, ylim=(-limit, limit))
        count_ticks(axes.xaxis, x.max() / x.min())
    panels[0].set_ylabel("predicted / measured - 1  (%)")
    _draw_quantiles(panels[2], percent, limit)
    _draw_held_out(panels[3], surface)


def relative_residuals(surface: SurfaceFit) -> Floats:
    """(n,) predicted over measured loss less one, in the order of the arm's points."""
    problem = surface.best.problem
    residual_n = problem.residuals(surface.best.theta[None])[0]
    return np.expm1(residual_n) if problem.residual == "log" else residual_n / problem.points.loss


def _draw_quantiles(axes: Axes, percent: Floats, limit: float) -> None:
    ordered = np.sort(percent)
    places = stats.norm.ppf((np.arange(len(ordered)) + 0.5) / len(ordered))
    middle, scale = np.median(ordered), stats.iqr(ordered) / 1.349
    axes.plot(places, middle + scale * places, color="black", linewidth=0.8)
    axes.plot(places, ordered, "o", color=ARM_COLOURS[0], markersize=3.5)
    axes.set(xlabel="normal quantile", ylim=(-limit, limit))


def _draw_held_out(axes: Axes, surface: SurfaceFit) -> None:
    if not surface.held_out:
        say(axes, "fewer than three budgets:\nnone left out")
        return
    axes.axhline(0.0, color="black", linewidth=0.8)
    places = [float(left_out.label.split(" to ")[-1]) for left_out in surface.held_out]
    axes.set(xscale="log", xlabel="C left out  (FLOPs)", xlim=(min(places) / 1.5, max(places) * 1.5))
    for left_out, place in zip(surface.held_out, places, strict=True):
        # Filled where other budgets lie on both sides, open where the law had to extrapolate to it.
        face = "white" if left_out.extrapolates else ARM_COLOURS[1]
        mean, size = 100 * left_out.mean_error, 100 * left_out.mean_size
        axes.errorbar(
            [place], [mean], yerr=[[size], [size]], fmt="s", color=ARM_COLOURS[1], markerfacecolor=face, capsize=2.5,
            markersize=5,
        )  # fmt: skip
    budget_ticks(axes, [int(place) for place in places])
