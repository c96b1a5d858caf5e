"""The figure of repeated text: loss by passes with the law of each arm, and what to train from a corpus of any size."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures.drawing import (
    ARM_COLOURS,
    FAINT,
    MARKERS,
    REASONS,
    budget_colours,
    count_ticks,
    loss_name,
    plain_text,
    tick_text,
)
from analysis.figures.layout import Sheet, legend_below, name_arm, say, say_instead
from analysis.frontier.study import Study
from analysis.report.text import plain
from analysis.runs.points import SAME_CORPUS
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.quadratic import Floats
from analysis.surface.extended.excess import ArmExcess, overfitting_term
from analysis.surface.extended.repeated import RepeatedFit, RepeatedOptimum
from analysis.surface.extended.repeated_law import RepeatedPoints
from analysis.surface.extended.repeated_words import optimum_as_json
from mor_core.units import budget_label

PANEL_INCHES = (3.4, 3.0)
NUM_LINE_PLACES = 60
NUM_CORPORA = 13
"""Sizes of the corpus at which the optimum is drawn."""
BEYOND = 3.0
"""Factor by which they go beyond the corpora that were repeated."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """Runs that differ in their passes, and the law through them."""

    name: str
    """What they have in common beside N: "corpus 3M", or for a cost run by run "size 38k-6L"."""
    rank: float
    """By which names are put in order: U, or N."""
    params: float
    """N."""
    passes_n: Floats
    """Passes over the text."""
    loss_n: Floats
    """Units of loss."""
    line_passes_m: Floats
    """Where the law is drawn."""
    line_loss_m: Floats
    """The law there."""
    fresh_loss: float | None
    """What fresh text gave; None where the law says it for every D."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmRepetition:
    """What the figure shows of one arm."""

    arm: str
    """The architecture."""
    tracks: tuple[Track, ...]
    """Loss by passes."""
    source: str
    """What the lines are: the form of the law, or the excess; empty where there are none."""
    optima: tuple[RepeatedOptimum, ...] | Refusal
    """By corpus, ascending, what to train; or why that is not known."""
    fresh_params: float | None
    """N* of fresh text at the same budget."""


def arms_of_repetition(study: Study, budget: str | None = None) -> list[ArmRepetition]:
    """What there is to show, by arm; `budget` (decimal FLOPs) is that of the optima, an arm's largest by default."""
    arms = sorted({*study.repeated, *study.excess})
    return [_of_arm(arm, study.repeated.get(arm), study.excess.get(arm), budget) for arm in arms]


def _of_arm(
    arm: str, law: RepeatedFit | Refusal | None, excess: ArmExcess | Refusal | None, budget: str | None
) -> ArmRepetition:
    tracks, source, fresh = (), "", None
    if isinstance(law, RepeatedFit):
        tracks, source = _tracks_of_law(law), f"law ({law.form})"
        flops = float(budget or _largest(law))
        fresh = float(law.fitted.fresh.optimum(flops, law.contour).params_k[0])
    elif isinstance(excess, ArmExcess):
        tracks, source = _tracks_of_excess(excess), "fresh text + κ R^(1/3) (N / U)^(2/3)"
    return ArmRepetition(arm=arm, tracks=tracks, source=source, optima=_optima(law, budget), fresh_params=fresh)


def _largest(law: RepeatedFit) -> str:
    return str(int(Decimal(f"{law.largest_flops:.3g}")))


def _optima(law: RepeatedFit | Refusal | None, budget: str | None) -> tuple[RepeatedOptimum, ...] | Refusal:
    if law is None:
        sentence = "none of its runs saw its text more than four times."
        return Refusal(kind=RefusalKind.NOT_IDENTIFIED, sentence=sentence)
    if isinstance(law, Refusal):
        return law
    corpora = np.geomspace(law.corpora[0] / BEYOND, law.corpora[-1] * BEYOND, NUM_CORPORA)
    answers = [law.optimum(budget or _largest(law), float(corpus)) for corpus in corpora]
    optima = tuple(answer for answer in answers if isinstance(answer, RepeatedOptimum))
    return optima or next(answer for answer in answers if isinstance(answer, Refusal))


def _tracks_of_law(law: RepeatedFit) -> tuple[Track, ...]:
    """One for every N and corpus whose runs differ in their passes."""
    points = law.best.problem.points
    assert isinstance(points, RepeatedPoints)
    passes_n = np.exp(points.log_tokens - points.log_unique)
    places = np.round(np.stack([points.log_params, points.log_unique], axis=1) / SAME_CORPUS)
    tracks = []
    for place in np.unique(places, axis=0):
        chosen = (places == place).all(axis=1) & (passes_n > 1)
        if not chosen.any():
            continue
        params, unique = (float(np.exp(log_x[chosen].mean())) for log_x in (points.log_params, points.log_unique))
        line_m = np.geomspace(1.0, passes_n[chosen].max(), NUM_LINE_PLACES)
        tracks.append(
            Track(
                name=f"corpus {tick_text(unique)}",
                rank=unique,
                params=params,
                passes_n=passes_n[chosen],
                loss_n=points.loss[chosen],
                line_passes_m=line_m,
                line_loss_m=law.fitted.loss(params, line_m * unique, unique)[0],
                fresh_loss=None,
            )
        )
    return tuple(tracks)


def _tracks_of_excess(excess: ArmExcess) -> tuple[Track, ...]:
    """One for every size and D, from fresh text on: the corpus is smaller where the passes are more."""
    tracks = []
    for (size, _), pairs in excess.pairs.sort("params", "seen").group_by("size", "seen", maintain_order=True):
        params, tokens, fresh = (float(pairs[name].to_numpy().mean()) for name in ("params", "tokens", "fresh_loss"))
        passes_n = pairs["epochs"].to_numpy()
        line_m = np.geomspace(1.0, passes_n.max(), NUM_LINE_PLACES)
        cost_m = excess.kappa.value * overfitting_term(params, tokens / line_m, line_m)
        tracks.append(
            Track(
                name=f"size {size}",
                rank=params,
                params=params,
                passes_n=passes_n,
                loss_n=pairs["loss"].to_numpy(),
                line_passes_m=line_m,
                line_loss_m=fresh + cost_m,
                fresh_loss=fresh,
            )
        )
    return tuple(tracks)


def plot_repeated(study: Study, arms: list[ArmRepetition], sheet: Sheet) -> None:
    """A row an arm: loss by passes with the law, N* and D* by corpus, and the passes that they mean."""
    tracks = sorted((track for arm in arms for track in arm.tracks), key=lambda track: track.rank)
    names = list(dict.fromkeys(track.name for track in tracks))
    colours = budget_colours(names)
    with sheet.style():
        with_optima = any(not isinstance(shown.optima, Refusal) for shown in arms)
        per_arm = 3 if with_optima else 1
        figure, panels = sheet.panels(per_arm * max(1, len(arms)), 3, PANEL_INCHES)
        for place, shown in enumerate(arms):
            losses, *others = panels[per_arm * place : per_arm * (place + 1)]
            name_arm(losses, shown.arm, pad=14)
            _draw_tracks(losses, shown, colours, f"{loss_name(study)}  ({study.points.loss_unit})")
            if with_optima:
                _draw_optima(others[0], others[1], shown)
        if not arms:
            say_instead(figure, "no run saw its text more than four times")
        else:
            legend_below(figure, _handles(colours, study.settings.resampling.level, arms))
        sheet.save(figure)


def _draw_tracks(axes: Axes, shown: ArmRepetition, colours: dict[str, Any], label: str) -> None:
    if not shown.tracks:
        sentence = REASONS[shown.optima.kind] if isinstance(shown.optima, Refusal) else "no run repeats its text"
        say(axes, sentence, framed=False)
        return
    names = list(colours)
    for track in shown.tracks:
        look = {"color": colours[track.name]}
        axes.plot(track.line_passes_m, track.line_loss_m, linewidth=1.0, **look)
        marker = MARKERS[names.index(track.name) % len(MARKERS)]
        axes.plot(track.passes_n, track.loss_n, linestyle="", marker=marker, markersize=3.6, alpha=0.9, **look)
        if track.fresh_loss is not None:
            axes.axhline(track.fresh_loss, linestyle=":", linewidth=0.8, **look)
    axes.set(xscale="log", xlabel="passes over the text  (D / U)", ylabel=label)
    most = max(float(track.passes_n.max()) for track in shown.tracks)
    count_ticks(axes.xaxis, most)
    axes.text(0.0, 1.015, shown.source, transform=axes.transAxes, va="bottom", fontsize=7, color=FAINT)


def _draw_optima(sizes: Axes, passes: Axes, shown: ArmRepetition) -> None:
    """N* and D* by corpus, and beside them D* / U, each with its interval."""
    if isinstance(shown.optima, Refusal):
        for axes in (sizes, passes):
            say(axes, f"no optimum:\n{REASONS[shown.optima.kind]}", framed=False)
        return
    corpora = np.array([optimum.unique_tokens for optimum in shown.optima])
    for axes, quantity, colour in ((sizes, "params", ARM_COLOURS[0]), (sizes, "tokens", ARM_COLOURS[1]),
                                   (passes, "epochs", ARM_COLOURS[1])):  # fmt: skip
        answers = [getattr(optimum, quantity).estimate for optimum in shown.optima]
        values = np.array([answer.value for answer in answers])
        # Dashed where no run made as many passes; the two lines meet.
        beyond = np.array([optimum.beyond for optimum in shown.optima])
        within = np.where(beyond, np.nan, values)
        axes.plot(corpora, values, color=colour, linewidth=1.0, linestyle="--")
        axes.plot(corpora, within, color=colour, linewidth=1.6)
        low, high = ([getattr(answer, end) for answer in answers] for end in ("low", "high"))
        axes.fill_between(corpora, low, high, color=colour, alpha=0.15, linewidth=0)
    if shown.fresh_params is not None:
        sizes.axhline(shown.fresh_params, color=ARM_COLOURS[0], linewidth=0.9, linestyle=":")
    passes.axhline(1.0, color=FAINT, linewidth=0.8, linestyle=":")
    for axes, label in ((sizes, "N*, D*"), (passes, "passes  (D* / U)")):
        axes.set(xscale="log", yscale="log", xlabel="U, tokens of the corpus", ylabel=label)
        count_ticks(axes.xaxis, corpora[-1] / corpora[0])
        low, high = axes.get_ylim()
        count_ticks(axes.yaxis, high / low)
    label = f"C = {budget_label(shown.optima[0].budget)}"
    sizes.text(0.0, 1.015, label, transform=sizes.transAxes, va="bottom", fontsize=7, color=FAINT)


def _handles(colours: dict[str, Any], level: float, arms: list[ArmRepetition]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, marker=MARKERS[place % len(MARKERS)], markersize=4, label=plain_text(name))
        for place, (name, colour) in enumerate(colours.items())
    ]
    if any(track.fresh_loss is not None for arm in arms for track in arm.tracks):
        handles.append(Line2D([], [], color=FAINT, linestyle=":", label="fresh text"))
    if any(not isinstance(arm.optima, Refusal) for arm in arms):
        handles += [
            Line2D([], [], color=ARM_COLOURS[0], linewidth=1.6, label=f"N* (dotted: fresh text), {level:.0%} interval"),
            Line2D([], [], color=ARM_COLOURS[1], linewidth=1.6, label=f"D*, and its passes, {level:.0%} interval"),
            Line2D([], [], color=FAINT, linewidth=1.0, linestyle="--", label="more passes than any run made"),
        ]
    return handles


def repeated_data(arms: list[ArmRepetition]) -> list[dict[str, Any]]:
    """What the figure shows, as plain values."""
    return [
        {
            "arm": shown.arm,
            "source": shown.source,
            "tracks": [
                {
                    "name": track.name,
                    "params": track.params,
                    "passes": track.passes_n.tolist(),
                    "loss": track.loss_n.tolist(),
                    "fresh_loss": track.fresh_loss,
                    "line": {"passes": track.line_passes_m.tolist(), "loss": track.line_loss_m.tolist()},
                }
                for track in shown.tracks
            ],
            "optima": plain(
                shown.optima
                if isinstance(shown.optima, Refusal)
                else [optimum_as_json(optimum) for optimum in shown.optima]
            ),
            "fresh_params": shown.fresh_params,
        }
        for shown in arms
    ]
