"""Every figure of runs, for the command line and for notebooks: fits them as the figure needs it.

What makes a figure takes the runs; its other parameters are the figure's options.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from analysis.frontier.study import Study
from analysis.runs.losses import BPB, NATS_PER_TOKEN, parse_loss
from analysis.runs.points import TableError
from analysis.statistics.answers import Estimate, Refusal
from mor_core.errors import Fix
from orchestrator.records.curves import cell_curves
from orchestrator.records.display.runs_figure import PARABOLA, SURFACE, DrawnRuns, NoFigure, RefusedFigure, RunsFigure
from orchestrator.records.fits.fitted import Fitted

NO_RUN = "the table has no run that a fit can use"
NO_REPEATS = "no run saw its text more than four times, or the table does not say how often (epochs or unique_tokens)"


def _isoflop(runs: DrawnRuns, *, loss: str = "loss", paper: bool = False) -> RunsFigure:
    from analysis.figures.figure_data import isoflop_data
    from analysis.figures.isoflop import plot_isoflop

    fitted = runs.fit(loss, PARABOLA)
    reference, method = _beside_paper(fitted, "parabola", paper)
    return RunsFigure(
        name="isoflop",
        fitted=fitted,
        plot=partial(plot_isoflop, fitted.study, reference=reference),
        data=partial(isoflop_data, fitted.study),
        method=method,
        refusals=_without_number(fitted.study),
    )


def _frontier(runs: DrawnRuns, *, loss: str = "loss", paper: bool = False) -> RunsFigure:
    from analysis.figures.figure_data import frontier_data
    from analysis.figures.frontier import plot_frontier

    fitted = runs.fit(loss, PARABOLA)
    reference, method = _beside_paper(fitted, "surface", paper)
    return RunsFigure(
        name="frontier",
        fitted=fitted,
        plot=partial(plot_frontier, fitted.study, reference=reference),
        data=partial(frontier_data, fitted.study),
        method=method,
        refusals=_without_number(fitted.study),
    )


def _surface(runs: DrawnRuns, *, loss: str = "loss", tied: bool = False) -> RunsFigure:
    from analysis.figures.figure_data import surface_data
    from analysis.figures.surface import plot_surface

    fitted = runs.fit(loss, SURFACE, tied)
    return RunsFigure(
        name="surface",
        fitted=fitted,
        plot=partial(plot_surface, fitted.study),
        data=partial(surface_data, fitted.study),
        refusals=_without_surface(fitted.study),
    )


def _residuals(runs: DrawnRuns, *, loss: str = "loss", tied: bool = False) -> RunsFigure:
    from analysis.figures.figure_data import residuals_data
    from analysis.figures.surface import plot_residuals

    fitted = runs.fit(loss, SURFACE, tied)
    return RunsFigure(
        name="residuals",
        fitted=fitted,
        plot=partial(plot_residuals, fitted.study),
        data=partial(residuals_data, fitted.study),
        refusals=_without_surface(fitted.study),
    )


def _compare(runs: DrawnRuns, *, other: str | None = None, loss: str | None = None) -> RunsFigure:
    from analysis.figures.compare import plot_compare
    from analysis.figures.figure_data import compare_data

    compared = runs.compare(other, loss)
    studies = [fitted.study for fitted in compared]
    has_gap = any(isinstance(pair.gap, Estimate) for study in studies for pair in study.comparisons)
    reasons = [pair.sentence for pair in studies[0].comparisons] or ["fewer than two arms: nothing to compare"]
    return RunsFigure(
        name="compare",
        stem="compare" if other is None else f"compare-with-{other}",
        fitted=compared[0],
        plot=partial(plot_compare, studies),
        data=partial(compare_data, studies),
        refusals=() if has_gap else reasons,
    )


def _repeated(
    runs: DrawnRuns, *, budget: str | float | None = None, loss: str = "loss", tied: bool = False
) -> RunsFigure:
    from analysis.figures.advice.repeated import arms_of_repetition, plot_repeated, repeated_data
    from mor_core.units import parse_budget

    try:
        flops = None if budget is None else str(parse_budget(str(budget)))
    except ValueError as error:
        raise NoFigure(f"budget: {error}") from error
    fitted = runs.fit(loss, SURFACE, tied)
    study = fitted.study
    arms = arms_of_repetition(study, flops)
    refused = {arm: answer for arm, answer in {**study.repeated, **study.excess}.items() if isinstance(answer, Refusal)}
    return RunsFigure(
        name="repeated",
        fitted=fitted,
        plot=partial(plot_repeated, study, arms),
        data=partial(repeated_data, arms),
        method="loss by N, D and the passes over the text",
        refusals=() if study.says_of_repetition else _sentences(refused.items(), NO_REPEATS),
    )


def _task(
    runs: DrawnRuns,
    *,
    task: str,
    params: float | None = None,
    tokens: float | None = None,
    chance: float | None = None,
    tied: bool = False,
) -> RunsFigure:
    from analysis.advice.tasks.answers import answer_for_model
    from analysis.advice.tasks.task_study import fit_task_study
    from analysis.figures.advice.task_laws import plot_task, task_data

    if (params is None) != (tokens is None):
        raise NoFigure("params and tokens name a model together: give both or none")
    fitted = runs.fit(parse_loss(f"{BPB}:{task}").name, SURFACE, tied)
    study = fit_task_study(fitted.runs, task, fitted.study, chance=chance)
    model = None if params is None or tokens is None else (params, tokens)
    answers = () if model is None else tuple(answer_for_model(laws, *model) for laws in study.arms)
    refusals = [laws.two_steps.sentence for laws in study.arms if isinstance(laws.two_steps, Refusal)]
    return RunsFigure(
        name=f"task-{task}",
        fitted=fitted,
        plot=partial(plot_task, study, answers=answers),
        data=partial(task_data, study),
        method="bits per byte by N and D, and the score by bits per byte",
        refusals=refusals if len(refusals) == len(study.arms) else (),
    )


def _backtest(runs: DrawnRuns, *, loss: str = "loss", asymptote: float | None = None, tied: bool = False) -> RunsFigure:
    from analysis.advice.forecast.record import histories
    from analysis.figures.advice.backtest import plot_backtest
    from analysis.report.backtests import backtests_as_json

    fitted = runs.fit(loss, PARABOLA, tied)
    records = histories(fitted.study, asymptote)
    is_refused = all(isinstance(record, Refusal) for record in records.values())
    return RunsFigure(
        name="backtest",
        fitted=fitted,
        plot=partial(plot_backtest, records, fitted.study.points.arms),
        data=partial(backtests_as_json, records),
        method="each law fitted to the first budgets and asked for the later ones",
        refusals=_sentences(records.items()) if is_refused else (),
    )


def _lifetime(
    runs: DrawnRuns,
    *,
    target_loss: float | None = None,
    served_tokens: float = 0.0,
    loss: str = "loss",
    tied: bool = False,
) -> RunsFigure:
    from analysis.advice.serving import depth_ratios
    from analysis.figures.advice.lifetime import plot_lifetime, study_lifetime
    from analysis.figures.figure_data import lifetime_data

    fitted = runs.fit(loss, SURFACE, tied)
    lifetime = study_lifetime(fitted.study, target_loss, served_tokens, depth_ratios(fitted.runs))
    if isinstance(lifetime, Refusal):
        raise RefusedFigure(lifetime.sentence)
    refusals = [place.answer.sentence for place in lifetime.places if isinstance(place.answer, Refusal)]
    return RunsFigure(
        name="lifetime",
        fitted=fitted,
        plot=partial(plot_lifetime, fitted.study, lifetime),
        data=partial(lifetime_data, lifetime),
        refusals=refusals if lifetime.refused else (),
    )


def _forecasts(runs: DrawnRuns) -> RunsFigure:
    from analysis.figures.advice.forecasts import plot_forecasts
    from analysis.report.forecasts import scores_as_json
    from orchestrator.records.fits.forecasts import score_forecasts

    store, sweep, fitted = runs.sweep_fit("forecasts", "loss")
    scored = score_forecasts(store, sweep)
    none = f"sweep {sweep.name} has no forecast yet: freeze one with `mor-sweep forecast --budget C`"
    return RunsFigure(
        name="forecasts",
        fitted=fitted,
        plot=partial(plot_forecasts, scored),
        data=partial(scores_as_json, scored),
        method="forecasts as they were frozen, against the cells trained since",
        refusals=() if scored else (none,),
    )


def _curves(runs: DrawnRuns, *, loss: str = "loss") -> RunsFigure:
    from analysis.figures.curves import plot_curves
    from analysis.figures.figure_data import curves_data

    column = parse_loss(loss).name
    store, sweep, fitted = runs.sweep_fit("curves", column)
    tracks = cell_curves(store, sweep, column)
    none = f"no cell of sweep {sweep.name} has logged a step: there is no curve to draw"
    return RunsFigure(
        name="curves",
        fitted=fitted,
        plot=partial(plot_curves, tracks, column),
        data=partial(curves_data, tracks),
        method="means over seeds, a local straight line in ln tokens; a dot is the evaluation after the cooldown",
        refusals=() if tracks else (none,),
    )


FigureName = Literal[
    "isoflop",
    "frontier",
    "surface",
    "residuals",
    "compare",
    "repeated",
    "task",
    "backtest",
    "lifetime",
    "forecasts",
    "curves",
]
"""What `mor-sweep plot` draws."""

FIGURES: dict[FigureName, Callable[..., RunsFigure]] = {
    "isoflop": _isoflop,
    "frontier": _frontier,
    "surface": _surface,
    "residuals": _residuals,
    "compare": _compare,
    "repeated": _repeated,
    "task": _task,
    "backtest": _backtest,
    "lifetime": _lifetime,
    "forecasts": _forecasts,
    "curves": _curves,
}
"""What makes each figure: (runs, its options). Raises TableError, LossError and NoFigure."""


def options_of(name: FigureName) -> list[str]:
    """The options of a figure."""
    parameters = inspect.signature(FIGURES[name]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def _beside_paper(fitted: Fitted, approach: str, is_shown: bool) -> tuple[Any, str]:
    """The paper's study (a `drawing.Reference`) where it `is_shown`, and the figure's method with its source named.
    Raises TableError where the conventions or the units of loss differ."""
    from analysis.figures.drawing import Reference
    from analysis.frontier.paper import NAME, SOURCE, paper_study

    if not is_shown:
        return None, ""
    points = fitted.study.points
    if points.loss_unit != NATS_PER_TOKEN:
        raise TableError(
            f"its losses are in {NATS_PER_TOKEN}, and {points.loss_column} in {points.loss_unit}: leave one of the two "
            "out.",
            fix=Fix(setting="paper"),
        )
    reference = Reference(name=NAME, study=paper_study(points.budget_convention, (approach,)))
    return reference, f"{fitted.provenance.method}; beside it {SOURCE}, by {approach}"


def _without_number(study: Study) -> Sequence[str]:
    """The reasons, where no arm has a number."""
    if not study.refused:
        return ()
    return _sentences(
        (frontier.arm, answer)
        for frontier in study.frontiers
        for optimum in frontier.optima
        for answer in (optimum.params, optimum.tokens, optimum.loss)
    )


def _without_surface(study: Study) -> Sequence[str]:
    """The reasons, where no arm has a surface."""
    surfaces = [(frontier.arm, frontier.surface) for frontier in study.frontiers]
    if any(surface is not None and not isinstance(surface, Refusal) for _, surface in surfaces):
        return ()
    return _sentences(surfaces)


def _sentences(answers: Iterable[tuple[str, Any]], otherwise: str = NO_RUN) -> list[str]:
    """By arm, why it has no answer; `otherwise` where no arm says it."""
    return [f"{arm}: {answer.sentence}" for arm, answer in answers if isinstance(answer, Refusal)] or [otherwise]
