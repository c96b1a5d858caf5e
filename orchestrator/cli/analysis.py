"""`mor-sweep fit` and `mor-sweep plot`: a sweep's table to numbers with intervals, or to reasons without."""

import json
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Results

if TYPE_CHECKING:
    import polars as pl

    from analysis.frontier import Study
    from orchestrator.store import Store

FIT_REFUSED = 5

SweepName = Annotated[str | None, typer.Argument(help="The sweep; the last one run by default.")]

plot = typer.Typer(help="Draw a sweep: its loss against size, or its frontier.", no_args_is_help=True)


class Loss(StrEnum):
    """Which loss is fitted."""

    causal = "causal"
    top_k = "topk"


LossChoice = Annotated[Loss, typer.Option(help="causal (what inference can do) or topk (the paper's evaluation).")]


def fit(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole fit as JSON.")] = False,
) -> None:
    """Fit the compute-optimal frontier of a sweep; exit code 5 where the runs support no number at all."""
    from analysis.report import study_as_json, study_as_markdown
    from orchestrator.next_sizes import next_sizes
    from orchestrator.results_folder import writing
    from orchestrator.store import Store, write_json

    store = Store(root=results)
    name, study, runs = _study(store, sweep, loss)
    path = store.sweep_folder(name) / "fits.json"
    document = study_as_json(study)
    if as_json:
        typer.echo(json.dumps(document, indent=1))
    else:
        _print_markdown(study_as_markdown(study))
        for line in next_sizes(study, runs):
            typer.echo(line, err=True)
    with writing(path):
        write_json(path, document)
    typer.echo(f"fit of sweep {name} written to {path}", err=True)
    if study.refused:
        raise typer.Exit(FIT_REFUSED)


@plot.command("isoflop")
def isoflop(sweep: SweepName = None, results: Results = Path("results"), loss: LossChoice = Loss.causal) -> None:
    """Loss against size, one curve a budget, one panel an arm."""
    from analysis.plots import plot_isoflop
    from orchestrator.store import Store

    store = Store(root=results)
    name, study, _ = _study(store, sweep, loss)
    plot_isoflop(study, _figure_paths(store, name, "isoflop"))


@plot.command("frontier")
def frontier(sweep: SweepName = None, results: Results = Path("results"), loss: LossChoice = Loss.causal) -> None:
    """Compute-optimal size, tokens and loss against the budget, one line an arm."""
    from analysis.plots import plot_frontier
    from orchestrator.store import Store

    store = Store(root=results)
    name, study, _ = _study(store, sweep, loss)
    plot_frontier(study, _figure_paths(store, name, "frontier"))


def _study(store: "Store", sweep: str | None, loss: Loss) -> "tuple[str, Study, pl.DataFrame]":
    """The sweep's name, its fit, and its table as it stands now."""
    from analysis.frontier import FitSettings, fit_study
    from orchestrator.records import table
    from orchestrator.revisions import load_sweep

    loaded = load_sweep(store, sweep)
    column = {"causal": "loss", "topk": "loss_topk"}[loss.value]
    runs = table(store, loaded)
    return loaded.name, fit_study(runs, FitSettings(loss_column=column)), runs


def _figure_paths(store: "Store", name: str, figure: str) -> list[Path]:
    """Where a figure goes, which can be written; says so on stderr."""
    from orchestrator.results_folder import writing

    folder = store.sweep_folder(name) / "figures"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    paths = [folder / f"{figure}.png", folder / f"{figure}.svg"]
    typer.echo(f"sweep {name}: {paths[0]} and {paths[1].name}", err=True)
    return paths


def _print_markdown(text: str) -> None:
    """Laid out on a terminal, as written elsewhere."""
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))
