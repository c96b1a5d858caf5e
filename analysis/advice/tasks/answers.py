"""Predicted task scores of one model, by two laws of its arm: through bits per byte, and straight from compute."""

from dataclasses import dataclass

import numpy as np

from analysis.advice.tasks.direct import DirectLaw, law_at
from analysis.advice.tasks.task_study import ArmLaws
from analysis.advice.tasks.two_steps import TaskPrediction
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.bootstrap import Sample
from analysis.surface.approach import surface_optimum
from analysis.surface.contour import contour_of_runs


@dataclass(frozen=True, kw_only=True)
class TaskAnswer:
    """One model of one arm."""

    arm: str
    """The architecture."""
    params: float | None
    """N; None where it was asked for by FLOPs and no optimum is known."""
    tokens: float | None
    """D, or None."""
    two_steps: TaskPrediction | Refusal
    """By bits per byte."""
    by_compute: Estimate | Refusal
    """The score of one more run by the direct law at its D/N, a share."""

    @property
    def refused(self) -> bool:
        """True where no law answers."""
        return isinstance(self.two_steps, Refusal) and isinstance(self.by_compute, Refusal)


def answer_for_model(laws: ArmLaws, params: float, tokens: float, *, forced: bool = False) -> TaskAnswer:
    """The score of N = `params` after D = `tokens`."""
    frame, two_steps = laws.cells.frame, laws.two_steps
    contour = contour_of_runs(*(frame[name].to_numpy() for name in ("params", "tokens", "flops")))
    flops = float(contour.flops_per_token(np.array([params]))[0]) * tokens
    direct = law_at(laws.direct, tokens / params)
    return TaskAnswer(
        arm=laws.cells.arm,
        params=params,
        tokens=tokens,
        two_steps=two_steps if isinstance(two_steps, Refusal) else two_steps.predict(params, tokens, forced=forced),
        by_compute=direct.predict(flops, forced=forced) if isinstance(direct, DirectLaw) else direct,
    )


def answer_for_budget(laws: ArmLaws, budget: str, *, forced: bool = False) -> TaskAnswer:
    """The score of the model whose right answers take the fewest bits per byte at `budget` (decimal FLOPs)."""
    if isinstance(laws.two_steps, Refusal):
        return _refused(laws, laws.two_steps)
    # A task's doubts are not the surface's (`two_steps`): what it says of the score is refused there.
    optimum = surface_optimum(laws.two_steps.surface, budget, forced=True)
    if isinstance(optimum.params, Sample) and isinstance(optimum.tokens, Sample):
        params, tokens = optimum.params.estimate.value, optimum.tokens.estimate.value
        return answer_for_model(laws, params, tokens, forced=forced)
    refusal = optimum.params if isinstance(optimum.params, Refusal) else optimum.tokens
    assert isinstance(refusal, Refusal)
    return _refused(laws, refusal)


def _refused(laws: ArmLaws, refusal: Refusal) -> TaskAnswer:
    return TaskAnswer(arm=laws.cells.arm, params=None, tokens=None, two_steps=refusal, by_compute=refusal)
