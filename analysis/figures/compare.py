"""The figure that sets arms against each other at equal FLOPs."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from analysis.figures.drawing import ARM_COLOURS, MARKERS, STYLE, WARN, budget_ticks, plain_text, save
from analysis.frontier.compare import Comparison
from analysis.frontier.study import Study
from analysis.report.provenance import Provenance
from analysis.statistics.answers import Estimate, Refusal

REFERENCE = "vanilla"
DODGE = 0.06
WIDE = 3.0
"""Ratio of the ends of an axis from which it is logarithmic."""
QUANTITIES = (
    ("gap", "L* minus the other arm's  ({unit})", 0.0),
    ("compute", "compute multiplier", 1.0),
    ("params", "parameter multiplier", 1.0),
)


def plot_compare(studies: Sequence[Study], out_paths: Iterable[Path], provenance: Provenance | None = None) -> None:
    """Loss gap, compute and parameter multipliers against C; one row for each study (one a kind of loss).

    With more than two arms, each is set against vanilla where there is one; the data hold every pair.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.0, 3.1 * len(studies) + 0.6), layout="constrained")
        grid = figure.subplots(len(studies), len(QUANTITIES), squeeze=False)
        pairs = _shown_pairs(studies[0])
        for panels, study in zip(grid, studies, strict=True):
            for axes, (quantity, label, neutral) in zip(panels, QUANTITIES, strict=True):
                _draw_comparison(axes, study, pairs, quantity, label, neutral)
            panels[0].set_title(study.points.loss_column, loc="left", fontweight="bold")
        handles = [
            Line2D([], [], color=_pair_style(index)[0], marker=_pair_style(index)[1], linestyle="",
                   label=plain_text(f"{arm} against {other}"))
            for index, (arm, other) in enumerate(pairs)
        ]  # fmt: skip
        if handles:
            figure.legend(handles=handles, loc="outside upper right", ncols=min(4, len(handles)))
        save(figure, out_paths, provenance)


def _pair_style(index: int) -> tuple[str, str]:
    return ARM_COLOURS[index % len(ARM_COLOURS)], MARKERS[index % len(MARKERS)]


def _shown_pairs(study: Study) -> list[tuple[str, str]]:
    pairs = list(dict.fromkeys((each.arm, each.other) for each in study.comparisons))
    with_reference = [pair for pair in pairs if REFERENCE in pair]
    return with_reference or pairs


def _draw_comparison(
    axes: Axes, study: Study, pairs: list[tuple[str, str]], quantity: str, label: str, neutral: float
) -> None:
    axes.set_xscale("log")
    axes.axhline(neutral, color="black", linewidth=0.8)
    budgets = sorted({int(each.budget) for each in study.comparisons})
    given = 0
    for index, (arm, other) in enumerate(pairs):
        colour, marker = _pair_style(index)
        mine = [each for each in study.comparisons if (each.arm, each.other) == (arm, other)]
        answers = [(each, getattr(each, quantity)) for each in mine]
        found = [(float(each.budget), answer) for each, answer in answers if isinstance(answer, Estimate)]
        given += len(found)
        shift = 1 + DODGE * (index - (len(pairs) - 1) / 2)
        for flops, answer in found:
            axes.errorbar(
                [flops * shift], [answer.value],
                yerr=[[max(answer.value - answer.low, 0.0)], [max(answer.high - answer.value, 0.0)]],
                fmt=marker, color=colour, markersize=5, elinewidth=1.1, capsize=2.5, markeredgecolor="white",
                markeredgewidth=0.5,
            )  # fmt: skip
    axes.set_xlabel(f"C  ({study.points.budget_convention} training FLOPs)")
    axes.set_ylabel(label.format(unit=study.points.loss_unit))
    if budgets:
        axes.set_xlim(budgets[0] / 1.5, budgets[-1] * 1.5)
        budget_ticks(axes, budgets)
    if given == 0:
        axes.set_yticks([])
        axes.text(0.5, 0.55, _why_not(study.comparisons, quantity), transform=axes.transAxes, ha="center", color=WARN)
    elif quantity != "gap":
        _factor_ticks(axes)


def _factor_ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    if low <= 0 or high / low < WIDE:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0), numticks=12))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _why_not(comparisons: Sequence[Comparison], quantity: str) -> str:
    if not comparisons:
        return "fewer than two arms:\nnothing to compare"
    answers = [answer for each in comparisons for answer in (each.gap, getattr(each, quantity))]
    sentences = dict.fromkeys(answer.sentence for answer in answers if isinstance(answer, Refusal))
    if not sentences:
        return "needs a surface of both arms"
    return "\n".join(textwrap.fill(sentence, 46) for sentence in list(sentences)[:3])
