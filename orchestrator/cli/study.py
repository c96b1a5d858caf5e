"""What verbs that read a fit have in common: which runs, how they are fitted, and where figures of them go."""

import tempfile
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from orchestrator.cli.options import Results, SweepArgument, say_next

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from analysis.frontier.study import Study
    from analysis.report.provenance import Provenance
    from orchestrator.revisions import Sweep
    from orchestrator.store.store import Store

FIT_REFUSED = 5
FIGURES = Path("figures")
BOTH = ("parabola", "surface")


class Loss(StrEnum):
    """Which loss is fitted."""

    causal = "causal"
    top_k = "topk"


SweepName = SweepArgument
LossChoice = Annotated[Loss, typer.Option(help="causal (what inference can do) or topk (the paper's evaluation).")]
Other = Annotated[str | None, typer.Option("--with", help="Another sweep: each arm of one against those of the other.")]
Tied = Annotated[bool, typer.Option("--tied", help="One exponent for N and D in the surface.")]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Which runs: those of a sweep, or of anyone's table."""

    sweep: SweepName = None
    """A sweep's name; None for the last one."""
    results: Results = Path("results")
    """The results folder."""
    table: Annotated[
        Path | None, typer.Option(help="A CSV or Parquet file of runs instead of a sweep.", dir_okay=False)
    ] = None
    """A table in place of a sweep."""
    columns: Annotated[
        str | None,
        typer.Option(
            help="What its columns mean: params=N,tokens=D*1e9,loss=val_loss,flops=C,arm=model,budget=…,seed=…"
        ),
    ] = None
    """What its columns mean."""
    convention: Annotated[str | None, typer.Option(help="How the FLOPs of --table are counted, a name.")] = None
    """How its FLOPs are counted."""


@dataclass(frozen=True, kw_only=True)
class FigureRuns(Runs):
    """The same, for a figure."""

    out: Annotated[Path, typer.Option(help="The folder of figures of --table.", file_okay=False)] = FIGURES
    """Where figures of a table go; those of a sweep lie in its folder."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A study, and where it comes from."""

    study: "Study"
    """The fit."""
    name: str
    """The sweep's, or the table's."""
    runs: "pl.DataFrame"
    """The run table that was fitted."""
    sweep: "Sweep | None" = None
    """The sweep; None for a table."""
    other: str | None = None
    """The sweep that it is compared with."""

    @property
    def provenance(self) -> "Provenance":
        """What a figure or a page says about its origin."""
        from analysis.report.provenance import provenance_of
        from orchestrator.origin import data_label, package_version

        data = "" if self.sweep is None else data_label(self.sweep)
        source = self.name if self.other is None else f"{self.name} with {self.other}"
        return provenance_of(self.study, source=source, data=data, version=package_version())


def say_next_of(asked: Runs, name: str, *verbs: str) -> None:
    """What one may do now with the same runs, to stderr."""
    if asked.table is None:
        say_next(*([*verb.split(), name] for verb in verbs), results=asked.results)
        return
    flags = {"--table": asked.table, "--columns": asked.columns, "--convention": asked.convention}
    given = [text for flag, value in flags.items() if value is not None for text in (flag, str(value))]
    say_next(*([*verb.split(), *given] for verb in verbs))


def fit_of(asked: Runs, loss: Loss, approaches: tuple[str, ...], *, tied: bool = False) -> Fitted:
    """Fit the runs asked for. Raises NoSuchSweep and TableError."""
    if asked.table is not None:
        return fit_of_table(asked, asked.table, approaches=approaches, tied=tied)
    from orchestrator.store.store import Store

    return study_of(Store(root=asked.results), asked.sweep, loss, approaches, tied)


def fit_of_table(
    asked: Runs,
    table: Path,
    budgets: str | None = None,
    *,
    approaches: tuple[str, ...],
    tied: bool,
    leave_out: tuple[str, ...] = (),
) -> Fitted:
    """Fit anyone's table; assumptions and suspicions go to stderr. Raises TableError."""
    return imported_study(
        table,
        columns=asked.columns,
        convention=asked.convention,
        budgets=budgets,
        approaches=approaches,
        tied=tied,
        leave_out=leave_out,
        report=partial(typer.echo, err=True),
    )


def compared(asked: Runs, other: str | None, loss: Loss) -> Fitted:
    """The arms of one sweep or table, or those of two sweeps. Raises NoSuchSweep and TableError."""
    if other is None:
        return fit_of(asked, loss, BOTH)
    from analysis.runs.points import TableError
    from orchestrator.revisions import load_sweep
    from orchestrator.store.store import Store
    from orchestrator.sweep_pair import fit_pair, pair_sweeps

    if asked.table is not None:
        raise TableError("--with names a sweep, to be compared with a sweep: leave --table out.")
    store = Store(root=asked.results)
    sweep = load_sweep(store, asked.sweep)
    pair = pair_sweeps(store, sweep.name, other)
    study = fit_pair(pair, LOSS_COLUMNS[loss])
    return Fitted(study=study, name=sweep.name, sweep=sweep, runs=pair.runs, other=other)


def imported_study(
    table: Path,
    *,
    columns: str | None,
    convention: str | None,
    budgets: str | None,
    approaches: tuple[str, ...],
    tied: bool,
    leave_out: tuple[str, ...],
    report: "Callable[[str], None]",
) -> Fitted:
    """The fit of anyone's table; assumptions and suspicions are reported. Raises TableError.

    Without `approaches`, a surface, and parabolas where most runs lie on budgets.
    """
    from analysis.frontier.study import FitSettings, fit_study
    from analysis.runs.column_map import parse_columns
    from analysis.runs.import_table import import_table, read_table
    from analysis.runs.points import TableError
    from analysis.surface.optimum import SurfaceRules
    from mor_core.units import parse_budget

    if columns is None:
        raise TableError("--table needs --columns, such as params=N,tokens=D,loss=val_loss,flops=C.")
    try:
        meant = tuple(parse_budget(budget) for budget in budgets.split(",")) if budgets else ()
    except ValueError as error:
        raise TableError(f"--budgets: {error}") from error
    imported = import_table(read_table(table), parse_columns(columns), convention=convention, budgets=meant)
    for note in imported.notes:
        report(f"note: {note}")
    for suspicion in imported.suspicions:
        report(f"suspected: {suspicion.sentence}")
    if not imported.on_budgets and not approaches:
        report("note: most runs are on no common budget, so that only a surface is fitted")
    settings = FitSettings(
        approaches=approaches or (BOTH if imported.on_budgets else ("surface",)),
        leave_out_cells=leave_out,
        optima_at=imported.optima_at,
        surface=SurfaceRules(tied=tied),
    )
    return Fitted(study=fit_study(imported.frame, settings), name=table.name, runs=imported.frame)


def study_of(
    store: "Store",
    sweep: str | None,
    loss: Loss,
    approaches: tuple[str, ...] = ("parabola",),
    tied: bool = False,
    leave_out: tuple[str, ...] = (),
) -> Fitted:
    """The fit of a sweep's table as it stands now; of the last sweep without a name. Raises NoSuchSweep."""
    from analysis.frontier.study import FitSettings, fit_study
    from analysis.surface.optimum import SurfaceRules
    from orchestrator.origin import is_on_small_corpus
    from orchestrator.records import table
    from orchestrator.revisions import load_sweep

    loaded = load_sweep(store, sweep)
    runs = table(store, loaded)
    settings = FitSettings(
        loss_column=LOSS_COLUMNS[loss],
        approaches=approaches,
        leave_out_cells=leave_out,
        surface=SurfaceRules(tied=tied),
    )
    study = fit_study(runs, settings, on_small_corpus=is_on_small_corpus(loaded))
    return Fitted(study=study, name=loaded.name, sweep=loaded, runs=runs)


LOSS_COLUMNS = {Loss.causal: "loss", Loss.top_k: "loss_topk"}
"""Columns of a sweep's run table."""


def figure_paths(store: "Store", name: str, figure: str) -> list[Path]:
    """Where a figure of a sweep goes, which can be written; says so on stderr."""
    return announced_paths(f"sweep {name}", store.sweep_folder(name) / "figures", figure)


def announced_paths(whose: str, folder: Path, figure: str) -> list[Path]:
    """A PNG and a vector file in a folder, which is made where it is not there. Raises ResultsError."""
    from orchestrator.store.folder import writing

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    paths = [folder / f"{figure}.png", folder / f"{figure}.svg"]
    typer.echo(f"{whose}: {paths[0]} and {paths[1].name}", err=True)
    return paths


def paths_of(fitted: Fitted, asked: FigureRuns, figure: str) -> list[Path]:
    """Where a figure of fitted runs goes, which can be written; says so on stderr."""
    from orchestrator.store.store import Store

    if asked.table is None:
        return figure_paths(Store(root=asked.results), fitted.name, figure)
    return announced_paths(fitted.name, asked.out, figure)


def write_figure_data(figure: str, paths: list[Path], provenance: "Provenance", data: Any) -> None:
    """The JSON beside a figure."""
    from analysis.figures.figure_data import figure_document
    from mor_core.files import write_json

    write_json(paths[0].with_suffix(".json"), figure_document(figure, provenance, data))


def end_refused(reasons: list[str]) -> NoReturn:
    """Each reason once on stderr, and exit code 5."""
    for reason in dict.fromkeys(reasons):
        typer.echo(f"refused: {reason}", err=True)
    raise typer.Exit(FIT_REFUSED)
