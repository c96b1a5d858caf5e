"""What a sweep's fit advises, as tables on a terminal: the cells to train next; forecasts, and how they fared."""

from collections.abc import Collection, Sequence

import typer

from analysis.advice.forecast.score import ScoredForecast
from analysis.advice.suggest import Suggestion
from analysis.report.forecasts import (
    ANSWER_HEAD,
    LAWS_TITLE,
    RECORD_HEAD,
    RECORD_TITLE,
    SCORE_HEAD,
    answer_notes,
    answer_rows,
    answer_title,
    answering,
    record_rows,
    score_rows,
    score_summary,
    single_laws,
)
from mor_core.units import budget_text, counted_text, duration_text, short_power
from orchestrator.cli.tables.listing import Column, Listing, listing_of, output_console, show, show_text
from orchestrator.records.cell_names import place_name
from orchestrator.records.fits.forecasts import Frozen
from orchestrator.search.candidates import Costed

MEANING = "N* to: N* at that budget is known to this factor either way, with the rows above"
"""What two columns hold."""


def print_suggestions(suggested: Sequence[tuple[Suggestion, Costed]], commands: Sequence[str]) -> None:
    """A row a cell: what it takes, how well N* is known before and after it, or why it is needed; then the commands."""
    rows: list[tuple[str, ...]] = []
    for number, (suggestion, cost) in enumerate(suggested, start=1):
        cell = suggestion.candidate
        name = place_name(cell.arm, cell.size, int(cell.budget), cell.seed)
        takes = "" if cost.seconds is None else duration_text(cost.seconds)
        factors = (suggestion.known_to, suggestion.expected_to)
        before, after = ("" if factor is None else f"{factor:.3f}" for factor in factors)
        why = suggestion.reason if suggestion.known_to is None else ""
        rows.append((str(number), name, short_power(cost.flops), takes, before, after, why))
    columns = (
        Column(name=""),
        Column(name="cell", is_text=True),
        Column(name="FLOPs", spare=1),
        Column(name="time", is_text=True),
        Column(name="N* to"),
        Column(name="then"),
        Column(name="why", wraps=True),
    )
    has_why = any(row[-1] for row in rows)
    has_factors = any(row[4] for row in rows)
    kept = [place for place in range(7) if (has_why or place != 6) and (has_factors or place not in (4, 5))]
    listing = Listing(
        columns=tuple(columns[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in rows),
        footer=MEANING if has_factors else "",
    )
    show(output_console(), listing)
    _print_commands("To train them:", commands)


def print_frozen(frozen: Frozen, flops: int, commands: Collection[str]) -> None:
    """The answer of each arm, the laws behind it, and what is missing. A narrow window leaves out D*, which the tokens
    are near to, and then L*, which the loss is."""
    console, forecasts = output_console(), frozen.forecasts
    if forecasts:
        title = answer_title(forecasts)
        spare = {"D*": 2, "L*": 1}
        show(
            console,
            listing_of(ANSWER_HEAD, answer_rows(forecasts), words=("arm", "train"), spare=spare, title=title),
        )
        for note in answer_notes(forecasts):
            show_text(console, note)
        show(console, "", listing_of(*single_laws(forecasts), words=("arm",), title=LAWS_TITLE))
    for line in frozen.refusals:
        typer.echo(f"refused: {line}", err=True)
    if not forecasts:
        return
    dates = sorted({forecast.created for forecast in forecasts})
    typer.echo(f"frozen {' and '.join(dates)} as {counted_text(len(forecasts), 'file')}; nothing changes them")
    if commands:
        _print_commands(f"To train the shape at {budget_text(flops)}, which scores every approach:", commands)


def _print_commands(what_for: str, commands: Collection[str]) -> None:
    typer.echo(f"\n{what_for}")
    for command in commands:
        typer.echo(f"  {command}")


def print_scores(scored: Sequence[ScoredForecast]) -> None:
    """A row a forecast that answered, then a row a law. A narrow window leaves out N* and the reach first."""
    spare = {"N*": 4, "reach": 3, "runs inside": 2, "law": 1}
    answers = listing_of(SCORE_HEAD, score_rows(answering(scored)), words=("arm", "law", "of"), spare=spare)
    laws = listing_of(RECORD_HEAD, record_rows(scored), words=("law",), title=RECORD_TITLE)
    show(output_console(), *([answers, "", laws] if laws.rows else [answers]))
    typer.echo(score_summary(scored))
