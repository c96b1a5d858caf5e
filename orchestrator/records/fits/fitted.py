"""The fitted study of a sweep as it stands now, of two sweeps with what lies between them, or of anyone's table."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.report.provenance import Provenance, provenance_of
from analysis.runs.column_map import columns_text, parse_columns
from analysis.runs.column_names import complete_columns, is_own, own_runs
from analysis.runs.import_table import ImportedTable, import_table
from analysis.runs.losses import parse_loss
from analysis.runs.points import TableError
from analysis.runs.table_file import read_table
from analysis.surface.optimum import SurfaceRules
from mor_core.errors import Fix
from mor_core.units import budget_label, parse_budget
from orchestrator.records.fits.sweep_pair import fit_pair, pair_sweeps
from orchestrator.records.revisions import Sweep, data_label, is_on_small_corpus, load_sweep, package_version
from orchestrator.records.table import table
from orchestrator.store.store import Store

TABLE_APPROACHES = ("parabola", "surface")
"""The approaches to a table on budgets that is asked for no other."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A study, and where it comes from."""

    study: Study
    """The fit."""
    name: str
    """The sweep's, or the table's."""
    runs: pl.DataFrame
    """The run table that was fitted."""
    sweep: Sweep | None = None
    """The sweep; None for a table."""
    other: str | None = None
    """The sweep that it is compared with."""

    @property
    def provenance(self) -> Provenance:
        """What a figure or a page says about its origin."""
        data = "" if self.sweep is None else data_label(self.sweep)
        source = self.name if self.other is None else f"{self.name} with {self.other}"
        return provenance_of(self.study, source=source, data=data, version=package_version())


def fit_of_sweep(
    store: Store,
    name: str | None,
    loss_column: str,
    approaches: tuple[str, ...] = ("parabola",),
    tied: bool = False,
    leave_out: tuple[str, ...] = (),
) -> Fitted:
    """The fit of a sweep's table as it stands now; of the last sweep without a name. Raises NoSuchSweep."""
    sweep = load_sweep(store, name)
    runs = table(store, sweep)
    settings = FitSettings(
        loss_column=loss_column,
        approaches=approaches,
        leave_out_cells=leave_out,
        surface=SurfaceRules(tied=tied),
    )
    study = fit_study(runs, settings, on_small_corpus=is_on_small_corpus(sweep))
    return Fitted(study=study, name=sweep.name, sweep=sweep, runs=runs)


def fit_of_sweeps(store: Store, name: str | None, other: str, loss_column: str) -> Fitted:
    """The fit of two sweeps with the comparisons between them. Raises NoSuchSweep and TableError."""
    pair = pair_sweeps(store, name, other, loss_column)
    study = fit_pair(pair)
    return Fitted(study=study, name=pair.first.name, sweep=pair.first, runs=pair.runs, other=other)


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """A table of runs, and what its user says of it."""

    path: Path
    """A CSV or Parquet file."""
    columns: str | None = None
    """What its columns mean, beside what their names say: `params=N,tokens=D*1e9,loss=val_loss`."""
    convention: str | None = None
    """How its FLOPs are counted."""
    budgets: str | None = None
    """The budgets that its runs were meant for."""


def fit_of_table(
    file: TableFile,
    *,
    loss_column: str,
    approaches: tuple[str, ...],
    tied: bool,
    leave_out: tuple[str, ...],
    report: Callable[[str, Fix | None], None],
) -> Fitted:
    """The fit of anyone's table; how it is read, assumptions and suspicions are reported, with the setting that would
    change one. Raises TableError and LossError.

    Without `approaches`, a surface, and parabolas where most runs lie on budgets. The run table of a sweep is fitted as
    the sweep is, unless something else is said of it. Of another table `loss_column` says what its losses are: their
    name and unit in what is printed and drawn.
    """
    settings = FitSettings(
        loss_column=parse_loss(loss_column).name,
        approaches=approaches or TABLE_APPROACHES,
        leave_out_cells=leave_out,
        surface=SurfaceRules(tied=tied),
    )
    runs, imported = runs_of_table(file, settings.loss_column, report)
    if imported is None:
        return Fitted(study=fit_study(runs, settings), name=file.path.name, runs=runs)
    if note := _budget_note(imported, approaches):
        words = "{} says others" if imported.on_budgets else "where they were meant for budgets, name those with {}"
        report(f"note: {note}", Fix(setting="budgets", words=words))
    for suspicion in imported.suspicions:
        report(f"suspected: {suspicion.sentence}", None)
    if not (approaches or imported.on_budgets):
        settings = replace(settings, approaches=("surface",))
    settings = replace(settings, optima_at=imported.optima_at)
    return Fitted(study=fit_study(runs, settings, reading=imported.reading), name=file.path.name, runs=runs)


def runs_of_table(
    file: TableFile, loss: str, report: Callable[[str, Fix | None], None]
) -> tuple[pl.DataFrame, ImportedTable | None]:
    """Anyone's table as a run table whose losses are called `loss`, and how it was read; None for the run table of a
    sweep. Raises TableError and LossError."""
    frame = read_table(file.path)
    stated = parse_columns(file.columns or "")
    if is_own(frame) and not (file.columns or file.convention or file.budgets):
        report("note: read as the run table of a sweep", None)
        return own_runs(frame), None
    meaning = complete_columns(frame, stated, file.convention)
    report(f"columns: {shlex.quote(columns_text(meaning))}", None)
    unit = parse_loss(loss).unit
    imported = import_table(frame, meaning, convention=file.convention, budgets=_budgets(file.budgets), unit=unit)
    for note in imported.notes:
        report(f"note: {note}", None)
    return imported.frame.rename({"loss": loss}), imported


def _budgets(text: str | None) -> tuple[int, ...]:
    """Raises TableError for what is no amount of FLOPs."""
    try:
        return tuple(parse_budget(budget) for budget in text.split(",")) if text else ()
    except ValueError as error:
        raise TableError(str(error), fix=Fix(setting="budgets")) from error


def _budget_note(imported: ImportedTable, approaches: tuple[str, ...]) -> str:
    """Which budgets were found, or what is done where most runs lie on none; empty where the table says its budgets, or
    where a surface alone was asked for, which needs none.
    """
    if approaches == ("surface",):
        return ""
    if imported.on_budgets:
        labels = ", ".join(map(budget_label, imported.clusters or ()))
        return f"{len(imported.clusters or ())} budgets found as clusters of FLOPs: {labels}" if labels else ""
    where = "most runs lie on no common budget of FLOPs, which parabolas need"
    if approaches and "surface" not in approaches:
        return f"{where}: a surface L(N, D) fits runs of any FLOPs"
    reach = imported.optima_at
    at = f", asked at budgets from {budget_label(reach[0])} to {budget_label(reach[-1])} FLOPs" if reach else ""
    return f"{where}: a surface L(N, D) is fitted instead{at}"
