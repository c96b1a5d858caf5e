"""`mor-sweep plot`: the figures of a sweep or of any run table, each as PNG, vector and JSON with its provenance."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.figures import Look, write_figure_data
from orchestrator.cli.fits.study import (
    CAUSAL,
    FigureRuns,
    Other,
    Pinned,
    SweepName,
    Tied,
    compared,
    end_refused,
    fit_of,
    paths_of,
    say_next_of,
)
from orchestrator.cli.fits.tasks import Chance, Params, Tokens
from orchestrator.cli.options import LossesOption, LossOption, Results, above_zero, open_results, options_from_dataclass
from orchestrator.cli.tables.help import Verbs

if TYPE_CHECKING:
    from orchestrator.records.display.figures import FigureName
    from orchestrator.records.display.runs_figure import DrawnRuns
    from orchestrator.records.fits.fitted import Fitted

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
    _draw("isoflop", source, look, loss=loss, paper=paper)


@plot.verb("frontier", "mor-sweep plot frontier isoflop-cpu")
@options_from_dataclass
def frontier(source: FigureRuns, look: Look, loss: LossOption = CAUSAL, paper: Paper = False) -> None:
    """Optimal size, tokens and loss against the budget.

    One line per arm. Exit code 5 where there is none.
    """
    _draw("frontier", source, look, loss=loss, paper=paper)


@plot.verb("surface", "mor-sweep plot surface isoflop-cpu")
@options_from_dataclass
def surface(source: FigureRuns, look: Look, loss: LossOption = CAUSAL, tied: Tied = False) -> None:
    """The fitted L(N, D) with the runs on it.

    With contours of equal FLOPs and the optimum along them.
    """
    _draw("surface", source, look, loss=loss, tied=tied)


@plot.verb("residuals", "mor-sweep plot residuals isoflop-cpu")
@options_from_dataclass
def residuals(source: FigureRuns, look: Look, loss: LossOption = CAUSAL, tied: Tied = False) -> None:
    """What the fitted L(N, D) leaves unexplained.

    Along N and D, and on budgets that it has not seen.
    """
    _draw("residuals", source, look, loss=loss, tied=tied)


@plot.verb("compare", "mor-sweep plot compare isoflop-cpu")
@options_from_dataclass
def compare(source: FigureRuns, look: Look, other: Other = None, loss: LossesOption = None) -> None:
    """Arms at equal FLOPs: loss gaps and multipliers.

    By causal and by top-k loss where none is named.
    """
    _draw("compare", source, look, other=other, loss=loss)


@plot.verb("repeated", "mor-sweep plot repeated --table runs.csv")
@options_from_dataclass
def repeated(
    source: FigureRuns,
    look: Look,
    loss: LossOption = CAUSAL,
    budget: Annotated[
        str | None, typer.Option(help="Training FLOPs of the optima; the largest that an arm has by default.")
    ] = None,
    tied: Tied = False,
) -> None:
    """Loss by passes over the text, and what to train from a corpus.

    With the law of repeated text of each arm. Exit code 5 where there is none.
    """
    _draw("repeated", source, look, loss=loss, budget=budget, tied=tied)


@plot.verb("forecasts", "mor-sweep plot forecasts isoflop-cpu")
@options_from_dataclass
def forecasts(look: Look, sweep: SweepName = None, results: Results = Path("results")) -> None:
    """What was forecast, and what was measured since."""
    _draw("forecasts", FigureRuns(sweep=sweep, results=results), look)


@plot.verb("lifetime", "mor-sweep plot lifetime isoflop-cpu")
@options_from_dataclass
def lifetime(
    source: FigureRuns,
    look: Look,
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
    marked = served_tokens or 0.0
    _draw("lifetime", source, look, loss=loss, target_loss=target_loss, served_tokens=marked, tied=tied)


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
    _draw("task", source, look, task=name, params=params, tokens=tokens, chance=chance, tied=tied)


@plot.verb("backtest", "mor-sweep plot backtest isoflop-cpu")
@options_from_dataclass
def backtest(
    source: FigureRuns, look: Look, loss: LossOption = CAUSAL, asymptote: Pinned = None, tied: Tied = False
) -> None:
    """How far off each law was, against how far it looked.

    Each law was fitted to the first budgets alone.
    """
    _draw("backtest", source, look, loss=loss, asymptote=asymptote, tied=tied)


@plot.verb("curves", "mor-sweep plot curves isoflop-cpu")
@options_from_dataclass
def curves(look: Look, sweep: SweepName = None, results: Results = Path("results"), loss: LossOption = CAUSAL) -> None:
    """Training loss against tokens.

    From the first step of each cell to its evaluation.
    """
    _draw("curves", FigureRuns(sweep=sweep, results=results), look, loss=loss)


def _draw(name: "FigureName", source: FigureRuns, look: Look, **options: Any) -> None:
    """Write a figure and the JSON beside it, and say the next step. Exit code 5, with the reasons, where it shows no
    number."""
    from orchestrator.records.display.figures import FIGURES
    from orchestrator.records.display.runs_figure import RefusedFigure

    try:
        figure = FIGURES[name](_drawn_runs(source), **options)
    except RefusedFigure as error:
        end_refused([error.sentence])
    paths = paths_of(figure.fitted, source, figure.stem or figure.name, look)
    figure.draw(paths, look.inches)
    write_figure_data(figure.name, paths, figure.provenance, figure.data())
    say_next_of(source, figure.fitted.name, "report")
    if figure.refusals:
        end_refused(list(figure.refusals))


def _drawn_runs(source: FigureRuns) -> "DrawnRuns":
    """The runs asked for, as figures need them."""
    from orchestrator.records.display.runs_figure import DrawnRuns, by_losses

    def fit(loss: str, approaches: tuple[str, ...], tied: bool = False) -> "Fitted":
        return fit_of(source, loss, approaches, tied=tied)

    def compare(other: str | None, loss: str | None) -> "list[Fitted]":
        if source.table is not None:
            return [compared(source, other, loss or CAUSAL)]
        return by_losses(lambda one_loss: compared(source, other, one_loss), loss)

    return DrawnRuns(fit=fit, compare=compare, store=None if source.table is not None else open_results(source.results))
