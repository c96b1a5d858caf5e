"""`mor-sweep eval`: trained cells measured on tasks and texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.inference.text import Rule, RuleChoice, Threads, figure_name, load_cell, progress, show_rows
from orchestrator.cli.options import AsJson, CellArguments, Results, SweepOption, print_json, say_next
from orchestrator.cli.train.launch import ExecutorChoice, ExecutorName, Launch, RayAddress, machine_of
from orchestrator.cli.train.spending import MaxHours

if TYPE_CHECKING:
    from orchestrator.inference.tasks import Asked
    from orchestrator.inference.text_loss import TextLoss
    from orchestrator.planning.costs.limits import HourLimit
    from orchestrator.records.revisions import Sweep
    from orchestrator.store.store import Store

FAILED_SEGMENTS = 3
ALL = "all"


def evaluate(
    cells: CellArguments,
    tasks: Annotated[
        str | None, typer.Option(help="Such as lambada,hellaswag,piqa,winogrande,arc_easy,arc_challenge,mmlu; or all.")
    ] = None,
    task_files: Annotated[
        Path | None, typer.Option(help="Folder of task files, local to every node.", envvar="MOR_SWEEP_TASKS")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Items of each task, evenly spread; all by default.", min=1)] = None,
    text: Annotated[
        Path | None, typer.Option(help="A text, JSON Lines, Parquet or .npy token file: the loss on it.")
    ] = None,
    sweep: SweepOption = None,
    results: Results = Path("results"),
    rule: RuleChoice = Rule.threshold,
    executor: ExecutorChoice = ExecutorName.ray,
    address: RayAddress = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Tasks at a time; one a GPU, else one a core.")] = None,
    threads: Threads = None,
    max_hours: MaxHours = None,
    as_json: AsJson = False,
) -> None:
    """Score trained cells on tasks, or measure their loss on a text; what is scored already is not scored again."""
    if (tasks is None) == (text is None):
        raise typer.BadParameter("give --tasks or --text, one of them")
    if text is not None:
        _evaluate_text(cells, text, sweep, results, threads, as_json)
        return
    from orchestrator.inference.tasks import SCORING, evaluate_all, score_rows
    from orchestrator.planning.costs.machine import this_machine
    from orchestrator.records.revisions import load_sweep
    from orchestrator.running.run_loop import chosen_executor

    how = Launch(results=results, executor=executor, address=address, workers=workers)
    store = how.store
    loaded = load_sweep(store, sweep)
    asked = _asked(store, loaded, cells, str(tasks), task_files, limit, rule)
    hours = _hours(how, max_hours)
    chosen = chosen_executor(executor.value, this_machine(workers, SCORING).workers, address, SCORING)
    done = evaluate_all(store, loaded, asked, chosen, _say, on_this_host=address is None, hours=hours)
    rows = score_rows(store, asked, done)
    if done.warning:
        typer.echo(done.warning, err=True)
    _show_scores(loaded.name, rows, as_json)
    if not as_json:
        say_next(["table", loaded.name, "--tasks"], results=results)
    if any(outcome.status != "finished" for outcome in done.outcomes.values()):
        raise typer.Exit(FAILED_SEGMENTS)


def _asked(
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
    from orchestrator.inference.tasks import ask
    from orchestrator.records.cell_names import find_cell

    if task_files is None:
        raise TaskError(
            f"--tasks needs the task files: `pip install --no-deps --target DIR {PACKAGE}`, then --task-files DIR "
            "or MOR_SWEEP_TASKS=DIR"
        )
    names = list(TASKS) if tasks == ALL else [name.strip() for name in tasks.split(",")]
    found = {cell.cell_id: cell for cell in (find_cell(sweep, name) for name in cells)}
    distinct = list(dict.fromkeys(names))
    return ask(store, sweep, list(found.values()), distinct, task_files, limit=limit, rule=rule.value)


def _hours(how: Launch, max_hours: float | None) -> "HourLimit":
    """What the tasks may take. Raises ClusterUnreachable, and Infeasible where a cluster cannot run them."""
    from orchestrator.inference.tasks import SCORING
    from orchestrator.planning.costs.limits import NO_LIMIT, HourLimit

    if max_hours is None:
        return NO_LIMIT
    machine = machine_of(how, SCORING)
    return HourLimit(max_hours=max_hours, devices_per_segment=machine.devices_per_segment, unit=machine.hours_unit)


SHOWN = ("cell", "task", "metric", "score", "standard_error", "items", "chance", "longest", "cut")


def _show_scores(name: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json("mor-sweep.eval/1", {"sweep": name, "rows": rows})
        return
    for row in rows:
        if row["status"] != "finished":
            typer.echo(f"{row['cell']} {row['task']}: {row['status']}, {row['reason']}", err=True)
    shown = [{key: row[key] for key in SHOWN} for row in rows if row["status"] == "finished"]
    if shown:
        show_rows(f"{name}: tasks", shown)


def _evaluate_text(
    cells: list[str], text: Path, sweep: str | None, results: Path, threads: int | None, as_json: bool
) -> None:
    from analysis.figures.inference import plot_text_loss
    from orchestrator.cli.figures import figure_paths
    from orchestrator.inference.text_loss import read_tokens, text_loss
    from orchestrator.records.cell_names import find_cell
    from orchestrator.records.revisions import load_sweep
    from orchestrator.store.upstream.upstream import open_store

    store = open_store(results)
    loaded = load_sweep(store, sweep)
    found = [find_cell(loaded, name) for name in cells]
    measured: dict[str, TextLoss] = {}
    for trained in (load_cell(store, loaded, cell, threads) for cell in found):
        measured[trained.name] = own = text_loss(trained, read_tokens(trained, text), progress)
        path = figure_paths(store, loaded.name, figure_name(f"text-{text.stem}", trained))
        plot_text_loss(own.positions, own.depths, f"{trained.name} on {text.name}", path)
    if as_json:
        parts = ("losses", "positions", "depths")
        document = {name: {part: getattr(own, part).to_dicts() for part in parts} for name, own in measured.items()}
        print_json("mor-sweep.text-loss/1", {"sweep": loaded.name, "text": str(text), "cells": document})
        return
    for name, own in measured.items():
        where = f"{name} on {text.name}"
        show_rows(where, own.losses.to_dicts())
        by_rule = own.positions.pivot("rule", index=("position", "tokens"), values="loss")
        show_rows(f"{where}: loss by position in the window", by_rule.to_dicts())
        show_rows(f"{where}: loss by recursions", own.depths.to_dicts())
    say_next(*(["depth", name, "--sweep", loaded.name] for name in measured), results=results)


def _say(line: str) -> None:
    """Progress, on stderr."""
    if line:
        typer.echo(line, err=True)
