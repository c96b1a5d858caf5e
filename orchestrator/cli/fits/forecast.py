"""`mor-sweep forecast`: freeze a prediction for a budget that is not trained yet, and score it once it is.

`mor-sweep backtest`: fit a study's first budgets, predict the later ones, and compare with what was measured.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.fits.advice import Force
from orchestrator.cli.fits.study import (
    CAUSAL,
    FIT_REFUSED,
    Pinned,
    Runs,
    SweepName,
    Tied,
    end_refused,
    fit_of,
    flops_of,
    say_next_of,
)
from orchestrator.cli.options import (
    AsJson,
    LossOption,
    Results,
    above_zero,
    open_results,
    open_sweep,
    options_from_dataclass,
    print_json,
    say,
    say_next,
)

if TYPE_CHECKING:
    from orchestrator.records.fits.forecasts import Asked, Frozen
    from orchestrator.records.revisions import Sweep


def forecast(
    sweep: SweepName = None,
    results: Results = Path("results"),
    budget: Annotated[
        str | None, typer.Option(help="Training FLOPs that nobody has trained with, such as 1e21.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="One arm; all by default.")] = None,
    loss: LossOption = CAUSAL,
    asymptote: Annotated[
        float | None,
        typer.Option(help="Pin the asymptote of the loss; the surface's by default.", callback=above_zero),
    ] = None,
    force: Force = False,
    score: Annotated[
        bool, typer.Option("--score", help="How all forecasts of the sweep fared, by what was trained since.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Freeze a prediction for a larger budget, and score it later.

    It is scored once that budget is trained. Exit code 5 where refused.
    """
    from orchestrator.cli.tables.advice import print_frozen
    from orchestrator.records.fits.fitted import fit_of_sweep
    from orchestrator.records.fits.forecasts import Asked, NoForecast, freeze

    if score or budget is None:
        if not score or budget is not None:
            raise NoForecast("name a budget to forecast with --budget C, or score what was forecast with --score")
        _score(sweep, results, as_json)
        return
    store = open_results(results)
    fitted = fit_of_sweep(store, sweep, loss)
    request = Asked(flops=flops_of(budget), arm=arm, asymptote=asymptote, forced=force)
    frozen = freeze(store, fitted, request)
    assert fitted.sweep is not None
    commands = _commands(frozen, request, fitted.sweep, results)
    if as_json:
        content = {
            "sweep": fitted.name,
            "budget": str(request.flops),
            "forecasts": [forecast.summary() for forecast in frozen.forecasts],
            "refused": [asdict(refusal) for refusal in frozen.refused],
            "commands": commands,
        }
        print_json("mor-sweep.forecast/1", content)
    else:
        print_frozen(frozen, request.flops, commands.values())
        say_next(["forecast", fitted.name, "--score"], results=results)
    if not frozen.forecasts:
        raise typer.Exit(FIT_REFUSED)


def _commands(frozen: "Frozen", request: "Asked", sweep: "Sweep", results: Path) -> dict[str, str]:
    """Arm -> the command that trains its shape, where the sweep records how it was asked."""
    from analysis.report.forecasts import preferred
    from orchestrator.search.spec_of_sweep import command_at

    answers = preferred(frozen.forecasts)
    sizes = {arm: answer.shape.size for arm, answer in answers.items() if answer.shape is not None}
    commands = {arm: command_at(arm, [size], request.flops, sweep, results) for arm, size in sizes.items()}
    return {arm: command for arm, command in commands.items() if command is not None}


def _score(sweep: str | None, results: Path, as_json: bool) -> None:
    """Every forecast of the sweep: those that answered a row each, all others in what their law achieved."""
    from analysis.report.forecasts import scores_as_json
    from orchestrator.cli.tables.advice import print_scores
    from orchestrator.records.fits.forecasts import score_forecasts

    store, loaded = open_sweep(results, sweep)
    scored = score_forecasts(store, loaded)
    if as_json:
        print_json("mor-sweep.forecast-scores/1", {"sweep": loaded.name, "forecasts": scores_as_json(scored)})
        return
    if scored:
        print_scores(scored)
    else:
        typer.echo(f"sweep {loaded.name} has no forecast yet")
    say_next(["plot", "forecasts", loaded.name], ["report", loaded.name], results=results)


@options_from_dataclass
def backtest(
    source: Runs,
    loss: LossOption = CAUSAL,
    asymptote: Pinned = None,
    tied: Tied = False,
    as_json: AsJson = False,
) -> None:
    """Predict the later budgets from the first ones, and compare.

    Says how far off each law was. Exit code 5 where none can be fitted.
    """
    from analysis.advice.forecast.record import histories
    from analysis.frontier.study import backtest_repeats
    from analysis.report.backtests import backtests_as_json, backtests_as_markdown, repeats_as_markdown
    from analysis.report.text import plain
    from analysis.statistics.answers import Refusal

    fitted = fit_of(source, loss, ("parabola",), tied=tied)
    records = histories(fitted.study, asymptote)
    repeats = backtest_repeats(fitted.runs, fitted.study.settings)
    reasons = [f"{arm}: {record.sentence}" for arm, record in records.items() if isinstance(record, Refusal)]
    points = fitted.study.points
    if as_json:
        content = {"source": fitted.name, "budget_convention": points.budget_convention}
        content |= {"loss_column": points.loss_column, "loss_unit": points.loss_unit, "asymptote": asymptote}
        print_json("mor-sweep.backtest/1", content | backtests_as_json(records) | {"repeats": plain(repeats)})
    if len(reasons) == len(records) and all(isinstance(steps, Refusal) for steps in repeats.values()):
        reasons += [f"{arm}: {steps.sentence}" for arm, steps in repeats.items() if isinstance(steps, Refusal)]
        end_refused(reasons or ["the table has no run that a fit can use"])
    if as_json:
        return
    for reason in reasons:
        say(f"refused: {reason}")
    texts = [backtests_as_markdown(records)] if len(reasons) < len(records) else []
    typer.echo("\n".join([*texts, *([repeats_as_markdown(repeats)] if repeats else [])]), nl=False)
    say_next_of(source, fitted.name, "plot backtest")
