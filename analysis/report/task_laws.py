"""Task laws in words and as plain values."""

import math
from typing import Any

from analysis.advice.tasks.answers import TaskAnswer
from analysis.advice.tasks.direct import DirectLaw
from analysis.advice.tasks.task_study import ArmLaws, TaskStudy
from analysis.advice.tasks.two_steps import TaskLaw, TaskPrediction
from analysis.report.text import plain
from analysis.statistics.answers import Estimate, Refusal
from mor_core.units import short_count

FAR = 10.0
"""Reach from which an answer is called a guess."""


def percent_text(share: Estimate) -> str:
    """A score with its interval: 45.8 % [42.5, 49.5]."""
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def law_lines(laws: ArmLaws) -> list[str]:
    """What was fitted to an arm: one line a law, or a refusal."""
    two_steps, direct = laws.two_steps, laws.direct
    lines = [f"two steps: refused: {two_steps.sentence}"] if isinstance(two_steps, Refusal) else _two_steps(two_steps)
    if isinstance(direct, Refusal):
        return [*lines, f"by compute: refused: {direct.sentence}"]
    return [*lines, *(_direct(law) for law in direct)]


def study_lines(study: TaskStudy) -> list[str]:
    """The laws of every arm."""
    lines = []
    for laws in study.arms:
        lines.append(f"{laws.cells.arm}: {laws.cells.frame.height} cells; chance is {100 * laws.cells.chance:.4g} %")
        lines += [f"  {line}" for line in law_lines(laws)]
    return lines


def answer_lines(answer: TaskAnswer) -> list[str]:
    """What one model of an arm would score."""
    if answer.params is None or answer.tokens is None:
        return [f"{answer.arm}: refused: {_sentence(answer.two_steps)}"]
    place = f"{answer.arm}, N {short_count(answer.params)}, D {short_count(answer.tokens)} tokens"
    return [f"{place}:", *(f"  {line}" for line in (*_by_steps(answer.two_steps), _by_compute(answer.by_compute)))]


def _sentence(answer: TaskPrediction | Refusal) -> str:
    return answer.sentence if isinstance(answer, Refusal) else ""


def _by_steps(answer: TaskPrediction | Refusal) -> list[str]:
    if isinstance(answer, Refusal):
        return [f"two steps: refused: {answer.sentence}"]
    bits = answer.bits_per_byte
    lines = [
        f"two steps: {percent_text(answer.run)} for one run, {percent_text(answer.score)} for the mean over seeds",
        f"  by {bits.value:.4f} [{bits.low:.4f}, {bits.high:.4f}] bits/byte of the right answer",
    ]
    if answer.reach > FAR:
        lines.append(
            f"  flagged: {answer.reach:.3g} times the largest N D fitted; an extrapolation this far is a guess"
        )
    return lines


def _by_compute(answer: Estimate | Refusal) -> str:
    shown = f"refused: {answer.sentence}" if isinstance(answer, Refusal) else f"{percent_text(answer)} for one run"
    return f"by compute: {shown}"


def task_study_as_json(study: TaskStudy) -> dict[str, Any]:
    """Everything but the draws."""
    return {"task": study.task, "arms": [_arm_as_json(laws) for laws in study.arms]}


def _two_steps(law: TaskLaw) -> list[str]:
    surface, curve = law.surface.law, law.curve
    lines = [
        f"bits/byte = {surface.E:.4g} + {surface.A:.4g} / N^{surface.alpha:.3g} + {surface.B:.4g} / "
        f"D^{surface.beta:.3g}",
        f"score = chance + (1 - chance) / (1 + exp({curve.rate:.3g} (bits/byte - {-curve.midpoint:.4g}))), scatter "
        f"{100 * curve.noise.sd:.2g} points; the best cells have come {curve.reached:.0%} of the way to 1",
    ]
    return lines + [f"doubted, and refused beyond the runs: {doubt.sentence}" for doubt in law.doubts]


def _direct(law: DirectLaw) -> str:
    curve = law.curve
    return (
        f"by compute at D/N = {law.ratio:.3g}: -ln q = (C / {_where_one(law):.3g})^-{curve.rate:.3g} for "
        f"the share q of the way from chance to 1, scatter {100 * curve.noise.sd:.2g} points ({curve.num_cells} cells)"
    )


def _where_one(law: DirectLaw) -> float:
    """FLOPs at which -ln q is 1."""
    return math.exp(law.curve.midpoint)


def _arm_as_json(laws: ArmLaws) -> dict[str, Any]:
    two_steps, direct = laws.two_steps, laws.direct
    return {
        "arm": laws.cells.arm,
        "chance": laws.cells.chance,
        "cells": laws.cells.frame.height,
        "two_steps": plain(two_steps) if isinstance(two_steps, Refusal) else _two_steps_as_json(two_steps),
        "direct": plain(direct)
        if isinstance(direct, Refusal)
        else [{"ratio": law.ratio, "exponent": law.curve.rate, "flops_at_one": _where_one(law)} for law in direct],
    }


def _two_steps_as_json(law: TaskLaw) -> dict[str, Any]:
    return {
        "bits_per_byte": plain(law.surface.law),
        "rate": law.curve.rate,
        "midpoint_bits_per_byte": -law.curve.midpoint,
        "scatter": law.curve.noise.sd,
        "reached": law.curve.reached,
        "doubts": [doubt.sentence for doubt in law.doubts],
    }
