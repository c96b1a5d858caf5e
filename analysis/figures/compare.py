"""The figure that sets arms against each other at equal FLOPs."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.figures.drawing import REASONS, WARN, budget_ticks, loss_name, plain_text, shortened, style_at
from analysis.figures.layout import Sheet, legend_below
from analysis.frontier.compare import REFERENCE, Comparison
from analysis.frontier.study import Study
from analysis.statistics.answers import Estimate, Refusal

PANEL_INCHES = (4.0, 3.1)
DODGE = 0.06
WIDE = 3.0
"""Ratio of the ends of an axis from which it is logarithmic."""
FAR = 3.0
"""An interval that ends further from the values than this factor is cut there, with an arrow."""
MOST_NAME = 60
"""Characters of a pair in the legend."""
QUANTITIES = (
    ("gap", "L* − the other arm's L*  ({unit})", 0.0),
    ("compute", "compute multiplier", 1.0),
    ("params", "parameter multiplier", 1.0),
)
Pair = tuple[str, str]


def plot_compare(studies: Sequence[Study], sheet: Sheet) -> None:
    """Loss gap, compute and parameter multipliers against C; one row for each study (one a kind of loss).

    A band is the mean gap over the budgets that it lies under. With more than two arms, each is set against vanilla
    where there is one; the data hold every pair.
    """
    with sheet.style():
        figure, panels = sheet.panels(len(studies) * len(QUANTITIES), len(QUANTITIES), PANEL_INCHES)
        pairs = _shown_pairs(studies[0])
        places = [(study, *quantity) for study in studies for quantity in QUANTITIES]
        for axes, (study, quantity, label, neutral) in zip(panels, places, strict=True):
            _draw_comparison(axes, study, pairs, quantity, label, neutral)
            if quantity == "gap":
                axes.set_title(plain_text(loss_name(study)), loc="left", fontweight="bold")
        if handles := _handles(studies, pairs):
            legend_below(figure, handles)
        sheet.save(figure)


def _handles(studies: Sequence[Study], pairs: Sequence[Pair]) -> list[Line2D | Patch]:
    """Every pair, and the band where there is one."""
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, marker=marker, linestyle="",
               label=plain_text(shortened(f"{arm} against {other}", MOST_NAME)))
        for index, (arm, other) in enumerate(pairs)
        for colour, marker in (style_at(index),)
    ]  # fmt: skip
    means = [whole.gap for study in studies for whole in study.over_budgets if isinstance(whole.gap, Estimate)]
    if means:
        handles.append(Patch(color="#999999", alpha=0.3, label=f"mean gap over budgets, {means[0].level:.0%} interval"))
    return handles


def _shown_pairs(study: Study) -> list[Pair]:
    pairs = list(dict.fromkeys((comparison.arm, comparison.other) for comparison in study.comparisons))
    with_reference = [pair for pair in pairs if REFERENCE in pair]
    return with_reference or pairs


def _draw_comparison(axes: Axes, study: Study, pairs: list[Pair], quantity: str, label: str, neutral: float) -> None:
    compute = f"C  ({study.points.budget_convention} training FLOPs)"
    axes.set(xscale="log", xlabel=compute, ylabel=label.format(unit=study.points.loss_unit))
    axes.axhline(neutral, color="black", linewidth=0.8)
    budgets = sorted({int(comparison.budget) for comparison in study.comparisons})
    if budgets:
        axes.set_xlim(budgets[0] / 1.5, budgets[-1] * 1.5)
        budget_ticks(axes, budgets)
    shown = [comparison for comparison in study.comparisons if (comparison.arm, comparison.other) in pairs]
    answers = [answer for comparison in shown if isinstance(answer := getattr(comparison, quantity), Estimate)]
    if not answers:
        axes.set_yticks([])
        axes.text(0.5, 0.55, _why_not(study.comparisons, quantity), transform=axes.transAxes, ha="center", color=WARN)
        return
    ends = _ends(answers) if quantity != "gap" else (-np.inf, np.inf)
    for index, pair in enumerate(pairs):
        shift = 1 + DODGE * (index - (len(pairs) - 1) / 2)
        if quantity == "gap":
            _draw_mean_gap(axes, study, pair, style_at(index)[0])
        for comparison in shown:
            answer = getattr(comparison, quantity)
            if (comparison.arm, comparison.other) == pair and isinstance(answer, Estimate):
                _draw_answer(axes, float(comparison.budget) * shift, answer, ends, style_at(index))
    if quantity != "gap":
        _factor_ticks(axes, [*ends, neutral])
    _say_refusals(axes, shown, quantity)


def _ends(answers: Sequence[Estimate]) -> tuple[float, float]:
    """Of a panel of multipliers: intervals that end far beyond every value would press the values flat."""
    values = [answer.value for answer in answers]
    low, high = min(answer.low for answer in answers), max(answer.high for answer in answers)
    return max(low, min(*values, 1.0) / FAR), min(high, max(*values, 1.0) * FAR)


def _draw_answer(axes: Axes, place: float, answer: Estimate, ends: tuple[float, float], look: tuple[str, str]) -> None:
    """A value with its interval; an arrow where the interval is open or goes on beyond the panel."""
    colour, marker = look
    low, high = max(answer.low, ends[0]), min(answer.high, ends[1])
    axes.errorbar(
        [place], [answer.value], yerr=[[max(answer.value - low, 0.0)], [max(high - answer.value, 0.0)]], fmt=marker,
        color=colour, markersize=5, elinewidth=1.1, capsize=2.5, markeredgecolor="white", markeredgewidth=0.5,
    )  # fmt: skip
    for end, goes_on, arrow in (
        (low, answer.low_open or answer.low < ends[0], "v"),
        (high, answer.high_open or answer.high > ends[1], "^"),
    ):
        if goes_on:
            axes.plot([place], [end], arrow, color=colour, markersize=5, clip_on=False, zorder=5)


def _draw_mean_gap(axes: Axes, study: Study, pair: Pair, colour: str) -> None:
    """A band over the budgets that the mean is of."""
    for whole in study.over_budgets:
        if (whole.arm, whole.other) != pair or isinstance(whole.gap, Refusal):
            continue
        across = [float(whole.budgets[0]) / 1.2, float(whole.budgets[-1]) * 1.2]
        axes.fill_between(across, whole.gap.low, whole.gap.high, color=colour, alpha=0.15, linewidth=0, zorder=1)
        axes.plot(across, [whole.gap.value] * 2, color=colour, linewidth=0.9, linestyle="--", alpha=0.8, zorder=1)


def _factor_ticks(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if low <= 0 or high / low < WIDE:
        return
    axes.set(yscale="log", ylim=(low / 1.1, high * 1.1))
    subs = (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 20 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda factor, _: f"{factor:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _say_refusals(axes: Axes, comparisons: Sequence[Comparison], quantity: str) -> None:
    """A word in the column of each budget at which no pair has an answer."""
    for budget in dict.fromkeys(comparison.budget for comparison in comparisons):
        at_budget = [comparison for comparison in comparisons if comparison.budget == budget]
        answers = [getattr(comparison, quantity) or comparison.gap for comparison in at_budget]
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        if len(refusals) == len(answers):
            words = textwrap.fill(f"none: {REASONS[refusals[0].kind]}", 28)
            axes.text(
                float(budget), 0.06, words, transform=axes.get_xaxis_transform(), rotation=90, ha="center",
                va="bottom", fontsize=6.5, color=WARN, in_layout=False,
            )  # fmt: skip


def _why_not(comparisons: Sequence[Comparison], quantity: str) -> str:
    if not comparisons:
        return "fewer than two arms:\nnothing to compare"
    answers = [answer for comparison in comparisons for answer in (comparison.gap, getattr(comparison, quantity))]
    sentences = dict.fromkeys(answer.sentence for answer in answers if isinstance(answer, Refusal))
    if not sentences:
        return "needs a surface of both arms"
    return "\n".join(textwrap.fill(sentence, 46) for sentence in list(sentences)[:3])
