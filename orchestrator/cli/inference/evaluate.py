"""`mor-sweep eval`: trained cells measured on tasks and texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mor_core.errors import Fix, UserError
from orchestrator.cli.inference.text import (
    Rule,
    RuleChoice,
    Threads,
    figure_name,
    load_cell,
    progress,
    say_own_arms,
    show_rows,
)
from orchestrator.cli.options import AsJson, CellsOrAll, Results, SweepOption, open_sweep, print_json, say, say_next
from orchestrator.cli.train.launch import ExecutorChoice, Launch, RayAddress, machine_of
from orchestrator.cli.train.spending import MaxHours

if TYPE_CHECKING:
    from orchestrator.inference.evaluations import Asked
    from orchestrator.inference.text_loss import TextLoss
    from orchestrator.planning.cells import Cell
    from orchestrator.planning.costs.limits import HourLimit
    from orchestrator.records.revisions import Sweep
    from orchestrator.store.store import Store

FAILED_SEGMENTS = 3
ALL = "all"

Tasks = Annotated[
    str | None,
    typer.Option(
        help="Of lambada, hellaswag, piqa, winogrande, arc_easy, arc_challenge and mmlu, such as piqa,mmlu; or all."
    ),
]
MeasuredText = Annotated[
    str | None,
    typer.Option(
        metavar="[NAME=]FILE",
        help="A text, JSON Lines, Parquet or .npy token file, local to every node: with a name, the loss on it is "
        "kept as text:NAME; without, it is shown by rule, position and depth.",
    ),
]


def evaluate(
    cells: CellsOrAll = None,
    tasks: Tasks = None,
    task_files: Annotated[
        Path | None, typer.Option(help="Folder of task files, local to every node.", envvar="MOR_SWEEP_TASKS")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Items of each task, evenly spread; all by default.", min=1)] = None,
    text: MeasuredText = None,
    sweep: SweepOption = None,
    results: Results = Path("results"),
    rule: RuleChoice = "threshold",
    executor: ExecutorChoice = "ray",
    address: RayAddress = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Cells at a time; one a GPU, else one a core.")] = None,
    threads: Threads = None,
    max_hours: MaxHours = None,
    as_json: AsJson = False,
) -> None:
    """Score trained cells on tasks, or measure their loss on a text.

    What is measured already is not measured again.
    """
    if (tasks is None) == (text is None):
        raise typer.BadParameter("give --tasks or --text, one of them")
    name, file = (None, None) if text is None else _named(text)
    if file is not None and name is None:
        _evaluate_text(cells or [], file, sweep, results, threads, as_json)
        return
    from orchestrator.inference.evaluations import MEASURING, evaluate_all, rows
    from orchestrator.planning.costs.machine import this_machine
    from orchestrator.records.revisions import load_sweep
    from orchestrator.running.run_loop import chosen_executor

    how = Launch(results=results, executor=executor, address=address, workers=workers)
    store = how.store
    loaded = load_sweep(store, sweep)
    if not cells:
        say_own_arms(loaded)
    if name is None or file is None:
        request = _asked_tasks(store, loaded, cells or [], str(tasks), task_files, limit, rule)
    else:
        request = _asked_text(store, loaded, cells or [], name, file, rule)
    if request.left_out:
        typer.echo(f"left out, not finished or without weights: {', '.join(request.left_out)}", err=True)
    hours = _hours(how, max_hours)
    chosen = chosen_executor(executor, this_machine(workers, MEASURING).workers, address, MEASURING)
    outcomes, warning = evaluate_all(store, loaded, request, chosen, say, hours=hours)
    if warning:
        typer.echo(warning, err=True)
    _show(loaded.name, request, rows(store, request, outcomes), as_json)
    if not as_json:
        verb = ["table", loaded.name, "--tasks"] if name is None else ["fit", loaded.name, "--loss", f"text:{name}"]
        say_next(verb, results=results)
    if any(outcome.status != "finished" for outcome in outcomes.values()):
        raise typer.Exit(FAILED_SEGMENTS)


def _named(text: str) -> tuple[str | None, Path]:
    """Name and file of --text NAME=FILE; no name where it is a file alone, such as ./a=b.txt. Raises UserError for a
    file that is not there."""
    start, mark, end = text.partition("=")
    name, file = (start, Path(end)) if mark and "/" not in start else (None, Path(text))
    if not file.exists():
        raise UserError(f"there is no file {file}", fix=Fix(setting="text"))
    return name, file


def _cells_named(sweep: "Sweep", cells: list[str]) -> "list[Cell]":
    """The cells of these names, each once. Raises NoSuchCell."""
    from orchestrator.records.cell_names import find_cell

    return list({cell.cell_id: cell for cell in (find_cell(sweep, name) for name in cells)}.values())


def _asked_tasks(
    store: "Store",
    sweep: "Sweep",
    cells: list[str],
    tasks: str,
    task_files: Path | None,
    limit: int | None,
    rule: Rule,
) -> "Asked":
    """What the flags mean. Raises NoSuchCell, NotTrained and TaskError."""
    from mor_core.interop.tasks import PACKAGE, TASKS, TaskError
    from orchestrator.inference.evaluations import ask_tasks

    if task_files is None:
        raise TaskError(
            f"--tasks needs the task files: `pip install --no-deps --target DIR {PACKAGE}`, then --task-files DIR "
            "or MOR_SWEEP_TASKS=DIR"
        )
    names = list(TASKS) if tasks == ALL else [name.strip() for name in tasks.split(",")]
    distinct, chosen_cells = list(dict.fromkeys(names)), _cells_named(sweep, cells)
    return ask_tasks(store, sweep, chosen_cells, distinct, task_files, limit=limit, rule=rule)


def _asked_text(store: "Store", sweep: "Sweep", cells: list[str], name: str, path: Path, rule: Rule) -> "Asked":
    """What --text NAME=FILE means. Raises NoSuchCell and what `ask_text` raises."""
    from orchestrator.inference.evaluations import ask_text

    if rule != "threshold":
        raise typer.BadParameter(f"text:{name} is measured under the rule of `loss`: leave --rule out, or the name")
    return ask_text(store, sweep, _cells_named(sweep, cells), name, path)


def _hours(how: Launch, max_hours: float | None) -> "HourLimit":
    """What the evaluations may take. Raises ClusterUnreachable, and Infeasible where a cluster cannot run them."""
    from orchestrator.inference.evaluations import MEASURING
    from orchestrator.planning.costs.limits import NO_LIMIT, HourLimit

    if max_hours is None:
        return NO_LIMIT
    machine = machine_of(how, MEASURING)
    return HourLimit(max_hours=max_hours, devices_per_segment=machine.devices_per_segment, unit=machine.hours_unit)


SHOWN = {
    "task": ("cell", "task", "metric", "score", "standard_error", "items", "chance", "longest", "bits_per_byte", "cut"),
    "text": ("cell", "text", "loss", "standard_error", "bits_per_byte", "tokens"),
}


def _show(name: str, request: "Asked", rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json("mor-sweep.eval/1", {"sweep": name, "rows": rows, "left_out": list(request.left_out)})
        return
    for row in rows:
        if row["status"] != "finished":
            typer.echo(f"{row['cell']} {row[request.kind]}: {row['status']}, {row['reason']}", err=True)
    shown = [{key: row[key] for key in SHOWN[request.kind]} for row in rows if row["status"] == "finished"]
    if shown:
        show_rows(f"{name}: {request.kind}s", shown)


def _evaluate_text(
    cells: list[str], text: Path, sweep: str | None, results: Path, threads: int | None, as_json: bool
) -> None:
    if not cells:
        raise typer.BadParameter("name a cell, or the text: --text NAME=FILE measures all cells on it")
    from analysis.figures.cells.inference import plot_text_loss
    from analysis.figures.layout import Sheet
    from mor_core.data.snapshot import TOKENIZER_FILE
    from mor_core.data.tokens.text_tokens import read_tokens
    from orchestrator.cli.figures import figure_paths
    from orchestrator.inference.text_loss import text_loss
    from orchestrator.records.cell_names import find_cell

    store, loaded = open_sweep(results, sweep)
    chosen_cells = [find_cell(loaded, name) for name in cells]
    measured: dict[str, TextLoss] = {}
    for trained in (load_cell(store, loaded, cell, threads) for cell in chosen_cells):
        tokens = read_tokens(text, trained.data.folder / TOKENIZER_FILE, trained.cell.model.vocab_size)
        measured[trained.name] = cell_loss = text_loss(trained, tokens, progress)
        path = figure_paths(store, loaded.name, figure_name(f"text-{text.stem}", trained))
        plot_text_loss(cell_loss.positions, cell_loss.depths, f"{trained.name} on {text.name}", Sheet(out_paths=path))
    if as_json:
        parts = ("losses", "positions", "depths")
        document = {
            name: {part: getattr(cell_loss, part).to_dicts() for part in parts} for name, cell_loss in measured.items()
        }
        print_json("mor-sweep.text-loss/1", {"sweep": loaded.name, "text": str(text), "cells": document})
        return
    for name, cell_loss in measured.items():
        where = f"{name} on {text.name}"
        show_rows(where, cell_loss.losses.to_dicts())
        by_rule = cell_loss.positions.pivot("rule", index=("position", "tokens"), values="loss")
        show_rows(f"{where}: loss by position in the window", by_rule.to_dicts())
        show_rows(f"{where}: loss by recursions", cell_loss.depths.to_dicts())
    say_next(*(["depth", name, "--sweep", loaded.name] for name in measured), results=results)
