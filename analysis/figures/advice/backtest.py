"""The figure of a back-test: how far off each law was, against how far ahead it looked."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.advice.forecast.backtest import BackTest, History
from analysis.advice.forecast.record import Histories, laws_of
from analysis.figures.drawing import FAINT, arm_style, plain_text
from analysis.figures.layout import Sheet, legend_below, write_below
from analysis.statistics.approach import SYMBOLS

SHOWN = ("loss", "params")
PANEL_INCHES = (2.5, 2.9)
LEAST_SCREEN_INCHES = 4.5
"""Of the whole figure on a screen."""
LEAST_INCHES = 1.5
"""Width of a panel on paper."""
DODGE, WIDEST = 0.09, 0.5
"""Largest distance of two predictions of one reach, and of all of them, in ln reach."""
MARGIN = 0.2
"""What is shown beyond the largest errors, as a share of their range: bars that leave the panel are cut there."""


def plot_backtest(histories: Histories, arms: Sequence[str], sheet: Sheet) -> None:
    """Error of L* and of N* against reach with the interval of each prediction, one panel a law, arms by colour."""
    tests = [test for record in histories.values() if isinstance(record, History) for test in record.backtests]
    shown = [quantity for quantity in SHOWN if laws_of(tests, quantity)]
    most = max((len(laws_of(tests, quantity)) for quantity in shown), default=1)
    columns = most if sheet.width is None else min(most, max(1, int(sheet.width // LEAST_INCHES)))
    num_panels = [-(-len(laws_of(tests, quantity)) // columns) * columns for quantity in shown]  # Whole rows.
    inches = (max(PANEL_INCHES[0], LEAST_SCREEN_INCHES / columns), PANEL_INCHES[1])
    with sheet.style():
        figure, panels = sheet.panels(sum(num_panels), columns, inches, least_inches=LEAST_INCHES)
        for place, quantity in enumerate(shown):
            first = sum(num_panels[:place])
            _draw_laws(panels[first : first + num_panels[place]], tests, quantity, _title(histories, quantity), arms)
        if not shown:
            panels[0].text(0.5, 0.5, "nothing could be predicted", transform=panels[0].transAxes, ha="center")
        legend_below(figure, _handles(tests, arms))
        if len({test.fitted for test in tests}) > 1:
            write_below(figure, "At one reach, from fewest to most budgets fitted.", fontsize=7.5, color=FAINT)
        sheet.save(figure)


def _title(histories: Histories, quantity: str) -> str:
    grouped = any(isinstance(record, History) and record.over == "groups" for record in histories.values())
    return "mean loss of a group" if grouped else SYMBOLS[quantity]


def _draw_laws(panels: list[Axes], tests: Sequence[BackTest], quantity: str, title: str, arms: Sequence[str]) -> None:
    """One quantity: its laws beside and below each other on one scale."""
    shown = [test for test in tests if test.quantity == quantity]
    laws = laws_of(shown, quantity)
    low, high = (
        100 * end for end in (min(0.0, *(test.error for test in shown)), max(0.0, *(test.error for test in shown)))
    )
    room = MARGIN * (high - low)
    reaches = [test.reach for test in shown]
    for axes, law in zip(panels, laws, strict=False):
        _draw_law(axes, [test for test in shown if test.law == law], arms)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(xscale="log", xlabel="C / largest C fitted")
        axes.set(ylim=(low - room, high + room), xlim=(min(reaches) / 1.4, max(reaches) * 1.4))
        axes.set_title(law, loc="left", fontweight="bold")
        _reach_ticks(axes, max(reaches) / min(reaches))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:+.3g} %" if share else "0"))
        place = axes.get_subplotspec()
        assert place is not None
        axes.tick_params(labelleft=place.is_first_col())
        if place.is_first_col():
            axes.set_ylabel(f"{title}: predicted / measured − 1")
    for axes in panels[len(laws) :]:
        axes.set_visible(False)


def _draw_law(axes: Axes, tests: Sequence[BackTest], arms: Sequence[str]) -> None:
    """The predictions of one law; those of about one reach stand beside each other, by arm and by budgets fitted."""
    beside: dict[str, list[BackTest]] = {}
    for test in sorted(tests, key=lambda test: (test.fitted, test.arm)):
        beside.setdefault(f"{test.reach:.2g}", []).append(test)
    for column in beside.values():
        middle = (len(column) - 1) / 2
        step = min(DODGE, WIDEST / len(column))
        for number, test in enumerate(column):
            _draw_test(axes, test, float(np.exp(step * (number - middle))), arms)


def _draw_test(axes: Axes, test: BackTest, shift: float, arms: Sequence[str]) -> None:
    """A prediction, filled where its interval holds what was measured."""
    colour, marker = arm_style(arms, test.arm)
    ends = (test.predicted.low, test.predicted.high, test.predicted.value)
    low, high, centre = (100 * (end / test.measured.value - 1) for end in ends)
    axes.errorbar(
        [test.reach * shift], [centre], yerr=[[max(centre - low, 0.0)], [max(high - centre, 0.0)]], fmt=marker,
        color=colour, ecolor=(colour, 0.4), markersize=4, elinewidth=0.9, markeredgewidth=0.9,
        markerfacecolor=colour if test.covered else "white",
    )  # fmt: skip


def _reach_ticks(axes: Axes, ratio: float) -> None:
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if ratio < 15 else (1.0, 3.0) if ratio < 100 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda reach, _: f"{reach:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _handles(tests: Sequence[BackTest], arms: Sequence[str]) -> list[Line2D]:
    """Arms, and what hollow points mean."""
    drawn = [arm for arm in arms if any(test.arm == arm for test in tests)]
    handles = [
        Line2D(
            [], [], color=arm_style(arms, arm)[0], marker=arm_style(arms, arm)[1], linestyle="", label=plain_text(arm)
        )
        for arm in drawn
    ]
    hollow = Line2D(
        [], [], color=FAINT, marker="o", markerfacecolor="white", linestyle="", label="outside its interval"
    )
    return [*handles, hollow] if any(not test.covered for test in tests) else handles
