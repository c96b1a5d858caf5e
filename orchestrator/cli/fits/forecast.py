"""`mor-sweep forecast`: freeze a prediction for a budget that is not trained yet, and score it once it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.fits.advice import Force
from orchestrator.cli.fits.study import CAUSAL, FIT_REFUSED, SweepName, flops_of
from orchestrator.cli.options import AsJson, LossOption, Results, above_zero, print_json, say, say_next

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analysis.advice.forecast.frozen_forecast import FrozenForecast
    from analysis.advice.forecast.score import ScoredForecast
    from orchestrator.cli.tables.listing import Listing
    from orchestrator.records.fits.forecasts import Asked, Frozen
    from orchestrator.records.revisions import Sweep

SCHEMA = "mor-sweep.forecast/1"
SCORES_SCHEMA = "mor-sweep.forecast-scores/1"


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
    from orchestrator.records.fits.fitted import fit_of_sweep
    from orchestrator.records.fits.forecasts import Asked, NoForecast, freeze
    from orchestrator.store.upstream.upstream import open_store

    if score or budget is None:
        if not score or budget is not None:
            raise NoForecast("name a budget to forecast with --budget C, or score what was forecast with --score")
        _score(sweep, results, as_json)
        return
    store = open_store(results)
    fitted = fit_of_sweep(store, sweep, loss)
    request = Asked(flops=flops_of(budget), arm=arm, asymptote=asymptote, forced=force)
    frozen = freeze(store, fitted, request)
    assert fitted.sweep is not None
    commands = _commands(frozen, request, fitted.sweep, results)
    if as_json:
        _print_document(frozen, request, fitted.sweep.name, commands)
    else:
        _print(frozen, request, commands)
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


def _print_document(frozen: "Frozen", request: "Asked", name: str, commands: dict[str, str]) -> None:
    from dataclasses import asdict

    content = {
        "sweep": name,
        "budget": str(request.flops),
        "forecasts": [forecast.summary() for forecast in frozen.forecasts],
    }
    content |= {"refused": [asdict(refusal) for refusal in frozen.refused], "commands": commands}
    print_json(SCHEMA, content)


def _print(frozen: "Frozen", request: "Asked", commands: dict[str, str]) -> None:
    """The answer of each arm, the laws behind it, and what is missing."""
    from analysis.report.forecasts import answer_notes
    from mor_core.units import budget_text, counted_text
    from orchestrator.cli.tables.listing import output_console, show, show_text

    console = output_console()
    if frozen.forecasts:
        show(console, _answers(frozen.forecasts))
        for note in answer_notes(frozen.forecasts):
            show_text(console, note)
        show(console, "", _laws(frozen.forecasts))
    for line in frozen.refusals:
        say(f"refused: {line}")
    if not frozen.forecasts:
        return
    dates = sorted({forecast.created for forecast in frozen.forecasts})
    typer.echo(f"frozen {' and '.join(dates)} as {counted_text(len(frozen.forecasts), 'file')}; nothing changes them")
    if commands:
        typer.echo(f"\nTo train the shape at {budget_text(request.flops)}, which scores every approach:")
    for command in commands.values():
        typer.echo(f"  {command}")


def _answers(forecasts: "Sequence[FrozenForecast]") -> "Listing":
    """A row an arm. A narrow window leaves out D*, which the tokens are near to, and then L*, which the loss is."""
    from analysis.report.forecasts import ANSWER_HEAD, answer_rows, answer_title
    from orchestrator.cli.tables.listing import Column, Listing

    spare = {"D*": 2, "L*": 1}
    columns = tuple(
        Column(name=name, is_text=name in ("arm", "train"), spare=spare.get(name, 0)) for name in ANSWER_HEAD
    )
    rows = tuple(map(tuple, answer_rows(forecasts)))
    return Listing(columns=columns, rows=rows, title=answer_title(forecasts))


def _laws(forecasts: "Sequence[FrozenForecast]") -> "Listing":
    """What was combined, a row an arm."""
    from analysis.report.forecasts import LAWS_TITLE, single_laws
    from orchestrator.cli.tables.listing import Column, Listing

    head, rows = single_laws(forecasts)
    columns = tuple(Column(name=name, is_text=name == "arm") for name in head)
    return Listing(columns=columns, rows=tuple(map(tuple, rows)), title=LAWS_TITLE)


def _score(sweep: str | None, results: Path, as_json: bool) -> None:
    """Every forecast of the sweep: those that answered a row each, all others in what their law achieved."""
    from analysis.report.forecasts import score_summary, scores_as_json
    from orchestrator.cli.tables.listing import output_console, show
    from orchestrator.records.fits.forecasts import score_forecasts
    from orchestrator.records.revisions import load_sweep
    from orchestrator.store.upstream.upstream import open_store

    store = open_store(results)
    loaded = load_sweep(store, sweep)
    scored = score_forecasts(store, loaded)
    if as_json:
        print_json(SCORES_SCHEMA, {"sweep": loaded.name, "forecasts": scores_as_json(scored)})
        return
    if scored:
        show(output_console(), *_scores(scored))
    typer.echo(f"{score_summary(scored)}" if scored else f"sweep {loaded.name} has no forecast yet")
    say_next(["plot", "forecasts", loaded.name], ["report", loaded.name], results=results)


def _scores(scored: "Sequence[ScoredForecast]") -> "list[Listing | str]":
    """A row a forecast that answered, then a row a law. A narrow window leaves out N* and the reach first."""
    from analysis.report.forecasts import RECORD_HEAD, RECORD_TITLE, SCORE_HEAD, answering, record_rows, score_rows
    from orchestrator.cli.tables.listing import Column, Listing

    spare = {"N*": 4, "reach": 3, "runs inside": 2, "law": 1}
    columns = tuple(
        Column(name=name, is_text=name in ("arm", "law", "of"), spare=spare.get(name, 0)) for name in SCORE_HEAD
    )
    answers = Listing(columns=columns, rows=tuple(map(tuple, score_rows(answering(scored)))))
    laws = Listing(
        columns=tuple(Column(name=name, is_text=name == "law") for name in RECORD_HEAD),
        rows=tuple(map(tuple, record_rows(scored))),
        title=RECORD_TITLE,
    )
    return [answers, "", laws] if laws.rows else [answers]
