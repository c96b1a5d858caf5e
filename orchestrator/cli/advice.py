"""`mor-sweep table`, `predict`, `lifetime` and `compare`: what a fit says, asked of a sweep or of any run table."""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.memory import Memory, arms_served, demand_of
from orchestrator.cli.spread import spread
from orchestrator.cli.study import BOTH, FIT_REFUSED, LOSS_COLUMNS, Loss, LossChoice, Runs, Tied, fit_of

if TYPE_CHECKING:
    import polars as pl

    from analysis.frontier import Study
    from analysis.tabulate import Format

TableFormat = Annotated[str, typer.Option("--format", help="markdown, latex (booktabs), csv or json.")]
Force = Annotated[bool, typer.Option("--force", help="Answer beyond 100 times the largest budget too.")]


@spread
def table(
    asked: Runs,
    loss: LossChoice = Loss.causal,
    form: TableFormat = "markdown",
    tasks: Annotated[bool, typer.Option("--tasks", help="The cells' scores on tasks instead.")] = False,
) -> None:
    """Print the fitted optima and exponents as a table."""
    from analysis.tabulate import tabulate

    wanted = _format(form)
    if tasks:
        from analysis.task_table import tabulate_tasks
        from orchestrator.records import table as run_table_of
        from orchestrator.revisions import load_sweep
        from orchestrator.store import Store

        store = Store(root=asked.results)
        typer.echo(tabulate_tasks(run_table_of(store, load_sweep(store, asked.sweep)), wanted), nl=False)
        return
    study = fit_of(asked, loss, BOTH).study
    typer.echo(tabulate(study, wanted), nl=False)
    if study.refused:
        raise typer.Exit(FIT_REFUSED)


@spread
def predict(
    asked: Runs,
    budget: Annotated[str, typer.Option(help="Training FLOPs, such as 1e21.")],
    loss: LossChoice = Loss.causal,
    force: Force = False,
    tied: Tied = False,
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
    study = fit_of(asked, loss, BOTH, tied=tied).study
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


@spread
def lifetime(
    asked: Runs,
    memory: Memory,
    target_loss: Annotated[float, typer.Option(help="Loss to reach, nats/token.")],
    served_tokens: Annotated[float, typer.Option(help="Tokens that will go through the trained model.")],
    loss: LossChoice = Loss.causal,
    force: Force = False,
    tied: Tied = False,
    form: TableFormat = "markdown",
) -> None:
    """Which arm, size and tokens take least in training and serving at a loss; exit code 5 where refused."""
    from analysis.estimate import Refusal
    from analysis.lifetime import lifetime_study
    from analysis.lifetime_table import lifetime_notes, tabulate_lifetime

    wanted = _format(form)
    fitted = fit_of(asked, loss, ("surface",), tied=tied)
    demand = demand_of(memory, served_tokens, fitted.runs)
    answers = lifetime_study(fitted.study, target_loss, demand, arms_served(fitted.runs, demand), forced=force)
    typer.echo(tabulate_lifetime(answers, target_loss, demand, wanted), nl=False)
    for note in lifetime_notes(answers):
        typer.echo(note, err=form != "markdown")
    if all(isinstance(each, Refusal) for each in answers.values()):
        raise typer.Exit(FIT_REFUSED)


@spread
def compare(
    asked: Runs,
    other: Annotated[
        str | None, typer.Option("--with", help="Another sweep: each arm of one against those of the other.")
    ] = None,
) -> None:
    """Arms against each other: loss gap at equal FLOPs, compute and parameter multipliers, under both losses."""
    from analysis.conventions import recount, recount_lines
    from analysis.estimate import Estimate
    from analysis.report import comparison_lines

    found = False
    for loss in Loss if asked.table is None else (Loss.causal,):
        study, runs = _compared(asked, other, loss)
        typer.echo(f"{study.points.loss_column}:")
        for line in comparison_lines(study.comparisons) or ["fewer than two arms: nothing to compare"]:
            typer.echo(f"  {line}")
        for line in recount_lines(recount(study, runs)):
            typer.echo(f"  {line}")
        found |= any(isinstance(each.gap, Estimate) for each in study.comparisons)
    if not found:
        raise typer.Exit(FIT_REFUSED)


def _compared(asked: Runs, other: str | None, loss: Loss) -> "tuple[Study, pl.DataFrame]":
    """The arms of one sweep or table, or those of two sweeps. Raises TableError."""
    if other is None:
        fitted = fit_of(asked, loss, BOTH)
        return fitted.study, fitted.runs
    from analysis.points import TableError
    from orchestrator.store import Store
    from orchestrator.sweep_pair import fit_pair, pair_sweeps

    if asked.table is not None:
        raise TableError("--with names a sweep, to be compared with a sweep: leave --table out.")
    pair = pair_sweeps(Store(root=asked.results), asked.sweep, other)
    return fit_pair(pair, LOSS_COLUMNS[loss]), pair.runs


def _format(form: str) -> "Format":
    """Raises TableError for no format."""
    from analysis.points import TableError
    from analysis.tabulate import Format

    if form not in list(Format):
        raise TableError(f"--format: found {form!r}, expected {', '.join(Format)}.")
    return Format(form)
