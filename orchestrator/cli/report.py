"""`mor-sweep report`: a study as one HTML page that needs nothing else."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.analysis import (
    FIT_REFUSED,
    Columns,
    Loss,
    LossChoice,
    SweepName,
    TablePath,
    imported_study,
    study_of,
)
from orchestrator.cli.options import Results

APPROACHES = ("parabola", "surface")


def report(
    sweep: SweepName = None,
    results: Results = Path("results"),
    out: Annotated[
        Path | None, typer.Option(help="The file to write; report.html in the sweep's folder by default.")
    ] = None,
    loss: LossChoice = Loss.causal,
    tied: Annotated[bool, typer.Option("--tied", help="One exponent for N and D in the surface.")] = False,
    table: TablePath = None,
    columns: Columns = None,
    convention: Annotated[str | None, typer.Option(help="How the FLOPs of --table are counted, a name.")] = None,
) -> None:
    """Write one self-contained HTML page: frontiers, curves, goodness of fit, comparisons, and what stays unknown."""
    from analysis.page import render_page
    from analysis.provenance import provenance_of
    from orchestrator.cell_curves import cell_curves
    from orchestrator.origin import data_label, package_version
    from orchestrator.results_folder import writing
    from orchestrator.revisions import load_sweep
    from orchestrator.store import Store, replace_text

    store = Store(root=results)
    if table is not None:
        study, runs = imported_study(table, columns, convention, None, APPROACHES, tied, ())
        source, data, curves = table.name, "", []
        path = out or Path("report.html")
    else:
        source, study, runs = study_of(store, sweep, loss, APPROACHES, tied)
        loaded = load_sweep(store, source)
        data, curves = data_label(loaded), cell_curves(store, loaded, study.points.loss_column)
        path = out or store.sweep_folder(source) / "report.html"
    provenance = provenance_of(study, source=source, data=data, version=package_version())
    page = render_page(study, provenance, runs, curves)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
        replace_text(path, page)
    typer.echo(f"{source}: {path}", err=True)
    if study.refused:
        typer.echo("refused: no number is supported by these runs; the page says why", err=True)
        raise typer.Exit(FIT_REFUSED)
