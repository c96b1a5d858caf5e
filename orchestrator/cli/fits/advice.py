"""`mor-sweep table`, `predict`, `lifetime` and `compare`: answers from the fit of a sweep or of any run table."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.statistics.answers import Estimate, Refusal
from mor_core.units import amount_text, budget_text, parse_budget, short_count
from orchestrator.cli.fits.study import (
    BOTH,
    CAUSAL,
    FIT_REFUSED,
    TOP_K,
    Other,
    Runs,
    Tied,
    compared,
    fit_of,
    flops_of,
    say_next_of,
)
from orchestrator.cli.fits.tasks import Chance, Params, TaskName, Tokens, place_of, predict_task
from orchestrator.cli.options import (
    AsJson,
    LossesOption,
    LossOption,
    above_zero,
    not_below_zero,
    open_sweep,
    options_from_dataclass,
    print_json,
    say_next,
)

if TYPE_CHECKING:
    from analysis.report.tables import Format
    from orchestrator.records.fits.fitted import Fitted

TableFormat = Annotated[str, typer.Option("--format", help="markdown, latex (booktabs), csv or json.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Answer beyond 100 times the largest budget, and beyond the runs of a doubted surface."
    ),
]


@options_from_dataclass
def table(
    source: Runs,
    loss: LossOption = CAUSAL,
    form: TableFormat = "markdown",
    tasks: Annotated[bool, typer.Option("--tasks", help="The cells' scores on tasks instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the fitted optima and exponents as a table."""
    from analysis.report.tables import Format, tabulate

    layout = _format(form, as_json)
    if tasks:
        from analysis.report.tasks import tabulate_tasks
        from orchestrator.records.table import table as run_table_of

        store, sweep = open_sweep(source.results, source.sweep)
        typer.echo(tabulate_tasks(run_table_of(store, sweep), layout), nl=False)
        if layout is not Format.json:
            say_next(["table", sweep.name], results=source.results)
        return
    fitted = fit_of(source, loss, BOTH)
    study = fitted.study
    typer.echo(tabulate(study, layout), nl=False)
    if layout is not Format.json:
        say_next_of(source, fitted.name, "compare", "plot frontier")
    if study.refused:
        raise typer.Exit(FIT_REFUSED)


@options_from_dataclass
def predict(
    source: Runs,
    budget: Annotated[str | None, typer.Option(help="Training FLOPs, such as 1e21.")] = None,
    loss: LossOption = CAUSAL,
    task: TaskName = None,
    params: Params = None,
    tokens: Tokens = None,
    chance: Chance = None,
    unique_tokens: Annotated[
        str | None,
        typer.Option(help="Tokens of the corpus, such as 1e9, where the budget may buy more than it holds."),
    ] = None,
    force: Force = False,
    tied: Tied = False,
    as_json: AsJson = False,
) -> None:
    """Say what to train with a budget: size, tokens and loss.

    With --task, what a model will score. Each comes with its interval. Exit code 5 where refused.
    """
    from analysis.runs.points import TableError

    if task is not None:
        predict_task(source, task, chance, place_of(budget, params, tokens), forced=force, tied=tied, as_json=as_json)
        return
    if budget is None or params is not None or tokens is not None:
        raise TableError("say FLOPs by --budget C, or ask for a score by --task TASK --params N --tokens D.")
    flops, corpus = flops_of(budget), _corpus_tokens(unique_tokens)
    fitted = fit_of(source, loss, BOTH if corpus is None else ("surface",), tied=tied)
    if corpus is None:
        _predict_budget(source, fitted, flops, force=force, as_json=as_json)
    else:
        _predict_corpus(source, fitted, flops, corpus, force=force, as_json=as_json)


def _predict_budget(source: Runs, fitted: "Fitted", flops: int, *, force: bool, as_json: bool) -> None:
    """What to train with a budget, for people or as JSON."""
    from analysis.advice.predict import predict_budget
    from analysis.report.text import plain, reading_as_json
    from orchestrator.records.fits.predictions import nearest_shapes, predicted_lines

    study = fitted.study
    answers = predict_budget(study, str(flops), forced=force)
    shapes = nearest_shapes(fitted, answers, flops)
    if as_json:
        rows = [
            plain(answer)
            | {"refused": answer.refused, "flagged": answer.flagged, "nearest_shape": asdict(shape) if shape else None}
            for answer, shape in zip(answers, shapes, strict=True)
        ]
        content = {"source": fitted.name, "budget": str(flops), "budget_convention": study.points.budget_convention}
        content |= {"loss_column": study.points.loss_column, "loss_unit": study.points.loss_unit}
        print_json("mor-sweep.predict/1", content | {"answers": rows} | reading_as_json(study.reading))
        _end_refused_all(answer.refused for answer in answers)
        return
    typer.echo(
        f"budget {budget_text(flops)} FLOPs ({study.points.budget_convention}); "
        f"L* is {study.points.loss_column} in {study.points.loss_unit}"
    )
    for answer, shape in zip(answers, shapes, strict=True):
        for line in predicted_lines(answer, shape):
            typer.echo(line)
    reach = answers[0].reach if answers else float("nan")
    typer.echo(f"distance from the data: {amount_text(reach)} times the largest budget fitted")
    say_next_of(source, fitted.name, "lifetime --target-loss LOSS --served-tokens TOKENS")
    _end_refused_all(answer.refused for answer in answers)


def _corpus_tokens(text: str | None) -> int | None:
    """Raises TableError for what is no number of tokens."""
    from analysis.runs.points import TableError

    try:
        return None if text is None else parse_budget(text)
    except ValueError as error:
        raise TableError(f"--unique-tokens: found {text!r}, expected a number of tokens such as 1e9.") from error


def _predict_corpus(
    source: Runs, fitted: "Fitted", flops: int, unique_tokens: int, *, force: bool, as_json: bool
) -> None:
    """What to train from a corpus of given size, for people or as JSON."""
    from analysis.advice.predict import predict_corpus
    from analysis.report.text import plain, reading_as_json
    from analysis.surface.extended.repeated_words import corpus_lines, optimum_as_json

    study = fitted.study
    answers = predict_corpus(study, str(flops), unique_tokens, forced=force)
    if as_json:
        rows = {
            arm: plain(answer if isinstance(answer, Refusal) else optimum_as_json(answer))
            for arm, answer in answers.items()
        }
        content = {"source": fitted.name, "budget": str(flops), "unique_tokens": unique_tokens, "answers": rows}
        print_json("mor-sweep.predict-corpus/1", content | reading_as_json(study.reading))
    else:
        typer.echo(
            f"budget {budget_text(flops)} FLOPs ({study.points.budget_convention}), a corpus of "
            f"{short_count(unique_tokens)} tokens; L* is {study.points.loss_column} in {study.points.loss_unit}"
        )
        for line in corpus_lines(answers):
            typer.echo(line)
        say_next_of(source, fitted.name, f"plot repeated --budget {budget_text(flops)}")
    _end_refused_all(isinstance(answer, Refusal) for answer in answers.values())


@options_from_dataclass
def lifetime(
    source: Runs,
    target_loss: Annotated[float, typer.Option(help="Loss to reach, in the unit of --loss.", callback=above_zero)],
    served_tokens: Annotated[
        float, typer.Option(help="Tokens that will go through the trained model.", callback=not_below_zero)
    ],
    loss: LossOption = CAUSAL,
    force: Force = False,
    tied: Tied = False,
    form: TableFormat = "markdown",
    as_json: AsJson = False,
) -> None:
    """Find what is cheapest to train and serve at a given loss.

    Names the arm, its size and its tokens. Exit code 5 where refused.
    """
    from analysis.advice.lifetime import lifetime_study
    from analysis.advice.serving import depth_ratios
    from analysis.report.lifetimes import lifetime_notes, tabulate_lifetime
    from analysis.report.tables import Format

    layout = _format(form, as_json)
    fitted = fit_of(source, loss, ("surface",), tied=tied)
    ratios = depth_ratios(fitted.runs)
    answers = lifetime_study(fitted.study, target_loss, served_tokens, ratios, forced=force)
    typer.echo(tabulate_lifetime(answers, target_loss, served_tokens, layout, fitted.study.reading), nl=False)
    for note in lifetime_notes(answers):
        typer.echo(note, err=layout is not Format.markdown)
    if layout is not Format.json:
        say_next_of(source, fitted.name, "plot lifetime")
    _end_refused_all(isinstance(answer, Refusal) for answer in answers.values())


@options_from_dataclass
def compare(source: Runs, other: Other = None, loss: LossesOption = None, as_json: AsJson = False) -> None:
    """Compare arms at equal FLOPs: loss gaps and multipliers.

    By causal and by top-k loss where none is named.
    """
    from analysis.frontier.conventions import recount, recount_lines
    from analysis.frontier.wall_time import at_equal_time
    from analysis.report.text import comparison_as_json, comparison_lines, plain, reading_as_json, repetition_gaps

    any_gap, content, name, routed, foreign = False, {}, "", True, {}
    for column in [loss] if loss else [CAUSAL, TOP_K] if source.table is None else [CAUSAL]:
        if not routed and not as_json:
            typer.echo(f"{column}: the same, since nothing is routed")
            break
        fitted = compared(source, other, column)
        routed = source.table is not None or bool((fitted.runs["architecture"] == "mor").any())
        study, name = fitted.study, fitted.name
        foreign = reading_as_json(study.reading)
        recounted, timed = recount(study, fitted.runs), at_equal_time(study, fitted.runs)
        any_gap |= any(isinstance(pair.gap, Estimate) for pair in (*study.comparisons, *study.repetition))
        if as_json:
            pairs = [comparison_as_json(comparison) for comparison in study.comparisons]
            content[study.points.loss_column] = {
                "comparisons": pairs,
                "over_budgets": plain(study.over_budgets),
                "repetition": plain(study.repetition),
                "shared_exponents": plain(study.shared_exponents),
                "recounted": plain(recounted),
                "at_equal_time": plain(timed),
            }
            continue
        typer.echo(f"{study.points.loss_column}:")
        for line in comparison_lines(study) or ["fewer than two arms: nothing to compare"]:
            typer.echo(f"  {line}")
        for line in (*repetition_gaps(study), *(pair.sentence for pair in timed), *recount_lines(recounted)):
            typer.echo(f"  {line}")
    if as_json:
        print_json("mor-sweep.compare/1", {"source": name, "with": other, "losses": content, **foreign})
    else:
        say_next_of(source, name, "plot compare" if other is None else f"plot compare --with {other}")
    _end_refused_all([not any_gap])


def _end_refused_all(refused: Iterable[bool]) -> None:
    """Exit code 5 where nothing was answered."""
    if all(refused):
        raise typer.Exit(FIT_REFUSED)


def _format(form: str, as_json: bool) -> "Format":
    """Raises TableError for no format, or for two."""
    from analysis.report.tables import Format
    from analysis.runs.points import TableError

    if form not in list(Format):
        raise TableError(f"--format: found {form!r}, expected {', '.join(Format)}.")
    if as_json and form not in (Format.markdown, Format.json):
        raise TableError(f"--json is --format json: leave it or --format {form} out.")
    return Format.json if as_json else Format(form)
