"""`mor-sweep plot`: the figures of a sweep or of any run table, each as PNG, vector and JSON with its provenance."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.figures import Look, write_figure_data
from orchestrator.cli.fits.serving_flags import Memory, arms_served, demand_of
from orchestrator.cli.fits.study import (
    CAUSAL,
    TOP_K,
    FigureRuns,
    Other,
    Pinned,
    Runs,
    SweepName,
    Tied,
    compared,
    end_refused,
    fit_of,
    paths_of,
    say_next_of,
)
from orchestrator.cli.fits.tasks import Chance, Params, Tokens, task_study_of
from orchestrator.cli.options import LossesOption, LossOption, Results, above_zero, options_from_dataclass
from orchestrator.cli.tables.help import Verbs

if TYPE_CHECKING:
    from analysis.figures.drawing import Reference
    from analysis.frontier.study import Study
    from analysis.report.provenance import Provenance
    from orchestrator.records.fits import Fitted

plot = Verbs("Draw a figure of a sweep or of any run table.")

Paper = Annotated[
    bool,
    typer.Option("--paper", help="Draw the paper's own IsoFLOP study beside it (needs budgets of convention paper)."),
]


@plot.verb("isoflop", "mor-sweep plot isoflop isoflop-cpu")
@options_from_dataclass
def isoflop(source: FigureRuns, look: Look, loss: LossOption = CAUSAL, paper: Paper = False) -> None:
    """Loss against size, one curve per budget, one panel per arm.

    Exit code 5 where no number is supported.
    """
    from analysis.figures.figure_data import isoflop_data
    from analysis.figures.isoflop import plot_isoflop

    drawn = fit_of(source, loss, ("parabola",))
    reference, provenance = _beside_paper(drawn.study, drawn.provenance, "parabola", paper)
    paths = paths_of(drawn, source, "isoflop", look)
    plot_isoflop(drawn.study, paths, provenance, reference, width=look.inches)
    _write_data(drawn, source, "isoflop", paths, provenance, isoflop_data(drawn.study))
    _end_without_number(drawn.study)


@plot.verb("frontier", "mor-sweep plot frontier isoflop-cpu")
@options_from_dataclass
def frontier(source: FigureRuns, look: Look, loss: LossOption = CAUSAL, paper: Paper = False) -> None:
    """Optimal size, tokens and loss against the budget.

    One line per arm. Exit code 5 where there is none.
    """
    from analysis.figures.figure_data import frontier_data
    from analysis.figures.frontier import plot_frontier

    drawn = fit_of(source, loss, ("parabola",))
    reference, provenance = _beside_paper(drawn.study, drawn.provenance, "surface", paper)
    paths = paths_of(drawn, source, "frontier", look)
    plot_frontier(drawn.study, paths, provenance, reference, width=look.inches)
    _write_data(drawn, source, "frontier", paths, provenance, frontier_data(drawn.study))
    _end_without_number(drawn.study)


@plot.verb("surface", "mor-sweep plot surface isoflop-cpu")
@options_from_dataclass
def surface(source: FigureRuns, look: Look, loss: LossOption = CAUSAL, tied: Tied = False) -> None:
    """The fitted L(N, D) with the runs on it.

    With contours of equal FLOPs and the optimum along them.
    """
    from analysis.figures.figure_data import surface_data
    from analysis.figures.surface import plot_surface

    drawn = fit_of(source, loss, ("surface",), tied=tied)
    paths = paths_of(drawn, source, "surface", look)
    plot_surface(drawn.study, paths, drawn.provenance, width=look.inches)
    _write_data(drawn, source, "surface", paths, drawn.provenance, surface_data(drawn.study))
    _end_without_surface(drawn.study)


@plot.verb("residuals", "mor-sweep plot residuals isoflop-cpu")
@options_from_dataclass
def residuals(source: FigureRuns, look: Look, loss: LossOption = CAUSAL, tied: Tied = False) -> None:
    """What the fitted L(N, D) leaves unexplained.

    Along N and D, and on budgets that it has not seen.
    """
    from analysis.figures.figure_data import residuals_data
    from analysis.figures.surface import plot_residuals

    drawn = fit_of(source, loss, ("surface",), tied=tied)
    paths = paths_of(drawn, source, "residuals", look)
    plot_residuals(drawn.study, paths, drawn.provenance, width=look.inches)
    _write_data(drawn, source, "residuals", paths, drawn.provenance, residuals_data(drawn.study))
    _end_without_surface(drawn.study)


@plot.verb("compare", "mor-sweep plot compare isoflop-cpu")
@options_from_dataclass
def compare(source: FigureRuns, look: Look, other: Other = None, loss: LossesOption = None) -> None:
    """Arms at equal FLOPs: loss gaps and multipliers.

    By causal and by top-k loss where none is named.
    """
    from analysis.figures.compare import plot_compare
    from analysis.figures.figure_data import compare_data
    from analysis.statistics.answers import Estimate

    drawn = compared(source, other, loss or CAUSAL)
    studies = [drawn.study]
    if source.table is None and loss is None:
        # Without routed arms the two losses are the same numbers.
        top_k = compared(source, other, TOP_K).study
        studies += [top_k] if not _same_losses(drawn.study, top_k) else []
    paths = paths_of(drawn, source, "compare" if other is None else f"compare-with-{other}", look)
    plot_compare(studies, paths, drawn.provenance, width=look.inches)
    _write_data(drawn, source, "compare", paths, drawn.provenance, compare_data(studies))
    pairs = [pair for study in studies for pair in study.comparisons]
    if not any(isinstance(pair.gap, Estimate) for pair in pairs):
        end_refused([pair.sentence for pair in drawn.study.comparisons] or ["fewer than two arms: nothing to compare"])


@plot.verb("forecasts", "mor-sweep plot forecasts isoflop-cpu")
@options_from_dataclass
def forecasts(look: Look, sweep: SweepName = None, results: Results = Path("results")) -> None:
    """What was forecast, and what was measured since."""
    from analysis.figures.advice.forecasts import plot_forecasts
    from analysis.figures.figure_data import forecasts_data
    from orchestrator.records.fits import fit_of_sweep
    from orchestrator.records.forecasts import score_forecasts
    from orchestrator.store.upstream.upstream import open_store

    store = open_store(results)
    drawn = fit_of_sweep(store, sweep, CAUSAL)
    assert drawn.sweep is not None
    scored = score_forecasts(store, drawn.sweep)
    source = FigureRuns(sweep=drawn.name, results=results)
    paths = paths_of(drawn, source, "forecasts", look)
    provenance = replace(drawn.provenance, method="forecasts as they were frozen, against the cells trained since")
    plot_forecasts(scored, paths, provenance, width=look.inches)
    _write_data(drawn, source, "forecasts", paths, provenance, forecasts_data(scored))
    if not scored:
        end_refused([f"sweep {drawn.name} has no forecast yet: freeze one with `mor-sweep forecast --budget C`"])


@plot.verb("lifetime", "mor-sweep plot lifetime isoflop-cpu")
@options_from_dataclass
def lifetime(
    source: FigureRuns,
    look: Look,
    memory: Memory,
    loss: LossOption = CAUSAL,
    target_loss: Annotated[
        float | None,
        typer.Option(
            help="Loss to reach, in the unit of --loss; by default one that every arm reaches.", callback=above_zero
        ),
    ] = None,
    served_tokens: Annotated[
        float | None, typer.Option(help="Mark this number of tokens served.", callback=above_zero)
    ] = None,
    tied: Tied = False,
) -> None:
    """What training and serving cost, against the tokens served.

    All at one loss.
    """
    from analysis.figures.advice.lifetime import plot_lifetime, study_lifetime
    from analysis.figures.figure_data import lifetime_data
    from analysis.statistics.answers import Refusal

    drawn = fit_of(source, loss, ("surface",), tied=tied)
    demand = demand_of(memory, served_tokens or 0.0, drawn.runs)
    answer = study_lifetime(drawn.study, target_loss, demand, arms_served(drawn.runs, demand))
    if isinstance(answer, Refusal):
        end_refused([answer.sentence])
    paths = paths_of(drawn, source, "lifetime", look)
    plot_lifetime(drawn.study, answer, paths, drawn.provenance, width=look.inches)
    _write_data(drawn, source, "lifetime", paths, drawn.provenance, lifetime_data(answer))
    if answer.refused:
        end_refused([place.answer.sentence for place in answer.places if isinstance(place.answer, Refusal)])


@plot.verb("task", "mor-sweep plot task isoflop-cpu --task hellaswag")
@options_from_dataclass
def task(
    source: FigureRuns,
    look: Look,
    name: Annotated[str, typer.Option("--task", metavar="TASK", help="The task, such as hellaswag.")],
    params: Params = None,
    tokens: Tokens = None,
    chance: Chance = None,
    tied: Tied = False,
) -> None:
    """What models score on a task, by bits per byte of its answers.

    With --params and --tokens, one more model. Exit code 5 where no arm has a law.
    """
    from analysis.advice.tasks.answers import answer_for_model
    from analysis.figures.advice.task_laws import plot_task, task_data
    from analysis.runs.points import TableError
    from analysis.statistics.answers import Refusal

    if (params is None) != (tokens is None):
        raise TableError("--params and --tokens name a model together: give both or none.")
    study, drawn = task_study_of(source, name, chance, tied=tied)
    answers = (
        () if params is None or tokens is None else tuple(answer_for_model(laws, params, tokens) for laws in study.arms)
    )
    paths = paths_of(drawn, source, f"task-{name}", look)
    provenance = replace(drawn.provenance, method="bits per byte by N and D, and the score by bits per byte")
    plot_task(study, paths, provenance, width=look.inches, answers=answers)
    _write_data(drawn, source, f"task-{name}", paths, provenance, task_data(study))
    reasons = [laws.two_steps.sentence for laws in study.arms if isinstance(laws.two_steps, Refusal)]
    if len(reasons) == len(study.arms):
        end_refused(reasons)


@plot.verb("backtest", "mor-sweep plot backtest isoflop-cpu")
@options_from_dataclass
def backtest(
    source: FigureRuns, look: Look, loss: LossOption = CAUSAL, asymptote: Pinned = None, tied: Tied = False
) -> None:
    """How far off each law was, against how far it looked.

    Each law was fitted to the first budgets alone.
    """
    from dataclasses import replace

    from analysis.advice.forecast.record import histories
    from analysis.figures.advice.backtest import plot_backtest
    from analysis.report.backtests import backtests_as_json
    from analysis.statistics.answers import Refusal

    drawn = fit_of(source, loss, ("parabola",), tied=tied)
    records = histories(drawn.study, asymptote)
    paths = paths_of(drawn, source, "backtest", look)
    provenance = replace(drawn.provenance, method="each law fitted to the first budgets and asked for the later ones")
    plot_backtest(records, drawn.study.points.arms, paths, provenance, width=look.inches)
    _write_data(drawn, source, "backtest", paths, provenance, backtests_as_json(records))
    if all(isinstance(record, Refusal) for record in records.values()):
        reasons = [f"{arm}: {record.sentence}" for arm, record in records.items() if isinstance(record, Refusal)]
        end_refused(reasons or ["the table has no run that a fit can use"])


@plot.verb("curves", "mor-sweep plot curves isoflop-cpu")
@options_from_dataclass
def curves(look: Look, sweep: SweepName = None, results: Results = Path("results"), loss: LossOption = CAUSAL) -> None:
    """Training loss against tokens.

    From the first step of each cell to its evaluation.
    """
    from dataclasses import replace

    from analysis.figures.curves import plot_curves
    from analysis.figures.figure_data import curves_data
    from orchestrator.records.table import cell_curves
    from orchestrator.store.upstream.upstream import open_store

    source = FigureRuns(sweep=sweep, results=results)
    drawn = fit_of(source, loss, ("parabola",))
    assert drawn.sweep is not None
    loss_column = drawn.study.points.loss_column
    tracks = cell_curves(open_store(results), drawn.sweep, loss_column)
    paths = paths_of(drawn, source, "curves", look)
    method = "means over seeds, a local straight line in ln tokens; a dot is the evaluation after the cooldown"
    provenance = replace(drawn.provenance, method=method)
    plot_curves(tracks, loss_column, paths, provenance, width=look.inches)
    _write_data(drawn, source, "curves", paths, provenance, curves_data(tracks))
    if not tracks:
        end_refused([f"no cell of sweep {drawn.name} has logged a step: there is no curve to draw"])


def _write_data(
    drawn: "Fitted", source: Runs, figure: str, paths: list[Path], provenance: "Provenance", data: Any
) -> None:
    """The JSON beside a figure, and the next step."""
    write_figure_data(figure, paths, provenance, data)
    say_next_of(source, drawn.name, "report")


def _beside_paper(
    study: "Study", provenance: "Provenance", approach: str, is_shown: bool
) -> "tuple[Reference | None, Provenance]":
    """The paper's study where it `is_shown`, and its source named. Raises TableError where the conventions or
    the units of loss differ."""
    from analysis.figures.drawing import Reference
    from analysis.frontier.paper import NAME, SOURCE, paper_study
    from analysis.runs.losses import NATS_PER_TOKEN
    from analysis.runs.points import TableError

    if not is_shown:
        return None, provenance
    if study.points.loss_unit != NATS_PER_TOKEN:
        raise TableError(
            f"--paper: its losses are in {NATS_PER_TOKEN}, {study.points.loss_column} in {study.points.loss_unit}: "
            "leave one of the two out."
        )
    reference = Reference(name=NAME, study=paper_study(study.points.budget_convention, (approach,)))
    return reference, replace(provenance, method=f"{provenance.method}; beside it {SOURCE}, by {approach}")


def _same_losses(one: "Study", other: "Study") -> bool:
    return one.points.frame["loss"].equals(other.points.frame["loss"])


def _end_without_number(study: "Study") -> None:
    """Exit code 5, with the reasons, where no arm has a number."""
    from analysis.statistics.answers import Refusal

    if not study.refused:
        return
    reasons = [
        f"{frontier.arm}: {answer.sentence}"
        for frontier in study.frontiers
        for optimum in frontier.optima
        for answer in (optimum.params, optimum.tokens, optimum.loss)
        if isinstance(answer, Refusal)
    ]
    end_refused(reasons or ["the table has no run that a fit can use"])


def _end_without_surface(study: "Study") -> None:
    """Exit code 5, with the reasons, where no arm has a surface."""
    from analysis.statistics.answers import Refusal
    from analysis.surface.fit import SurfaceFit

    if any(isinstance(frontier.surface, SurfaceFit) for frontier in study.frontiers):
        return
    reasons = [
        f"{frontier.arm}: {frontier.surface.sentence}"
        for frontier in study.frontiers
        if isinstance(frontier.surface, Refusal)
    ]
    end_refused(reasons or ["the table has no run that a fit can use"])
