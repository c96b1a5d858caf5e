"""`mor-sweep fit`: fit a sweep or any run table. Prints numbers with intervals, or the reasons why there are none."""

import sys
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.fits.study import (
    CAUSAL,
    FIT_REFUSED,
    Runs,
    Tied,
    fit_of_asked_table,
    say_next_of,
)
from orchestrator.cli.fits.tasks import Chance, TaskName, fit_task
from orchestrator.cli.options import AsJson, LossOption, open_results, options_from_dataclass, print_json, say

if TYPE_CHECKING:
    from analysis.frontier.study import Study
    from orchestrator.cli.tables.listing import Listing
    from orchestrator.records.fits.fitted import Fitted
    from orchestrator.store.store import Store

SPARE = "D*"
"""The column of optima that a narrow window leaves out: C is D* times a number of N*."""

MOST_ADVICE = 4
"""Lines of sizes to try; `suggest` says more."""


class Approach(StrEnum):
    """How optima are found."""

    parabola = "parabola"
    surface = "surface"
    akima = "akima"
    envelope = "envelope"


ApproachChoice = Annotated[
    list[Approach] | None, typer.Option("--approach", help="Repeat for several; parabola and surface by default.")
]


@options_from_dataclass
def fit(
    source: Runs,
    loss: LossOption = CAUSAL,
    approach: ApproachChoice = None,
    tied: Tied = False,
    task: TaskName = None,
    chance: Chance = None,
    leave_out: Annotated[list[str] | None, typer.Option(help="A cell that enters no fit; repeat for several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the fit of --table as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit the compute-optimal frontier: N*, D* and L* by budget.

    Of a sweep, or of any run table; with --task, what models score. Exit code 5 where no number is supported.
    """
    if task is not None:
        fit_task(source, task, chance, tied=tied, as_json=as_json)
        return
    names = tuple(choice.value for choice in approach or (Approach.parabola, Approach.surface))
    if source.table is not None:
        approaches = names if approach else ()
        left_out = tuple(leave_out or ())
        study = fit_of_asked_table(
            source, source.table, loss, approaches=approaches, tied=tied, leave_out=left_out
        ).study
        _print_fit(study, as_json)
        if out is not None:
            _write_fit(study, out, "fit written to")
        _end_fit(study, source, source.table.name, as_json)
        return
    from orchestrator.records.fits.concentration import concentration_note
    from orchestrator.records.fits.fitted import fit_of_sweep

    store = open_results(source.results)
    fitted = fit_of_sweep(store, source.sweep, loss, names, tied, tuple(leave_out or ()))
    study, name = fitted.study, fitted.name
    if note := concentration_note(store, fitted):
        say(f"note: {note}")
    if not as_json:
        _say_sizes_to_add(store, fitted)
    _print_fit(study, as_json)
    _write_fit(study, store.sweep_folder(name) / "fits.json", f"fit of sweep {name} written to")
    _end_fit(study, source, name, as_json)


def _say_sizes_to_add(store: "Store", fitted: "Fitted") -> None:
    """Where N* was refused for its sizes, the sizes that `suggest` names."""
    from orchestrator.search.candidates import sizes_for_refused_minima
    from orchestrator.search.spec_of_sweep import grids

    for grid in grids(sizes_for_refused_minima(store, fitted))[:MOST_ADVICE]:
        say(f"{grid.arm} at {', '.join(grid.budgets)}: next sizes to try: --sizes {','.join(grid.sizes)}")


def _print_fit(study: "Study", as_json: bool) -> None:
    from analysis.advice.forecast.record import histories
    from analysis.report.backtests import self_prediction_lines
    from analysis.report.text import study_as_json, study_as_markdown

    if as_json:
        content = study_as_json(study)
        del content["schema"]  # Of the file fits.json; what is printed has its own.
        print_json("mor-sweep.fit/1", content | {"loss_unit": study.points.loss_unit})
    else:
        # Without surfaces: each takes longer to roll than the parabolas of a study take to fit.
        _print_markdown(study_as_markdown(study, self_prediction_lines(histories(study, surfaces=False))))


def _write_fit(study: "Study", path: Path, written: str) -> None:
    from analysis.report.text import study_as_json
    from mor_core.files import write_json
    from orchestrator.store.folder import writing

    with writing(path):
        write_json(path, study_as_json(study))
    typer.echo(f"{written} {path}", err=True)


def _end_fit(study: "Study", source: Runs, name: str, as_json: bool) -> None:
    """The next step, and the exit code of a refusal."""
    if not as_json:
        figure = "plot frontier" if "parabola" in study.settings.approaches else "plot surface"
        figure = "plot repeated" if study.refused and study.says_of_repetition else figure
        say_next_of(source, name, "report", figure, *(() if source.table is not None else ("suggest",)))
    if study.refused and not study.says_of_repetition:
        raise typer.Exit(FIT_REFUSED)


def _print_markdown(text: str) -> None:
    """Laid out on a terminal, as written elsewhere."""
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.markdown import Markdown

    from orchestrator.cli.tables.listing import output_console, show

    console = output_console()
    blocks = text.strip().split("\n\n")
    for are_tables, group in groupby(blocks, key=lambda block: block.startswith("|")):
        if are_tables:
            show(console, *map(_listing, group))
        else:
            console.print()
            console.print(Markdown("\n\n".join(group)))
            console.print()


def _listing(table: str) -> "Listing":
    """A Markdown table that fits the window."""
    from orchestrator.cli.tables.listing import listing_of

    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    spare = {name: int(name.startswith(SPARE)) for name in head}
    return listing_of(head, rows, words=head, spare=spare)
