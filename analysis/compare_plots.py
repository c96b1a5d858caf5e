"""Figures that set arms against each other: at equal FLOPs, and over a lifetime of training and serving."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from analysis.advice import Lifetime, lifetime_optimum
from analysis.compare import Comparison
from analysis.drawing import (
    ARM_COLOURS,
    MARKERS,
    STYLE,
    WARN,
    arm_style,
    budget_ticks,
    count_ticks,
    plain_text,
    save,
)
from analysis.estimate import Estimate, Refusal, RefusalKind
from analysis.frontier import Study
from analysis.provenance import Provenance
from analysis.surface_fit import SurfaceFit

REFERENCE = "vanilla"
NUM_PLACES = 13
DODGE = 0.06
WIDE = 3.0
"""Ratio of the ends of an axis from which it is logarithmic."""
QUANTITIES = (
    ("gap", "L* minus the other arm's  (nats/token)", 0.0),
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
    axes.set_ylabel(label)
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


@dataclass(frozen=True, kw_only=True)
class LifetimePlace:
    """The cheapest model of one arm at one number of tokens served."""

    arm: str
    """The architecture."""
    served: float
    """Tokens that go through the trained model."""
    answer: Lifetime | Refusal
    """Its size, tokens and FLOPs, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class LifetimeStudy:
    """Which arm is cheapest at a loss, as more tokens are served."""

    target: float
    """The loss to reach, nats/token."""
    places: tuple[LifetimePlace, ...]
    """By arm, then by tokens served."""

    @property
    def refused(self) -> bool:
        """True where no arm has an answer."""
        return all(isinstance(each.answer, Refusal) for each in self.places)


def study_lifetime(
    study: Study, target: float | None = None, ratios: Mapping[str, float] | None = None
) -> LifetimeStudy | Refusal:
    """The cheapest models over numbers of served tokens from a tenth of the largest D trained to a thousand times it.

    Without a target: the highest of the arms' L* at the largest budget that all of them have, so that each can reach
    it. `ratios` by arm are those of `analysis.advice.serving_ratios`.
    """
    ratios = ratios or {}
    surfaces = [each.surface for each in study.frontiers if isinstance(each.surface, SurfaceFit)]
    if not surfaces:
        refused = [each.surface for each in study.frontiers if isinstance(each.surface, Refusal)]
        if refused:
            return refused[0]
        return Refusal(kind=RefusalKind.NO_OPTIMUM, sentence="no arm has a surface: a lifetime needs L(N, D).")
    if target is None:
        target = max(surface.law.l_opt(surface.largest_flops, surface.contour) for surface in surfaces)
    largest = float(study.points.frame["tokens"].to_numpy().max())
    served = np.geomspace(largest / 10, largest * 1000, NUM_PLACES)
    convention = study.points.budget_convention
    return LifetimeStudy(
        target=target,
        places=tuple(
            LifetimePlace(
                arm=surface.arm,
                served=float(tokens),
                answer=lifetime_optimum(surface, target, tokens, convention, ratios.get(surface.arm, 1.0)),
            )
            for surface in surfaces
            for tokens in served
        ),
    )


def plot_lifetime(
    study: Study, lifetime: LifetimeStudy, out_paths: Iterable[Path], provenance: Provenance | None = None
) -> None:
    """Training and serving FLOPs at one loss against the tokens served, with the size and training tokens."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.0, 3.9), layout="constrained")
        panels = list(figure.subplots(1, 3))
        labels = (("total", "training + serving FLOPs"), ("params", "N  (parameters)"), ("tokens", "D  (tokens)"))
        for axes, (quantity, label) in zip(panels, labels, strict=True):
            axes.set(xscale="log", yscale="log", xlabel="tokens served", ylabel=label)
            for arm in dict.fromkeys(each.arm for each in lifetime.places):
                _draw_lifetime(axes, study, lifetime, arm, quantity)
            count_ticks(axes.xaxis, 1e4)
            if axes.has_data() and quantity != "total":
                low, high = axes.get_ylim()
                count_ticks(axes.yaxis, high / low)
        panels[0].set_title(f"to reach {lifetime.target:.4f} nats/token", loc="left", fontweight="bold")
        handles = [
            Line2D([], [], color=arm_style(study.points.arms, arm)[0], marker=arm_style(study.points.arms, arm)[1],
                   label=plain_text(arm))
            for arm in dict.fromkeys(each.arm for each in lifetime.places)
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper right", ncols=6)
        if missing := _missing_arms(study, lifetime):
            figure.supxlabel(missing, fontsize=7.5, color=WARN, x=0.01, ha="left")
        save(figure, out_paths, provenance)


def _draw_lifetime(axes: Axes, study: Study, lifetime: LifetimeStudy, arm: str, quantity: str) -> None:
    colour, marker = arm_style(study.points.arms, arm)
    found = [
        (each.served, getattr(each.answer, quantity))
        for each in lifetime.places
        if each.arm == arm and isinstance(each.answer, Lifetime)
    ]
    if not found:
        return
    served = [place for place, _ in found]
    axes.plot(served, [answer.value for _, answer in found], color=colour, marker=marker, markersize=4, linewidth=1.4)
    axes.fill_between(
        served, [answer.low for _, answer in found], [answer.high for _, answer in found], color=colour, alpha=0.13,
        linewidth=0,
    )  # fmt: skip


def _missing_arms(study: Study, lifetime: LifetimeStudy) -> str:
    """A line for each arm without any answer."""
    sentences = {
        frontier.arm: frontier.surface.sentence for frontier in study.frontiers if isinstance(frontier.surface, Refusal)
    }
    for each in lifetime.places:
        if isinstance(each.answer, Refusal):
            sentences.setdefault(each.arm, each.answer.sentence)
    answered = {each.arm for each in lifetime.places if isinstance(each.answer, Lifetime)}
    return "\n".join(
        plain_text(textwrap.fill(f"{'Not everywhere' if arm in answered else 'No line'} for {arm}: {sentence}", 165))
        for arm, sentence in sentences.items()
    )
