"""The figure of a task's laws: bits per byte by tokens, and the score by bits per byte."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.advice.tasks.answers import TaskAnswer
from analysis.advice.tasks.task_study import ArmLaws, TaskStudy
from analysis.advice.tasks.two_steps import TaskLaw, TaskPrediction
from analysis.figures.drawing import FAINT, REASONS, arm_style, count_ticks, plain_text
from analysis.figures.layout import LEAST_PANEL_HEIGHT, Sheet, legend_below
from analysis.report.text import plain
from analysis.statistics.answers import Refusal
from analysis.statistics.quadratic import Floats

NUM_PLACES = 160
BEYOND = 0.25
"""How far the curve is drawn towards better cells, as a share of the bits per byte that they span."""


def plot_task(study: TaskStudy, sheet: Sheet, answers: tuple[TaskAnswer, ...] = ()) -> None:
    """Both steps of every arm, arms by colour; `answers` are predictions, which are drawn where both steps meet."""
    arms = [laws.cells.arm for laws in study.arms]
    with sheet.style():
        inches = sheet.width or 8.4
        figure = Figure(figsize=(inches, max(0.42 * inches, LEAST_PANEL_HEIGHT + 0.6)), layout="constrained")
        first, second = figure.subplots(1, 2)
        for laws in study.arms:
            colour, marker = arm_style(arms, laws.cells.arm)
            _draw_bits(first, laws, colour, marker)
            _draw_scores(second, laws, colour, marker)
        for answer in answers:
            _draw_answer(second, answer, arm_style(arms, answer.arm)[0])
        _finish(first, second, study)
        legend_below(figure, _handles(study, arms, answers))
        sheet.save(figure)


def task_data(study: TaskStudy) -> list[dict[str, Any]]:
    """The cells, and the laws on a grid: what the figure shows."""
    shown = []
    for laws in study.arms:
        law, frame = laws.two_steps, laws.cells.frame
        entry: dict[str, Any] = {"arm": laws.cells.arm, "chance": laws.cells.chance, "cells": frame.to_dicts()}
        if isinstance(law, Refusal):
            shown.append(entry | {"refused": plain(law)})
            continue
        bits_m = _bits(frame["bits_per_byte"].to_numpy())
        low_m, high_m = _band(law, bits_m)
        scores = [law.curve.score(-bits) for bits in bits_m]
        curve = {"bits_per_byte": bits_m, "score": scores, "low": low_m, "high": high_m}
        shown.append(entry | {"curve": {name: [float(value) for value in column] for name, column in curve.items()}})
    return shown


def _draw_bits(axes: Axes, laws: ArmLaws, colour: Any, marker: str) -> None:
    """Bits per byte of the cells, and the surface along each size."""
    for _, cells in sorted(laws.cells.frame.group_by("size"), key=lambda group: group[1]["params"].to_numpy().mean()):
        tokens_n, bits_n = cells["tokens"].to_numpy(), cells["bits_per_byte"].to_numpy()
        axes.plot(tokens_n, bits_n, linestyle="", marker=marker, color=colour, markersize=4)
        if isinstance(laws.two_steps, TaskLaw):
            tokens_m = np.geomspace(tokens_n.min(), tokens_n.max(), NUM_PLACES)
            size = float(cells["params"].to_numpy().mean())
            axes.plot(tokens_m, laws.two_steps.surface.law.loss(size, tokens_m), color=colour, linewidth=0.9)


def _draw_scores(axes: Axes, laws: ArmLaws, colour: Any, marker: str) -> None:
    """Scores of the cells, and the curve with its interval."""
    bits_n, score_n = laws.cells.frame["bits_per_byte"].to_numpy(), laws.cells.frame["score"].to_numpy()
    axes.plot(bits_n, 100 * score_n, linestyle="", marker=marker, color=colour, markersize=4)
    axes.axhline(100 * laws.cells.chance, color=FAINT, linewidth=0.8, linestyle=":")
    if isinstance(laws.two_steps, Refusal):
        return
    bits_m = _bits(bits_n)
    low_m, high_m = _band(laws.two_steps, bits_m)
    curve = laws.two_steps.curve
    axes.plot(bits_m, [100 * curve.score(-bits) for bits in bits_m], color=colour, linewidth=1.1)
    axes.fill_between(bits_m, 100 * low_m, 100 * high_m, color=colour, alpha=0.15, linewidth=0)


def _bits(bits_n: Floats) -> Floats:
    return np.linspace(bits_n.min() - BEYOND * np.ptp(bits_n), bits_n.max(), NUM_PLACES)


def _band(law: TaskLaw, bits_m: Floats) -> tuple[Floats, Floats]:
    """Pointwise interval of the curve, (m,) twice, as shares."""
    tail = 50 * (1 - law.curve.resampling.level)
    ends = np.stack([np.percentile(law.curve.drawn(np.array([-bits])), [tail, 100 - tail]) for bits in bits_m], axis=1)
    return ends[0], ends[1]


def _draw_answer(axes: Axes, answer: TaskAnswer, colour: Any) -> None:
    """A prediction with both of its intervals."""
    if not isinstance(answer.two_steps, TaskPrediction):
        return
    bits, run = answer.two_steps.bits_per_byte, answer.two_steps.run
    axes.errorbar(
        [bits.value], [100 * run.value], xerr=[[bits.value - bits.low], [bits.high - bits.value]],
        yerr=[[100 * (run.value - run.low)], [100 * (run.high - run.value)]], fmt="*", markersize=9, color=colour,
        ecolor=(colour, 0.6), elinewidth=1.0, capsize=2.0,
    )  # fmt: skip


def _finish(first: Axes, second: Axes, study: TaskStudy) -> None:
    tokens_n = np.concatenate([laws.cells.frame["tokens"].to_numpy() for laws in study.arms])
    first.set(xscale="log", xlabel="D (tokens)", ylabel="bits/byte of the right answer")
    count_ticks(first.xaxis, float(tokens_n.max() / tokens_n.min()))
    first.set_title(plain_text(study.task), loc="left", fontweight="bold")
    second.set(xlabel="bits/byte of the right answer", ylabel="score (%)")
    second.invert_xaxis()
    reasons = [
        f"{plain_text(laws.cells.arm)}: {REASONS[laws.two_steps.kind]}"
        for laws in study.arms
        if isinstance(laws.two_steps, Refusal)
    ]
    second.text(
        0.02, 0.98, "\n".join(f"no curve for {reason}" for reason in reasons), transform=second.transAxes, va="top",
        fontsize=7.5, color=FAINT,
    )  # fmt: skip


def _handles(study: TaskStudy, arms: list[str], answers: tuple[TaskAnswer, ...]) -> list[Line2D]:
    handles = [
        Line2D(
            [], [], color=arm_style(arms, arm)[0], marker=arm_style(arms, arm)[1], linestyle="", label=plain_text(arm)
        )
        for arm in arms
    ]
    handles.append(Line2D([], [], color=FAINT, linestyle=":", label="chance"))
    if any(isinstance(answer.two_steps, TaskPrediction) for answer in answers):
        handles.append(Line2D([], [], color=FAINT, marker="*", linestyle="", label="predicted, one more run"))
    return handles
