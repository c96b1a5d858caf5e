"""`mor-sweep fit`: a sweep's table, or anyone's, to numbers with intervals, or to reasons without."""

import json
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Results, SweepArgument

if TYPE_CHECKING:
    import polars as pl

    from analysis.frontier import Study
    from orchestrator.store import Store

FIT_REFUSED = 5

SweepName = SweepArgument


class Loss(StrEnum):
    """Which loss is fitted."""

    causal = "causal"
    top_k = "topk"


LossChoice = Annotated[Loss, typer.Option(help="causal (what inference can do) or topk (the paper's evaluation).")]


class Approach(StrEnum):
    """How optima are found."""

    parabola = "parabola"
    surface = "surface"
    akima = "akima"
    envelope = "envelope"


ApproachChoice = Annotated[
    list[Approach] | None, typer.Option("--approach", help="Repeat for several; parabola and surface by default.")
]
TablePath = Annotated[
    Path | None, typer.Option("--table", help="Fit this CSV or Parquet file instead of a sweep.", dir_okay=False)
]
Columns = Annotated[
    str | None,
    typer.Option(help="What its columns mean: params=N,tokens=D*1e9,loss=val_loss,flops=C,arm=model,budget=…,seed=…"),
]

Convention = Annotated[str | None, typer.Option(help="How the FLOPs of --table are counted, a name.")]
Tied = Annotated[bool, typer.Option("--tied", help="One exponent for N and D in the surface.")]


def fit(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    approach: ApproachChoice = None,
    tied: Tied = False,
    table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
    budgets: Annotated[str | None, typer.Option(help="Budgets that the runs of --table were meant for.")] = None,
    leave_out: Annotated[list[str] | None, typer.Option(help="A cell that enters no fit; repeat for several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the fit of --table as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole fit as JSON.")] = False,
) -> None:
    """Fit the compute-optimal frontier of a sweep or of any run table; exit code 5 where no number is supported."""
    names = tuple(each.value for each in approach or (Approach.parabola, Approach.surface))
    if table is not None:
        study, _ = imported_study(
            table, columns, convention, budgets, names if approach else (), tied, tuple(leave_out or ())
        )
        _finish_fit(study, as_json, out)
        return
    from orchestrator.next_sizes import next_sizes
    from orchestrator.store import Store

    store = Store(root=results)
    name, study, runs = study_of(store, sweep, loss, names, tied, tuple(leave_out or ()))
    if not as_json:
        for line in next_sizes(study, runs):
            typer.echo(line, err=True)
    _finish_fit(study, as_json, store.sweep_folder(name) / "fits.json", f"fit of sweep {name} written to")


def _finish_fit(study: "Study", as_json: bool, path: Path | None, written: str = "fit written to") -> None:
    """Print a study, write it where asked, and end with the exit code of its refusal."""
    from analysis.report import study_as_json, study_as_markdown
    from orchestrator.results_folder import writing
    from orchestrator.store import write_json

    document = study_as_json(study)
    if as_json:
        typer.echo(json.dumps(document, indent=1))
    else:
        _print_markdown(study_as_markdown(study))
    if path is not None:
        with writing(path):
            write_json(path, document)
        typer.echo(f"{written} {path}", err=True)
    if study.refused:
        raise typer.Exit(FIT_REFUSED)


def imported_study(
    path: Path,
    columns: str | None,
    convention: str | None,
    budgets: str | None,
    approaches: tuple[str, ...],
    tied: bool,
    leave_out: tuple[str, ...],
) -> "tuple[Study, pl.DataFrame]":
    """The fit of anyone's table, and the run table made of it; assumptions and suspicions go to stderr. Raises
    TableError.

    Without `approaches`, a surface, and parabolas where most runs lie on budgets.
    """
    from analysis.frontier import FitSettings, fit_study
    from analysis.points import TableError
    from analysis.surface import SurfaceRules
    from analysis.tables import import_table, parse_columns, read_table
    from orchestrator.budgets import parse_budget

    if columns is None:
        raise TableError("--table needs --columns, such as params=N,tokens=D,loss=val_loss,flops=C.")
    try:
        wanted = tuple(parse_budget(each) for each in budgets.split(",")) if budgets else ()
    except ValueError as error:
        raise TableError(f"--budgets: {error}") from error
    imported = import_table(read_table(path), parse_columns(columns), convention=convention, budgets=wanted)
    for note in imported.notes:
        typer.echo(f"note: {note}", err=True)
    for suspicion in imported.suspicions:
        typer.echo(f"suspected: {suspicion.sentence}", err=True)
    if not imported.on_budgets and not approaches:
        typer.echo("note: most runs are on no common budget, so that only a surface is fitted", err=True)
    settings = FitSettings(
        approaches=approaches or (("parabola", "surface") if imported.on_budgets else ("surface",)),
        leave_out_cells=leave_out,
        optima_at=imported.optima_at,
        surface=SurfaceRules(tied=tied),
    )
    return fit_study(imported.frame, settings), imported.frame


def study_of(
    store: "Store",
    sweep: str | None,
    loss: Loss,
    approaches: tuple[str, ...] = ("parabola",),
    tied: bool = False,
    leave_out: tuple[str, ...] = (),
) -> "tuple[str, Study, pl.DataFrame]":
    """The sweep's name, its fit, and its table as it stands now."""
    from analysis.frontier import FitSettings, fit_study
    from analysis.surface import SurfaceRules
    from orchestrator.records import table
    from orchestrator.revisions import load_sweep

    loaded = load_sweep(store, sweep)
    column = {"causal": "loss", "topk": "loss_topk"}[loss.value]
    runs = table(store, loaded)
    settings = FitSettings(
        loss_column=column, approaches=approaches, leave_out_cells=leave_out, surface=SurfaceRules(tied=tied)
    )
    return loaded.name, fit_study(runs, settings), runs


def figure_paths(store: "Store", name: str, figure: str) -> list[Path]:
    """Where a figure goes, which can be written; says so on stderr."""
    paths = paths_in(store.sweep_folder(name) / "figures", figure)
    typer.echo(f"sweep {name}: {paths[0]} and {paths[1].name}", err=True)
    return paths


def paths_in(folder: Path, figure: str) -> list[Path]:
    """A PNG and a vector file in a folder, which is made where it is not there. Raises ResultsError."""
    from orchestrator.results_folder import writing

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    return [folder / f"{figure}.png", folder / f"{figure}.svg"]


def _print_markdown(text: str) -> None:
    """Laid out on a terminal, as written elsewhere."""
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))
