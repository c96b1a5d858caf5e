"""What verbs that read a fit have in common: which runs, how they are fitted, where figures of them go, and how a model
will be served."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from orchestrator.cli.figures import Look, announced_paths, figure_paths
from orchestrator.cli.options import Results, SweepArgument, above_zero, fix_in_flags, open_results, say, say_next

if TYPE_CHECKING:
    from mor_core.errors import Fix
    from orchestrator.records.fits.fitted import Fitted

FIT_REFUSED = 5
FIGURES = Path("figures")


BOTH = ("parabola", "surface")
"""The approaches of a fit that names none."""

CAUSAL, TOP_K = "loss", "loss_topk"
"""The losses that arms are compared by where none is named."""

SweepName = SweepArgument
Other = Annotated[str | None, typer.Option("--with", help="Another sweep: each arm of one against those of the other.")]
Pinned = Annotated[
    float | None,
    typer.Option(
        "--asymptote", help="Where a pinned L* law has its E; by default where the surface has it.", callback=above_zero
    ),
]
Tied = Annotated[bool, typer.Option("--tied", help="One exponent for N and D in the surface.")]


OTHER_RUNS = "Any run table instead of a sweep"
"""The panel of such flags in the help of a verb."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Which runs: those of a sweep, or of anyone's table."""

    sweep: SweepName = None
    """A sweep's name; None for the last one."""
    results: Results = Path("results")
    """The results folder."""
    table: Annotated[
        Path | None,
        typer.Option(
            help="A CSV or Parquet file of runs instead of a sweep.", dir_okay=False, rich_help_panel=OTHER_RUNS
        ),
    ] = None
    """A table in place of a sweep."""
    columns: Annotated[
        str | None,
        typer.Option(
            help="What its columns mean, where their names do not say it, such as params=N,tokens=D*1e9,loss=val_loss; "
            "also flops, arm, budget and seed; arm= for none.",
            rich_help_panel=OTHER_RUNS,
        ),
    ] = None
    """What its columns mean, beside what their names say."""
    convention: Annotated[
        str | None,
        typer.Option(
            help="How the FLOPs of --table are counted, a name; 6nd gives a table without tokens C / (6 N).",
            rich_help_panel=OTHER_RUNS,
        ),
    ] = None
    """How its FLOPs are counted."""
    budgets: Annotated[
        str | None, typer.Option(help="Budgets that the runs of --table were meant for.", rich_help_panel=OTHER_RUNS)
    ] = None
    """The budgets of its runs."""


@dataclass(frozen=True, kw_only=True)
class FigureRuns(Runs):
    """The same, for a figure."""

    out: Annotated[Path, typer.Option(help="The folder of figures of --table.", file_okay=False)] = FIGURES
    """Where figures of a table go; those of a sweep lie in its folder."""


def say_next_of(source: Runs, name: str, *verbs: str) -> None:
    """What one may do now with the same runs, to stderr; the flags of a table once."""
    from orchestrator.records.terminal import command_line

    if source.table is None:
        say_next(*([*verb.split(), name] for verb in verbs), results=source.results)
        return
    flags = {"--table": source.table, "--columns": source.columns, "--convention": source.convention}
    flags |= {"--budgets": source.budgets}
    arguments = [text for flag, value in flags.items() if value is not None for text in (flag, str(value))]
    first, *others = verbs
    also = f"; or {', '.join(others)} in place of {first}" if others else ""
    say(f"next: {command_line(*first.split(), *arguments)}{also}")


def fit_of(source: Runs, loss: str, approaches: tuple[str, ...], *, tied: bool = False) -> "Fitted":
    """Fit the runs asked for. Raises NoSuchSweep and TableError."""
    from orchestrator.records.fits.fitted import fit_of_sweep

    if source.table is not None:
        return fit_of_asked_table(
            source, source.table, loss, approaches=() if approaches == BOTH else approaches, tied=tied
        )
    return fit_of_sweep(open_results(source.results), source.sweep, loss, approaches, tied)


def flops_of(budget: str) -> int:
    """What --budget says. Raises TableError for what is no amount of FLOPs."""
    from analysis.runs.points import TableError
    from mor_core.units import parse_budget

    try:
        return parse_budget(budget)
    except ValueError as error:
        raise TableError(f"--budget: {error}") from error


def fit_of_asked_table(
    source: Runs,
    table: Path,
    loss: str,
    *,
    approaches: tuple[str, ...],
    tied: bool,
    leave_out: tuple[str, ...] = (),
) -> "Fitted":
    """Fit anyone's table; assumptions and suspicions go to stderr. Raises TableError."""
    from orchestrator.records.fits.fitted import TableFile, fit_of_table

    return fit_of_table(
        TableFile(path=table, columns=source.columns, convention=source.convention, budgets=source.budgets),
        loss_column=loss,
        approaches=approaches,
        tied=tied,
        leave_out=leave_out,
        report=report_reading,
    )


def report_reading(line: str, fix: "Fix | None") -> None:
    """How a table is read, to stderr, with the flag that would change it."""
    say(line if fix is None else f"{line}; {fix.words.format(fix_in_flags(fix))}")


def compared(source: Runs, other: str | None, loss: str) -> "Fitted":
    """The arms of one sweep or table, or those of two sweeps. Raises NoSuchSweep and TableError."""
    from analysis.runs.points import TableError
    from orchestrator.records.fits.fitted import fit_of_sweeps

    if other is None:
        return fit_of(source, loss, BOTH)
    if source.table is not None:
        raise TableError("--with names a sweep, to be compared with a sweep: leave --table out.")
    return fit_of_sweeps(open_results(source.results), source.sweep, other, loss)


def paths_of(fitted: "Fitted", source: FigureRuns, figure: str, look: Look) -> list[Path]:
    """Where a figure of fitted runs goes, which can be written; says so on stderr."""
    if source.table is None:
        return figure_paths(open_results(source.results), fitted.name, figure, look)
    return announced_paths(fitted.name, source.out, look.names(figure))


def end_refused(reasons: list[str]) -> NoReturn:
    """Each reason once on stderr, and exit code 5."""
    for reason in dict.fromkeys(reasons):
        typer.echo(f"refused: {reason}", err=True)
    raise typer.Exit(FIT_REFUSED)
