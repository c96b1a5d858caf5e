"""What `fit`, `predict`, `plot` and `report` do with --task: the laws of a task's score instead of those of a loss."""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.fits.study import FIT_REFUSED, Runs, fit_of, flops_of, say_next_of
from orchestrator.cli.options import above_zero, print_json

if TYPE_CHECKING:
    from analysis.advice.tasks.task_study import TaskStudy
    from orchestrator.records.fits.fitted import Fitted

Place = tuple[float, float] | int
"""N and D of a model, or FLOPs."""
TASKS = "Scores on a task"
"""The panel of such flags in the help of a verb."""

TaskName = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", help="The score on this task, such as hellaswag.", rich_help_panel=TASKS),
]
Chance = Annotated[
    float | None,
    typer.Option(
        "--chance",
        help="What picking at random gets, such as 0.25, where the table does not say it.",
        rich_help_panel=TASKS,
    ),
]
Params = Annotated[
    float | None,
    typer.Option("--params", help="N of a model, in place of --budget.", callback=above_zero, rich_help_panel=TASKS),
]
Tokens = Annotated[
    float | None,
    typer.Option("--tokens", help="D that it is trained on.", callback=above_zero, rich_help_panel=TASKS),
]


def task_study_of(source: Runs, task: str, chance: float | None, *, tied: bool) -> "tuple[TaskStudy, Fitted]":
    """Fit a task's laws to the runs asked for. Raises NoSuchSweep, TableError and LossError."""
    from analysis.advice.tasks.task_study import fit_task_study
    from analysis.runs.losses import BPB, parse_loss

    fitted = fit_of(source, parse_loss(f"{BPB}:{task}").name, ("surface",), tied=tied)
    return fit_task_study(fitted.runs, task, fitted.study, chance=chance), fitted


def fit_task(source: Runs, task: str, chance: float | None, *, tied: bool, as_json: bool) -> None:
    """Print the laws of a task."""
    from analysis.report.task_laws import study_lines, task_study_as_json

    study, fitted = task_study_of(source, task, chance, tied=tied)
    if as_json:
        print_json("mor-sweep.task-fit/1", {"source": fitted.name} | task_study_as_json(study))
    else:
        typer.echo("\n".join(study_lines(study)))
        say_next_of(
            source,
            fitted.name,
            f"predict {_flags(task, chance)} --params N --tokens D",
            f"plot task {_flags(task, chance)}",
        )
    if study.refused:
        raise typer.Exit(FIT_REFUSED)


def lines_of_task(source: Runs, task: str, chance: float | None, *, tied: bool) -> tuple[str, list[str]]:
    """A task and the words on its laws, for a page."""
    from analysis.report.task_laws import study_lines

    return task, study_lines(task_study_of(source, task, chance, tied=tied)[0])


def predict_task(
    source: Runs, task: str, chance: float | None, place: Place, *, forced: bool, tied: bool, as_json: bool
) -> None:
    """Print what each arm would score at an N and a D, or where FLOPs make its bits per byte least."""
    from analysis.advice.tasks.answers import answer_for_budget, answer_for_model
    from analysis.report.task_laws import answer_lines
    from analysis.report.text import plain

    study, fitted = task_study_of(source, task, chance, tied=tied)
    answers = [
        answer_for_budget(laws, str(place), forced=forced)
        if isinstance(place, int)
        else answer_for_model(laws, *place, forced=forced)
        for laws in study.arms
    ]
    if as_json:
        rows = [plain(answer) | {"refused": answer.refused} for answer in answers]
        print_json("mor-sweep.task-predict/1", {"source": fitted.name, "task": task, "answers": rows})
    else:
        typer.echo("\n".join(line for answer in answers for line in answer_lines(answer)))
        say_next_of(source, fitted.name, f"plot task {_flags(task, chance)}")
    if all(answer.refused for answer in answers):
        raise typer.Exit(FIT_REFUSED)


def _flags(task: str, chance: float | None) -> str:
    return f"--task {task}" if chance is None else f"--task {task} --chance {chance:g}"


def place_of(budget: str | None, params: float | None, tokens: float | None) -> Place:
    """What was asked for. Raises TableError where it is neither FLOPs nor a model, or both."""
    from analysis.runs.points import TableError

    if params is not None and tokens is not None and budget is None:
        return params, tokens
    if budget is None or params is not None or tokens is not None:
        raise TableError("--task: name a model by --params N and --tokens D, or FLOPs by --budget C.")
    return flops_of(budget)
