"""What to train with a budget: the optimum, or why none is given.

Within the data every approach of the study answers as it was fitted; beyond them the approaches of `advice.forecast`.
"""

from dataclasses import fields

from analysis.advice.forecast.backtest import Rolled
from analysis.advice.forecast.forecast import Advice, forecasts, roll_study
from analysis.advice.forecast.forecaster import COMBINED
from analysis.advice.forecast.outlook import SURFACE
from analysis.frontier.study import Frontier, Study
from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.approach import refused_optimum
from analysis.statistics.bootstrap import Sample
from analysis.surface.approach import surface_optimum
from analysis.surface.extended.repeated import RepeatedOptimum
from analysis.surface.fit import SurfaceFit, refuse_reach


def predict_budget(study: Study, budget: str, *, forced: bool = False) -> tuple[Advice, ...]:
    """N*, D* and L* of every arm of a study at `budget` (decimal FLOPs), by every approach.

    Beyond the data of an arm: its surface where the study has surfaces, laws through its minima where it has any other
    approach, and all combined where it has both.
    """
    reach = {arm: float(budget) / _largest(study, arm) for arm in study.points.arms}
    rolled = roll_study(study, arms=[arm for arm in reach if reach[arm] > 1])
    return tuple(
        advice
        for arm in study.points.arms
        for advice in (
            _beyond(study, rolled[arm], budget, forced)
            if arm in rolled
            else [_within(frontier, budget, reach[arm], forced) for frontier in study.frontiers if frontier.arm == arm]
        )
    )


def predict_corpus(
    study: Study, budget: str, unique_tokens: float, *, forced: bool = False
) -> dict[str, RepeatedOptimum | Refusal]:
    """By arm, N*, D*, passes and L* at `budget` (decimal FLOPs) from a corpus of `unique_tokens`, by the law of its
    runs that repeat their text."""
    nothing = Refusal(
        kind=RefusalKind.NOT_IDENTIFIED,
        sentence="none of its runs saw its text more than four times, or the table does not say how often (epochs or "
        "unique_tokens): what a repeated token is worth is not known.",
    )
    fits = {arm: study.repeated.get(arm, nothing) for arm in study.points.arms}
    return {
        arm: fit if isinstance(fit, Refusal) else fit.optimum(budget, unique_tokens, forced=forced)
        for arm, fit in fits.items()
    }


def _largest(study: Study, arm: str) -> float:
    """FLOPs; NaN for an arm without a point."""
    points = study.points.of_arm(arm)
    return float(points["flops"].to_numpy().max()) if points.height else float("nan")


def _beyond(study: Study, rolled: Rolled, budget: str, forced: bool) -> list[Advice]:
    frame = study.points.of_arm(rolled.forecaster.arm)
    return [
        Advice(**{field.name: getattr(forecast, field.name) for field in fields(Advice)})
        for forecast in forecasts(frame, rolled, budget, forced=forced)
        if _is_asked(forecast.approach, study.settings.approaches)
    ]


def _is_asked(approach: str, approaches: tuple[str, ...]) -> bool:
    has_surface, has_minima = SURFACE in approaches, any(name != SURFACE for name in approaches)
    if approach == COMBINED:
        return has_surface and has_minima
    return has_surface if approach == SURFACE else has_minima


def _within(frontier: Frontier, budget: str, reach: float, forced: bool) -> Advice:
    refusal = refuse_reach(float(budget), float(budget) / reach, forced=forced)
    if refusal is not None:  # Of an arm without a point.
        optimum = refused_optimum(budget, refusal)
    elif isinstance(frontier.surface, SurfaceFit):
        optimum = surface_optimum(frontier.surface, budget, forced=forced)
    else:
        optimum = frontier.predict(budget)
    params, tokens, loss = (
        answer.estimate if isinstance(answer, Sample) else answer
        for answer in (optimum.params, optimum.tokens, optimum.loss)
    )
    return Advice(
        arm=frontier.arm,
        approach=frontier.approach,
        budget=budget,
        reach=reach,
        params=params,
        tokens=tokens,
        loss=loss,
    )
