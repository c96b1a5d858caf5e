"""`mor-sweep plot`: the figures of a sweep or of any run table, each as PNG, vector and JSON with its provenance."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.analysis import (
    FIT_REFUSED,
    Columns,
    Convention,
    Loss,
    LossChoice,
    SweepName,
    TablePath,
    Tied,
    figure_paths,
    imported_study,
    paths_in,
    study_of,
)
from orchestrator.cli.options import Results

if TYPE_CHECKING:
    import polars as pl

    from analysis.frontier import Study
    from analysis.provenance import Provenance
    from analysis.reference_marks import Reference

plot = typer.Typer(help="Draw a sweep, or any run table.", no_args_is_help=True)

Paper = Annotated[
    bool,
    typer.Option("--paper", help="Draw the paper's own IsoFLOP study beside it (needs budgets of convention paper)."),
]
Out = Annotated[Path, typer.Option(help="The folder of figures of --table.", file_okay=False)]
FIGURES = Path("figures")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be drawn: a sweep, or a table."""

    sweep: str | None
    """Its name; None for the last one."""
    results: Path
    """The results folder."""
    loss: Loss
    """Which loss of a sweep."""
    table: Path | None
    """A CSV or Parquet file in place of a sweep."""
    columns: str | None
    """What its columns mean."""
    convention: str | None
    """How its FLOPs are counted."""
    out: Path
    """Where figures of a table go."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A study, and where figures of it go and come from."""

    study: "Study"
    """What is drawn."""
    provenance: "Provenance"
    """Where it comes from."""
    name: str
    """The sweep's, or the table's."""
    request: Request
    """What was asked."""
    runs: "pl.DataFrame"
    """The run table that was fitted."""

    def paths(self, figure: str) -> list[Path]:
        """A PNG and a vector file; their folder can be written."""
        from orchestrator.store import Store

        if self.request.table is None:
            return figure_paths(Store(root=self.request.results), self.name, figure)
        paths = paths_in(self.request.out, figure)
        typer.echo(f"{self.name}: {paths[0]} and {paths[1].name}", err=True)
        return paths

    def write_data(self, figure: str, paths: list[Path], data: Any) -> None:
        """The JSON beside a figure."""
        from analysis.figure_data import figure_document
        from orchestrator.store import write_json

        write_json(paths[0].with_suffix(".json"), figure_document(figure, self.provenance, data))


def fitted(request: Request, approaches: tuple[str, ...], tied: bool = False) -> Fitted:
    """Fit what is to be drawn. Raises NoSuchSweep and TableError."""
    from analysis.provenance import provenance_of
    from orchestrator.origin import data_label, package_version
    from orchestrator.revisions import load_sweep
    from orchestrator.store import Store

    if request.table is not None:
        study, runs = imported_study(request.table, request.columns, request.convention, None, approaches, tied, ())
        name, data = request.table.name, ""
    else:
        store = Store(root=request.results)
        name, study, runs = study_of(store, request.sweep, request.loss, approaches, tied)
        data = data_label(load_sweep(store, name))
    provenance = provenance_of(study, source=name, data=data, version=package_version())
    return Fitted(study=study, provenance=provenance, name=name, request=request, runs=runs)


@plot.command("isoflop")
def isoflop(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    paper: Paper = False,
    table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
    out: Out = FIGURES,
) -> None:
    """Loss against size, one curve a budget, one panel an arm."""
    from analysis.figure_data import isoflop_data
    from analysis.plots import plot_isoflop

    asked = Request(
        sweep=sweep, results=results, loss=loss, table=table, columns=columns, convention=convention, out=out
    )
    drawn = fitted(asked, ("parabola",))
    reference, drawn = _beside_paper(drawn, "parabola") if paper else (None, drawn)
    paths = drawn.paths("isoflop")
    plot_isoflop(drawn.study, paths, drawn.provenance, reference)
    drawn.write_data("isoflop", paths, isoflop_data(drawn.study))


@plot.command("frontier")
def frontier(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    paper: Paper = False,
    table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
    out: Out = FIGURES,
) -> None:
    """Compute-optimal size, tokens and loss against the budget, one line an arm."""
    from analysis.figure_data import frontier_data
    from analysis.plots import plot_frontier

    asked = Request(
        sweep=sweep, results=results, loss=loss, table=table, columns=columns, convention=convention, out=out
    )
    drawn = fitted(asked, ("parabola",))
    reference, drawn = _beside_paper(drawn, "surface") if paper else (None, drawn)
    paths = drawn.paths("frontier")
    plot_frontier(drawn.study, paths, drawn.provenance, reference)
    drawn.write_data("frontier", paths, frontier_data(drawn.study))


@plot.command("surface")
def surface(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    tied: Tied = False,
    table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
    out: Out = FIGURES,
) -> None:
    """The fitted L(N, D) with the runs on it, contours of equal FLOPs and the optimum along them."""
    from analysis.figure_data import surface_data
    from analysis.surface_plots import plot_surface

    asked = Request(
        sweep=sweep, results=results, loss=loss, table=table, columns=columns, convention=convention, out=out
    )
    drawn = fitted(asked, ("surface",), tied)
    paths = drawn.paths("surface")
    plot_surface(drawn.study, paths, drawn.provenance)
    drawn.write_data("surface", paths, surface_data(drawn.study))
    _end_without_surface(drawn.study)


@plot.command("residuals")
def residuals(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    tied: Tied = False,
    table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
    out: Out = FIGURES,
) -> None:
    """What the fitted L(N, D) leaves unexplained: along N and D, and on budgets that it has not seen."""
    from analysis.figure_data import residuals_data
    from analysis.surface_plots import plot_residuals

    asked = Request(
        sweep=sweep, results=results, loss=loss, table=table, columns=columns, convention=convention, out=out
    )
    drawn = fitted(asked, ("surface",), tied)
    paths = drawn.paths("residuals")
    plot_residuals(drawn.study, paths, drawn.provenance)
    drawn.write_data("residuals", paths, residuals_data(drawn.study))
    _end_without_surface(drawn.study)


@plot.command("compare")
def compare(
    sweep: SweepName = None,
    results: Results = Path("results"),
    table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
    out: Out = FIGURES,
) -> None:
    """Arms against each other at equal FLOPs: loss gap, compute and parameter multipliers, under both losses."""
    from analysis.compare_plots import plot_compare
    from analysis.estimate import Estimate
    from analysis.figure_data import compare_data

    causal, top_k = (
        Request(sweep=sweep, results=results, loss=loss, table=table, columns=columns, convention=convention, out=out)
        for loss in (Loss.causal, Loss.top_k)
    )
    drawn = fitted(causal, ("parabola", "surface"))
    studies = [drawn.study]
    if table is None:
        # Without routed arms the two losses are the same numbers.
        other = fitted(top_k, ("parabola", "surface")).study
        studies += [other] if not _same_losses(drawn.study, other) else []
    paths = drawn.paths("compare")
    plot_compare(studies, paths, drawn.provenance)
    drawn.write_data("compare", paths, compare_data(studies))
    pairs = [pair for study in studies for pair in study.comparisons]
    if not any(isinstance(pair.gap, Estimate) for pair in pairs):
        reasons = [pair.sentence for pair in drawn.study.comparisons] or ["fewer than two arms: nothing to compare"]
        _end_refused(reasons)


@plot.command("lifetime")
def lifetime(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    target_loss: Annotated[
        float | None, typer.Option(help="Loss to reach, nats/token; by default one that every arm reaches.")
    ] = None,
    tied: Tied = False,
    table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
    out: Out = FIGURES,
) -> None:
    """Training and serving FLOPs at one loss, against the tokens that will be served."""
    from analysis.advice import serving_ratios
    from analysis.compare_plots import plot_lifetime, study_lifetime
    from analysis.estimate import Refusal
    from analysis.figure_data import lifetime_data

    asked = Request(
        sweep=sweep, results=results, loss=loss, table=table, columns=columns, convention=convention, out=out
    )
    drawn = fitted(asked, ("surface",), tied)
    answer = study_lifetime(drawn.study, target_loss, serving_ratios(drawn.runs))
    if isinstance(answer, Refusal):
        _end_refused([answer.sentence])
    else:
        paths = drawn.paths("lifetime")
        plot_lifetime(drawn.study, answer, paths, drawn.provenance)
        drawn.write_data("lifetime", paths, lifetime_data(answer))
        if answer.refused:
            _end_refused([each.answer.sentence for each in answer.places if isinstance(each.answer, Refusal)])


@plot.command("curves")
def curves(sweep: SweepName = None, results: Results = Path("results"), loss: LossChoice = Loss.causal) -> None:
    """Training loss against tokens, from the first step of each cell to its evaluation."""
    from dataclasses import replace

    from analysis.curve_plots import plot_curves
    from analysis.figure_data import curves_data
    from orchestrator.cell_curves import cell_curves
    from orchestrator.revisions import load_sweep
    from orchestrator.store import Store

    asked = Request(sweep=sweep, results=results, loss=loss, table=None, columns=None, convention=None, out=FIGURES)
    drawn = fitted(asked, ("parabola",))
    store = Store(root=results)
    loss_column = drawn.study.points.loss_column
    found = cell_curves(store, load_sweep(store, drawn.name), loss_column)
    paths = drawn.paths("curves")
    method = "the median over 2 % of each curve; a dot is the evaluation after the cooldown"
    drawn = replace(drawn, provenance=replace(drawn.provenance, method=method))
    plot_curves(found, loss_column, paths, drawn.provenance)
    drawn.write_data("curves", paths, curves_data(found))
    if not found:
        _end_refused([f"no cell of sweep {drawn.name} has logged a step: there is no curve to draw"])


def _beside_paper(drawn: Fitted, approach: str) -> "tuple[Reference, Fitted]":
    """The paper's study, and what is drawn with it named. Raises TableError where the conventions differ."""
    from dataclasses import replace

    from analysis.paper import NAME, SOURCE, paper_study
    from analysis.reference_marks import Reference

    reference = Reference(name=NAME, study=paper_study(drawn.study.points.budget_convention, (approach,)))
    provenance = replace(drawn.provenance, method=f"{drawn.provenance.method}; beside it {SOURCE}, by {approach}")
    return reference, replace(drawn, provenance=provenance)


def _same_losses(one: "Study", other: "Study") -> bool:
    return one.points.frame["loss"].equals(other.points.frame["loss"])


def _end_without_surface(study: "Study") -> None:
    """Exit code 5, with the reasons, where no arm has a surface."""
    from analysis.estimate import Refusal
    from analysis.surface_fit import SurfaceFit

    if any(isinstance(each.surface, SurfaceFit) for each in study.frontiers):
        return
    reasons = [f"{each.arm}: {each.surface.sentence}" for each in study.frontiers if isinstance(each.surface, Refusal)]
    _end_refused(reasons or ["the table has no run that a fit can use"])


def _end_refused(reasons: list[str]) -> None:
    for reason in dict.fromkeys(reasons):
        typer.echo(f"refused: {reason}", err=True)
    raise typer.Exit(FIT_REFUSED)
