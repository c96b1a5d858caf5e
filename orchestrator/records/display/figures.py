"""Every figure of runs, for the command line and for notebooks: fits them as the figure needs it, and says how it is
drawn, which numbers it shows, and why where it shows none.

What makes a figure takes the runs; its other parameters are the figure's options.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from analysis.frontier.study import Study
from analysis.report.provenance import Provenance
from analysis.runs.losses import BPB, NATS_PER_TOKEN, parse_loss
from analysis.runs.points import TableError
from analysis.statistics.answers import Estimate, Refusal
from mor_core.errors import Fix, UserError
from orchestrator.records.fits import Fitted
from orchestrator.records.revisions import Sweep
from orchestrator.records.table import cell_curves
from orchestrator.store.store import Store

PARABOLA, SURFACE = ("parabola",), ("surface",)
"""Approaches of a fit."""

NO_RUN = "the table has no run that a fit can use"
NO_REPEATS = "no run saw its text more than four times, or the table does not say how often (epochs or unique_tokens)"


class NoFigure(UserError):
    """A figure that there is not, or that these runs do not support; the message says why."""


class RefusedFigure(NoFigure):
    """A figure that would show no number, so that nothing is drawn."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"refused: {sentence}")
        self.sentence = sentence


class Fit(Protocol):
    """Fits runs by one loss. Raises TableError and LossError."""

    def __call__(self, loss: str, approaches: tuple[str, ...], tied: bool = False) -> Fitted:
        """The fit."""
        ...


@dataclass(frozen=True, kw_only=True)
class DrawnRuns:
    """Runs, as figures need them."""

    fit: Fit
    """Fits them."""
    compare: Callable[[str | None, str | None], list[Fitted]]
    """(another sweep, loss) -> the fits whose arms are compared, one a loss."""
    store: Store | None
    """Where a sweep's results are; None for anyone's table."""

    def sweep_fit(self, figure: str, loss: str) -> tuple[Store, Sweep, Fitted]:
        """The store, the sweep and its fit. Raises NoFigure for anyone's table."""
        if self.store is None:
            raise NoFigure(f"a table of runs has no {figure} to draw: open the sweep itself for that figure")
        fitted = self.fit(loss, PARABOLA)
        assert fitted.sweep is not None
        return self.store, fitted.sweep, fitted


def by_losses(compare: Callable[[str], Fitted], loss: str | None) -> list[Fitted]:
    """The fits of a sweep's arms by the loss named; where none is, by the causal loss, and by the top-k loss too where
    anything is routed."""
    first = compare(loss or "loss")
    is_routed = bool((first.runs["architecture"] == "mor").any())
    return [first, compare("loss_topk")] if is_routed and loss is None else [first]


@dataclass(frozen=True, kw_only=True)
class RunsFigure:
    """A figure of fitted runs."""

    name: str
    """What it is called, in its JSON too."""
    fitted: Fitted
    """What it is of."""
    provenance: Provenance
    """Where it comes from."""
    draw: Callable[[list[Path], float | None], None]
    """Draws it to files, as wide as so many inches; None for a screen."""
    data: Callable[[], Any]
    """The numbers that it shows."""
    stem: str = ""
    """Of its files' names, where they are not its name."""
    refusals: tuple[str, ...] = ()
    """Why it shows no number; empty where it shows one."""


def _isoflop(runs: DrawnRuns, *, loss: str = "loss", paper: bool = False) -> RunsFigure:
    from analysis.figures.figure_data import isoflop_data
    from analysis.figures.isoflop import plot_isoflop

    fitted = runs.fit(loss, PARABOLA)
    study = fitted.study
    reference, provenance = _beside_paper(fitted, "parabola", paper)
    return RunsFigure(
        name="isoflop",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_isoflop(study, paths, provenance, reference, width=width),
        data=lambda: isoflop_data(study),
        refusals=_without_number(study),
    )


def _frontier(runs: DrawnRuns, *, loss: str = "loss", paper: bool = False) -> RunsFigure:
    from analysis.figures.figure_data import frontier_data
    from analysis.figures.frontier import plot_frontier

    fitted = runs.fit(loss, PARABOLA)
    study = fitted.study
    reference, provenance = _beside_paper(fitted, "surface", paper)
    return RunsFigure(
        name="frontier",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_frontier(study, paths, provenance, reference, width=width),
        data=lambda: frontier_data(study),
        refusals=_without_number(study),
    )


def _surface(runs: DrawnRuns, *, loss: str = "loss", tied: bool = False) -> RunsFigure:
    from analysis.figures.figure_data import surface_data
    from analysis.figures.surface import plot_surface

    fitted = runs.fit(loss, SURFACE, tied)
    study, provenance = fitted.study, fitted.provenance
    return RunsFigure(
        name="surface",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_surface(study, paths, provenance, width=width),
        data=lambda: surface_data(study),
        refusals=_without_surface(study),
    )


def _residuals(runs: DrawnRuns, *, loss: str = "loss", tied: bool = False) -> RunsFigure:
    from analysis.figures.figure_data import residuals_data
    from analysis.figures.surface import plot_residuals

    fitted = runs.fit(loss, SURFACE, tied)
    study, provenance = fitted.study, fitted.provenance
    return RunsFigure(
        name="residuals",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_residuals(study, paths, provenance, width=width),
        data=lambda: residuals_data(study),
        refusals=_without_surface(study),
    )


def _compare(runs: DrawnRuns, *, other: str | None = None, loss: str | None = None) -> RunsFigure:
    from analysis.figures.compare import plot_compare
    from analysis.figures.figure_data import compare_data

    compared = runs.compare(other, loss)
    studies, provenance = [fitted.study for fitted in compared], compared[0].provenance
    has_gap = any(isinstance(pair.gap, Estimate) for study in studies for pair in study.comparisons)
    reasons = [pair.sentence for pair in studies[0].comparisons] or ["fewer than two arms: nothing to compare"]
    return RunsFigure(
        name="compare",
        stem="compare" if other is None else f"compare-with-{other}",
        fitted=compared[0],
        provenance=provenance,
        draw=lambda paths, width: plot_compare(studies, paths, provenance, width=width),
        data=lambda: compare_data(studies),
        refusals=() if has_gap else tuple(reasons),
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
    provenance = replace(fitted.provenance, method="loss by N, D and the passes over the text")
    refused = {arm: answer for arm, answer in {**study.repeated, **study.excess}.items() if isinstance(answer, Refusal)}
    reasons = tuple(f"{arm}: {answer.sentence}" for arm, answer in refused.items()) or (NO_REPEATS,)
    return RunsFigure(
        name="repeated",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_repeated(study, arms, paths, provenance, width=width),
        data=lambda: repeated_data(arms),
        refusals=() if study.says_of_repetition else reasons,
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
    provenance = replace(fitted.provenance, method="bits per byte by N and D, and the score by bits per byte")
    refusals = [laws.two_steps.sentence for laws in study.arms if isinstance(laws.two_steps, Refusal)]
    return RunsFigure(
        name=f"task-{task}",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_task(study, paths, provenance, width=width, answers=answers),
        data=lambda: task_data(study),
        refusals=tuple(refusals) if len(refusals) == len(study.arms) else (),
    )


def _backtest(runs: DrawnRuns, *, loss: str = "loss", asymptote: float | None = None, tied: bool = False) -> RunsFigure:
    from analysis.advice.forecast.record import histories
    from analysis.figures.advice.backtest import plot_backtest
    from analysis.report.backtests import backtests_as_json

    fitted = runs.fit(loss, PARABOLA, tied)
    records, arms = histories(fitted.study, asymptote), fitted.study.points.arms
    provenance = replace(fitted.provenance, method="each law fitted to the first budgets and asked for the later ones")
    refusals = [f"{arm}: {record.sentence}" for arm, record in records.items() if isinstance(record, Refusal)]
    return RunsFigure(
        name="backtest",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_backtest(records, arms, paths, provenance, width=width),
        data=lambda: backtests_as_json(records),
        refusals=tuple(refusals or [NO_RUN]) if len(refusals) == len(records) else (),
    )


def _lifetime(
    runs: DrawnRuns,
    *,
    target_loss: float | None = None,
    served_tokens: float = 0.0,
    loss: str = "loss",
    tied: bool = False,
    per: Literal["flops", "bytes"] = "flops",
    kv_cache_bytes: float | None = None,
    memory_bytes: float | None = None,
    context: float | None = None,
    bytes_per_number: float = 2.0,
    flops_per_byte: float = 295.0,
) -> RunsFigure:
    from analysis.advice.serving import Demand, served_arms, trained_context
    from analysis.figures.advice.lifetime import plot_lifetime, study_lifetime
    from analysis.figures.figure_data import lifetime_data

    fitted = runs.fit(loss, SURFACE, tied)
    demand = Demand(
        tokens=served_tokens,
        per=per,
        context=trained_context(fitted.runs) if context is None else context,
        kv_cache_bytes=kv_cache_bytes,
        memory_bytes=memory_bytes,
        bytes_per_number=bytes_per_number,
        flops_per_byte=flops_per_byte,
    )
    arms = served_arms(fitted.runs, with_memory=demand.limited)
    provenance, lifetime = fitted.provenance, study_lifetime(fitted.study, target_loss, demand, arms)
    if isinstance(lifetime, Refusal):
        raise RefusedFigure(lifetime.sentence)
    refusals = [place.answer.sentence for place in lifetime.places if isinstance(place.answer, Refusal)]
    return RunsFigure(
        name="lifetime",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_lifetime(fitted.study, lifetime, paths, provenance, width=width),
        data=lambda: lifetime_data(lifetime),
        refusals=tuple(refusals) if lifetime.refused else (),
    )


def _forecasts(runs: DrawnRuns) -> RunsFigure:
    from analysis.figures.advice.forecasts import plot_forecasts
    from analysis.figures.figure_data import forecasts_data
    from orchestrator.records.forecasts import score_forecasts

    store, sweep, fitted = runs.sweep_fit("forecasts", "loss")
    scored = score_forecasts(store, sweep)
    provenance = replace(fitted.provenance, method="forecasts as they were frozen, against the cells trained since")
    none = f"sweep {sweep.name} has no forecast yet: freeze one with `mor-sweep forecast --budget C`"
    return RunsFigure(
        name="forecasts",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_forecasts(scored, paths, provenance, width=width),
        data=lambda: forecasts_data(scored),
        refusals=() if scored else (none,),
    )


def _curves(runs: DrawnRuns, *, loss: str = "loss") -> RunsFigure:
    from analysis.figures.curves import plot_curves
    from analysis.figures.figure_data import curves_data

    column = parse_loss(loss).name
    store, sweep, fitted = runs.sweep_fit("curves", column)
    tracks = cell_curves(store, sweep, column)
    none = f"no cell of sweep {sweep.name} has logged a step: there is no curve to draw"
    method = "means over seeds, a local straight line in ln tokens; a dot is the evaluation after the cooldown"
    provenance = replace(fitted.provenance, method=method)
    return RunsFigure(
        name="curves",
        fitted=fitted,
        provenance=provenance,
        draw=lambda paths, width: plot_curves(tracks, column, paths, provenance, width=width),
        data=lambda: curves_data(tracks),
        refusals=() if tracks else (none,),
    )


FIGURES: dict[str, Callable[..., RunsFigure]] = {
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


def _beside_paper(fitted: Fitted, approach: str, is_shown: bool) -> tuple[Any, Provenance]:
    """The paper's study (a `drawing.Reference`) where it `is_shown`, and its source named. Raises TableError where the
    conventions or the units of loss differ."""
    from analysis.figures.drawing import Reference
    from analysis.frontier.paper import NAME, SOURCE, paper_study

    points, provenance = fitted.study.points, fitted.provenance
    if not is_shown:
        return None, provenance
    if points.loss_unit != NATS_PER_TOKEN:
        raise TableError(
            f"its losses are in {NATS_PER_TOKEN}, and {points.loss_column} in {points.loss_unit}: leave one of the two "
            "out.",
            fix=Fix(setting="paper"),
        )
    reference = Reference(name=NAME, study=paper_study(points.budget_convention, (approach,)))
    return reference, replace(provenance, method=f"{provenance.method}; beside it {SOURCE}, by {approach}")


def _without_number(study: Study) -> tuple[str, ...]:
    """The reasons, where no arm has a number."""
    if not study.refused:
        return ()
    return _sentences(
        (frontier.arm, answer)
        for frontier in study.frontiers
        for optimum in frontier.optima
        for answer in (optimum.params, optimum.tokens, optimum.loss)
    )


def _without_surface(study: Study) -> tuple[str, ...]:
    """The reasons, where no arm has a surface."""
    surfaces = [(frontier.arm, frontier.surface) for frontier in study.frontiers]
    if any(surface is not None and not isinstance(surface, Refusal) for _, surface in surfaces):
        return ()
    return _sentences(surfaces)


def _sentences(answers: Iterable[tuple[str, Any]]) -> tuple[str, ...]:
    reasons = [f"{arm}: {answer.sentence}" for arm, answer in answers if isinstance(answer, Refusal)]
    return tuple(reasons or [NO_RUN])
