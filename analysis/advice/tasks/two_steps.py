"""What a model of N parameters, trained on D tokens, scores on a task: bits per byte of the right answer by L(N, D),
and from there the score by a curve from chance to 1 (Bhagia et al. 2024, arXiv:2412.04403).

The first step is `analysis.surface`, fitted to the bits per byte of the task; the second `score_curve`, fitted to the
scores of the same cells at the bits per byte that they have. An interval carries both: draw i of one goes with draw i
of the other, and one more run has the noise of both.

Doubts of a surface about its exponents are not held against a score. What a score needs is bits per byte at one place,
and its interval says how well they are known there: runs of four sizes that leave an exponent open by a factor of
three may still agree on the score to a few points. Where the interval is too wide to say anything, none is given.
The other doubts (sizes too close together, a largest budget that the law misses, exponents beyond anything published)
mean that the intervals are not to be trusted either, and are refusals here too.
"""

from dataclasses import dataclass, replace

import numpy as np

from analysis.advice.tasks.score_curve import ScoreCurve, ScorePoints, fit_score_curve
from analysis.advice.tasks.scores import TaskCells
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling, interval
from analysis.surface.fit import SurfaceFit, refuse_reach
from analysis.surface.identifiability import Doubt, DoubtKind

IN_THE_INTERVAL = (DoubtKind.LOOSE_EXPONENT, DoubtKind.SIZE_OR_SHAPE)
"""Doubts about exponents, which the interval of a score has in it."""
WIDEST = 0.5
"""Width of the interval of one more run, over the way from chance to 1, beyond which a score is refused."""


@dataclass(frozen=True, kw_only=True)
class TaskPrediction:
    """What one model would score."""

    bits_per_byte: Estimate
    """Of the right answer, by the law; bits/byte."""
    score: Estimate
    """By the law: where the mean over seeds lies; a share from 0 to 1."""
    run: Estimate
    """Of one more run, its own noise included; a share."""
    reach: float
    """N D over the largest N D fitted; above 1 this extrapolates."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskLaw:
    """Both steps of one arm and task."""

    arm: str
    """The architecture."""
    task: str
    """The task's name."""
    surface: SurfaceFit
    """Bits per byte of the right answer by N and D."""
    curve: ScoreCurve
    """The score by minus bits per byte."""

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Doubts of the surface that a score is refused for beyond the runs."""
        return tuple(doubt for doubt in self.surface.doubts if doubt.kind not in IN_THE_INTERVAL)

    def predict(self, params: float, tokens: float, *, forced: bool = False) -> TaskPrediction | Refusal:
        """The score at `params` and `tokens`, or why there is none; `forced` gives it all the same."""
        refusal = None if forced else self._refuse_place(params, tokens)
        if refusal:
            return refusal
        drawn_k, run_k = self.surface.loss_draws(params, tokens)
        value, level = float(self.surface.law.loss(params, tokens)), self.surface.resampling.level
        noise_k = self.curve.run_noise(self.arm, self.task)
        score = self.curve.score(-value)
        answer = TaskPrediction(
            bits_per_byte=interval(value, drawn_k, level),
            score=interval(score, self.curve.drawn(-drawn_k), level),
            run=interval(score, np.clip(self.curve.drawn(-run_k) + noise_k, 0.0, 1.0), level),
            reach=params * tokens / self._largest,
        )
        return answer if forced else _refuse_width(answer.run, self.curve.chance) or answer

    @property
    def _largest(self) -> float:
        points = self.surface.best.problem.points
        return float(np.exp((points.log_params + points.log_tokens).max()))

    def _refuse_place(self, params: float, tokens: float) -> Refusal | None:
        flops = float(self.surface.contour.flops_per_token(np.array([params]))[0]) * tokens
        doubted = replace(self.surface, doubts=self.doubts)
        return refuse_reach(flops, self.surface.largest_flops, forced=False) or doubted.refuse_beyond(params, tokens)


def _refuse_width(run: Estimate, chance: float) -> Refusal | None:
    if run.high - run.low <= WIDEST * (1 - chance):
        return None
    return Refusal(
        kind=RefusalKind.EXTRAPOLATION,
        sentence=f"one more run would score {100 * run.low:.0f} to {100 * run.high:.0f} % ({run.level:.0%}), more than "
        f"{WIDEST:.0%} of the way from chance to 1: nothing is known of it there.",
    )


def fit_task_law(cells: TaskCells, surface: SurfaceFit | Refusal | None, resampling: Resampling) -> TaskLaw | Refusal:
    """Both steps of an arm; `surface` is that of its bits per byte, over the same cells."""
    points = ScorePoints(
        x_n=-cells.frame["bits_per_byte"].to_numpy(),
        score_n=cells.frame["score"].to_numpy(),
        trunk_keys=tuple(cells.frame["trunk_key"].to_list()),
        chance=cells.chance,
    )
    curve = fit_score_curve(points, "logistic", cells.arm, resampling)
    if isinstance(curve, Refusal):
        return curve
    if not isinstance(surface, SurfaceFit):
        why = "no surface was fitted." if surface is None else surface.sentence
        kind = RefusalKind.NOT_IDENTIFIED if surface is None else surface.kind
        return Refusal(kind=kind, sentence=f"bits per byte of the right answer by N and D: {why}")
    return TaskLaw(arm=cells.arm, task=cells.task, surface=surface, curve=curve)
