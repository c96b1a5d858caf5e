"""The figure of a lifetime: what training and serving cost together, against the tokens that will be served."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.advice.lifetime import Lifetime, lifetime_study
from analysis.figures.drawing import FAINT, WARN, arm_style, count_ticks, plain_text
from analysis.figures.layout import Sheet, legend_below, write_below
from analysis.frontier.study import Study
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.surface.fit import SurfaceFit

NUM_PLACES = 13
PANEL_INCHES = (4.0, 3.7)
FOOTER_CHARACTERS = 13.7
"""Of the lines below the figure, for each of its inches."""


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
    """The loss to reach."""
    loss_unit: str
    """Its unit."""
    served: float
    """Tokens that will be served, which are marked; 0 where nobody said."""
    places: tuple[LifetimePlace, ...]
    """By arm, then by tokens served."""

    @property
    def refused(self) -> bool:
        """True where no arm has an answer."""
        return all(isinstance(place.answer, Refusal) for place in self.places)


def study_lifetime(
    study: Study, target: float | None, served_tokens: float = 0.0, ratios: Mapping[str, float] | None = None
) -> LifetimeStudy | Refusal:
    """The cheapest models over numbers of served tokens from a tenth of the largest D trained to a thousand times it.

    Without a target: the highest of the arms' L* at the largest budget that all of them have, so that each can reach
    it. `served_tokens`, where there are any, are a place of their own. `ratios` of depth by arm are those of
    `analysis.advice.serving.depth_ratios`.
    """
    surfaces = [frontier.surface for frontier in study.frontiers if isinstance(frontier.surface, SurfaceFit)]
    if not surfaces:
        refused = [frontier.surface for frontier in study.frontiers if isinstance(frontier.surface, Refusal)]
        if refused:
            return refused[0]
        return Refusal(kind=RefusalKind.NO_OPTIMUM, sentence="no arm has a surface: a lifetime needs L(N, D).")
    if target is None:
        target = max(surface.law.l_opt(surface.largest_flops, surface.contour) for surface in surfaces)
    largest = float(study.points.frame["tokens"].to_numpy().max())
    served = np.geomspace(largest / 10, largest * 1000, NUM_PLACES)
    if served_tokens > 0:
        served = np.unique(np.append(served, served_tokens))
    answers = [lifetime_study(study, target, float(tokens), ratios) for tokens in served]
    places = (
        LifetimePlace(arm=surface.arm, served=float(tokens), answer=answers_of_arms[surface.arm])
        for surface in surfaces
        for tokens, answers_of_arms in zip(served, answers, strict=True)
    )
    return LifetimeStudy(target=target, loss_unit=study.points.loss_unit, served=served_tokens, places=tuple(places))


def plot_lifetime(study: Study, lifetime: LifetimeStudy, sheet: Sheet) -> None:
    """What training and serving cost at one loss against the tokens served, with the size and training tokens."""
    with sheet.style():
        labels = [("total", "training + serving FLOPs"), ("params", "N  (parameters)"), ("tokens", "D  (tokens)")]
        figure, panels = sheet.panels(len(labels), len(labels), PANEL_INCHES)
        for axes, (quantity, label) in zip(panels, labels, strict=True):
            axes.set(xscale="log", yscale="log", xlabel="tokens served", ylabel=label)
            for arm in dict.fromkeys(place.arm for place in lifetime.places):
                _draw_lifetime(axes, study, lifetime, arm, quantity)
            if lifetime.served > 0:
                axes.axvline(lifetime.served, color=FAINT, linestyle=":", linewidth=1.0)
            count_ticks(axes.xaxis, 1e4)
            if axes.has_data() and quantity != "total":
                low, high = axes.get_ylim()
                count_ticks(axes.yaxis, high / low)
        title = f"to reach {lifetime.target:.4f} {lifetime.loss_unit}"
        panels[0].set_title(title, loc="left", fontweight="bold")
        handles = [
            Line2D([], [], color=arm_style(study.points.arms, arm)[0], marker=arm_style(study.points.arms, arm)[1],
                   label=plain_text(arm))
            for arm in dict.fromkeys(place.arm for place in lifetime.places)
        ]  # fmt: skip
        legend_below(figure, handles)
        if missing := _missing_arms(study, lifetime, int(FOOTER_CHARACTERS * figure.get_figwidth())):
            write_below(figure, missing, fontsize=7.5, color=WARN)
        sheet.save(figure)


def _draw_lifetime(axes: Axes, study: Study, lifetime: LifetimeStudy, arm: str, quantity: str) -> None:
    colour, marker = arm_style(study.points.arms, arm)
    answers = [
        (place.served, getattr(place.answer, quantity))
        for place in lifetime.places
        if place.arm == arm and isinstance(place.answer, Lifetime)
    ]
    if not answers:
        return
    served = [tokens for tokens, _ in answers]
    low, high = [answer.low for _, answer in answers], [answer.high for _, answer in answers]
    axes.plot(served, [answer.value for _, answer in answers], color=colour, marker=marker, markersize=4, linewidth=1.4)
    axes.fill_between(served, low, high, color=colour, alpha=0.13, linewidth=0)


def _missing_arms(study: Study, lifetime: LifetimeStudy, characters: int) -> str:
    """A line for each arm without any answer."""
    sentences = {
        frontier.arm: frontier.surface.sentence for frontier in study.frontiers if isinstance(frontier.surface, Refusal)
    }
    for place in lifetime.places:
        if isinstance(place.answer, Refusal):
            sentences.setdefault(place.arm, place.answer.sentence)
    answered = {place.arm for place in lifetime.places if isinstance(place.answer, Lifetime)}
    return "\n".join(
        plain_text(
            textwrap.fill(f"{'Not everywhere' if arm in answered else 'No line'} for {arm}: {sentence}", characters)
        )
        for arm, sentence in sentences.items()
    )
