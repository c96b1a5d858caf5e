"""`mor-sweep report`: a study as one HTML page that needs nothing else."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.fits.study import BOTH, CAUSAL, FIT_REFUSED, Runs, Tied, fit_of
from orchestrator.cli.fits.tasks import Chance, lines_of_task
from orchestrator.cli.options import LossOption, open_results, options_from_dataclass


@options_from_dataclass
def report(
    source: Runs,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; report.html in the sweep's folder by default.")
    ] = None,
    loss: LossOption = CAUSAL,
    tied: Tied = False,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="With its laws of this score; repeat for several."),
    ] = None,
    chance: Chance = None,
) -> None:
    """Write one self-contained HTML page about a sweep.

    Frontiers, curves, goodness of fit, comparisons, and what stays unknown; or about any run table.
    """
    from analysis.advice.forecast.record import histories
    from analysis.page.page import render_page
    from analysis.report.backtests import self_prediction_lines
    from mor_core.files import replace_text
    from orchestrator.records.curves import cell_curves
    from orchestrator.records.fits.forecasts import score_forecasts
    from orchestrator.store.folder import writing

    fitted = fit_of(source, loss, BOTH, tied=tied)
    if fitted.sweep is None:
        curves, forecasts, path = [], [], out or Path("report.html")
    else:
        store = open_results(source.results)
        curves = cell_curves(store, fitted.sweep, fitted.study.points.loss_column)
        forecasts = score_forecasts(store, fitted.sweep)
        path = out or store.sweep_folder(fitted.name) / "report.html"
    own_record = self_prediction_lines(histories(fitted.study))
    on_tasks = [lines_of_task(source, task, chance, tied=tied) for task in tasks or ()]
    page = render_page(fitted.study, fitted.provenance, fitted.runs, curves, own_record, forecasts, on_tasks)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
        replace_text(path, page)
    typer.echo(f"{fitted.name}: {path}", err=True)
    typer.echo(f"next: open {path} in a browser", err=True)
    if fitted.study.refused and not fitted.study.says_of_repetition:
        typer.echo("refused: no number is supported by these runs; the page says why", err=True)
        raise typer.Exit(FIT_REFUSED)
