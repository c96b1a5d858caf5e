"""`mor-sweep table`, `predict`, `lifetime` and `compare`: what a fit says, asked of a sweep or of any run table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    imported_study,
    study_of,
)
from orchestrator.cli.options import Results

if TYPE_CHECKING:
    import polars as pl

    from analysis.frontier import Study

TableFormat = Annotated[str, typer.Option("--format", help="markdown, latex (booktabs), csv or json.")]
BOTH = ("surface", "parabola")


def table(
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    form: TableFormat = "markdown",
    run_table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
    tasks: Annotated[bool, typer.Option("--tasks", help="The cells' scores on tasks instead.")] = False,
) -> None:
    """Print the fitted optima and exponents as a table."""
    from analysis.points import TableError
    from analysis.tabulate import Format, tabulate

    if form not in list(Format):
        raise TableError(f"--format: found {form!r}, expected {', '.join(Format)}.")
    if tasks:
        from analysis.task_table import tabulate_tasks
        from orchestrator.records import table as run_table_of
        from orchestrator.revisions import load_sweep
        from orchestrator.store import Store

        store = Store(root=results)
        typer.echo(tabulate_tasks(run_table_of(store, load_sweep(store, sweep)), Format(form)), nl=False)
        return
    study = _study(sweep, results, loss, run_table, columns, convention)
    typer.echo(tabulate(study, Format(form)), nl=False)
    _end_refused(study)


def predict(
    budget: Annotated[str, typer.Option(help="Training FLOPs, such as 1e21.")],
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    force: Annotated[bool, typer.Option("--force", help="Answer beyond 100 times the largest budget too.")] = False,
    tied: Tied = False,
    run_table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
) -> None:
    """What to train with a budget: size, tokens and the loss to expect, with intervals; exit code 5 where refused."""
    from analysis.advice import predict_budget
    from analysis.estimate import Refusal
    from analysis.points import TableError
    from analysis.report import count_text, loss_text
    from orchestrator.budgets import budget_text, parse_budget

    try:
        flops = parse_budget(budget)
    except ValueError as error:
        raise TableError(f"--budget: {error}") from error
    study = _study(sweep, results, loss, run_table, columns, convention, tied)
    answers = predict_budget(study, str(flops), forced=force)
    typer.echo(f"budget {budget_text(flops)} FLOPs ({study.points.budget_convention})")
    for each in answers:
        typer.echo(
            f"{each.arm} ({each.approach}): N* {count_text(each.params)}, D* {count_text(each.tokens)}, "
            f"L* {loss_text(each.loss)}"
        )
        for sentence in dict.fromkeys(
            answer.sentence for answer in (each.params, each.tokens, each.loss) if isinstance(answer, Refusal)
        ):
            typer.echo(f"  refused: {sentence}")
        if each.flagged and not each.refused:
            typer.echo(
                f"  flagged: {each.reach:.3g} times the largest budget fitted; an extrapolation this far is a guess"
            )
    if all(each.refused for each in answers):
        raise typer.Exit(FIT_REFUSED)


def lifetime(
    target_loss: Annotated[float, typer.Option(help="Loss to reach, nats/token.")],
    served_tokens: Annotated[float, typer.Option(help="Tokens that will go through the trained model.")],
    sweep: SweepName = None,
    results: Results = Path("results"),
    loss: LossChoice = Loss.causal,
    tied: Tied = False,
    run_table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
) -> None:
    """The model with the least training and serving FLOPs at a loss; exit code 5 where refused."""
    from analysis.advice import Lifetime, lifetime_optimum, serving_ratios
    from analysis.estimate import Refusal
    from analysis.report import short_count
    from analysis.surface_fit import SurfaceFit

    study, runs = _study_and_runs(sweep, results, loss, run_table, columns, convention, tied, ("surface",))
    ratios, answered = serving_ratios(runs), False
    for frontier in study.frontiers:
        surface = frontier.surface
        answer = surface
        if isinstance(surface, SurfaceFit):
            ratio = ratios.get(frontier.arm, 1.0)
            answer = lifetime_optimum(surface, target_loss, served_tokens, study.points.budget_convention, ratio)
        if isinstance(answer, Refusal):
            typer.echo(f"{frontier.arm}: refused: {answer.sentence}")
        elif isinstance(answer, Lifetime):
            answered = True
            total = answer.total
            typer.echo(
                f"{frontier.arm}: N {short_count(answer.params.value)} [{short_count(answer.params.low)}, "
                f"{short_count(answer.params.high)}], D {short_count(answer.tokens.value)} "
                f"[{short_count(answer.tokens.low)}, {short_count(answer.tokens.high)}]; training "
                f"{answer.training.value:.4g} + serving {answer.serving.value:.4g} = {total.value:.4g} FLOPs "
                f"[{total.low:.4g}, {total.high:.4g}]"
                + (f"; training is {answer.reach:.3g} times the largest budget fitted" if answer.reach > 1 else "")
            )
    if not answered:
        raise typer.Exit(FIT_REFUSED)


def compare(
    sweep: SweepName = None,
    results: Results = Path("results"),
    run_table: TablePath = None,
    columns: Columns = None,
    convention: Convention = None,
) -> None:
    """Arms against each other: loss gap at equal FLOPs, compute and parameter multipliers, under both losses."""
    from analysis.conventions import recount, recount_lines
    from analysis.estimate import Estimate
    from analysis.report import comparison_lines

    found = False
    for loss in Loss if run_table is None else (Loss.causal,):
        study, runs = _study_and_runs(sweep, results, loss, run_table, columns, convention, False, BOTH)
        typer.echo(f"{study.points.loss_column}:")
        for line in comparison_lines(study.comparisons) or ["fewer than two arms: nothing to compare"]:
            typer.echo(f"  {line}")
        for line in recount_lines(recount(study, runs)):
            typer.echo(f"  {line}")
        found |= any(isinstance(each.gap, Estimate) for each in study.comparisons)
    if not found:
        raise typer.Exit(FIT_REFUSED)


def _study(
    sweep: str | None,
    results: Path,
    loss: Loss,
    run_table: Path | None,
    columns: str | None,
    convention: str | None,
    tied: bool = False,
    approaches: tuple[str, ...] = BOTH,
) -> "Study":
    return _study_and_runs(sweep, results, loss, run_table, columns, convention, tied, approaches)[0]


def _study_and_runs(
    sweep: str | None,
    results: Path,
    loss: Loss,
    run_table: Path | None,
    columns: str | None,
    convention: str | None,
    tied: bool,
    approaches: tuple[str, ...],
) -> "tuple[Study, pl.DataFrame]":
    """The fit, and the run table that it is of."""
    if run_table is not None:
        return imported_study(run_table, columns, convention, None, approaches, tied, ())
    from orchestrator.store import Store

    return study_of(Store(root=results), sweep, loss, approaches, tied)[1:]


def _end_refused(study: "Study") -> None:
    if study.refused:
        raise typer.Exit(FIT_REFUSED)
