"""`mor-sweep cancel`, `retry` and `gc`: stop a sweep, clear what stopped its cells, free disk. Imports when called."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mor_core.errors import MorSweepError
from mor_core.units import bytes_text
from orchestrator.cli.options import (
    AsJson,
    CellsOrAll,
    Results,
    SweepArgument,
    SweepOption,
    open_results,
    open_sweep,
    print_json,
    say_next,
)
from orchestrator.store.folder import check_exists, writing

if TYPE_CHECKING:
    from orchestrator.maintenance.gc import Garbage
    from orchestrator.store.store import Store

Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]

STOP_SECONDS = 120.0
"""A driver writes checkpoints, ends Ray and the mirror before it leaves."""


class StillStopping(MorSweepError):
    """A driver that was asked to stop has not ended yet; the message names it."""


def cancel(sweep: SweepArgument = None, results: Results = Path("results"), as_json: AsJson = False) -> None:
    """Stop a running sweep and wait until it has ended.

    It stops as Ctrl-C would stop it; the sweep's own command goes on later.
    """
    from orchestrator.records.status.sweep_status import counts_text, read_status
    from orchestrator.store.drivers import ask_to_stop, running_drivers, wait_until_gone

    store, loaded = open_sweep(results, sweep)
    name = loaded.name
    drivers = running_drivers(store, name)
    stopping = [driver for driver in drivers if driver.is_local and ask_to_stop(driver)]
    for driver in stopping:
        typer.echo(f"asked process {driver.pid} to stop {name}", err=True)
    for driver in stopping:
        if not wait_until_gone(driver, STOP_SECONDS):
            raise StillStopping(
                f"process {driver.pid} runs the sweep {name} still, {STOP_SECONDS:g} s after it was asked to stop: "
                "wait, or end it with kill -9; either way the same command goes on from the last checkpoints"
            )
    elsewhere = [driver for driver in drivers if not driver.is_local]
    for driver in elsewhere:
        typer.echo(f"process {driver.pid} on {driver.host} runs {name} too: cancel it there", err=True)
    if not drivers:
        typer.echo(f"nothing runs the sweep {name}", err=True)
    shown = read_status(store, name)
    if as_json:
        document = {
            "sweep": name,
            "stopped": [driver.pid for driver in stopping],
            "elsewhere": [{"pid": driver.pid, "host": driver.host} for driver in elsewhere],
            "cells": Counter(str(cell.status) for cell in shown.cells),
        }
        print_json("mor-sweep.cancel/1", document)
        return
    typer.echo(counts_text(shown))
    if stopping and not elsewhere:
        typer.echo("stopped: the sweep's own command goes on from the last checkpoints", err=True)
    say_next(["status", name], results=results)


def retry(
    cells: CellsOrAll = None,
    sweep: SweepOption = None,
    results: Results = Path("results"),
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Clear failed and diverged cells, so that they run again.

    The sweep's own command tries them again; diverged results are moved aside.
    """
    from orchestrator.maintenance.retry import RetryRefused, apply_retry, plan_retry
    from orchestrator.records.cell_names import cell_name, find_cell

    store, loaded = open_sweep(results, sweep)
    clearing = plan_retry(store, loaded, [find_cell(loaded, cell) for cell in cells] if cells else loaded.cells)
    if not clearing.cells:
        where = ", ".join(cells) if cells else f"sweep {loaded.name}"
        typer.echo(f"nothing failed or diverged in {where}: nothing to retry", err=True)
    names = [cell_name(cell) for cell in clearing.cells]
    for name in () if as_json else names:
        typer.echo(f"to be tried again: {name}")
    if clearing.moved:
        question = (
            f"{len(clearing.moved)} published results are moved to {store.root / 'retried'}; a sweep that diverged "
            "diverges again unless something of it has changed"
        )
        _agree(question, yes=yes, refusal=RetryRefused)
    with writing(store.root):
        moved = apply_retry(store, clearing) if clearing.cells else []
    store.upstream.withdraw([segment.id for segment in (*clearing.moved, *clearing.failed)])
    if as_json:
        document = {"sweep": loaded.name, "cells": names, "moved": list(map(str, moved))}
        print_json("mor-sweep.retry/1", document)
        return
    for path in moved:
        typer.echo(f"moved aside: {path}")
    if names:
        typer.echo("the sweep's own command tries them again", err=True)
    say_next(["status", loaded.name], results=results)


def gc(
    results: Results = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and stop.")] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Also the final weights of finished cells.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete checkpoints that nothing planned needs.

    What dead attempts left goes too; results and losses stay.

    Kept: what an unfinished segment of any plan starts from, the newest state of every trunk (a larger budget goes on
    there), the final weights of cells (unless --weights), and segments that no sweep of this folder has planned.
    A budget added later below the largest takes its trunk's steps again; the run says how many.
    """
    from orchestrator.maintenance.gc import GcRefused, collect, find_garbage

    check_exists(results)
    store = open_results(results)
    if address := store.upstream.address:
        raise GcRefused(
            f"gc deletes nothing in {address}: delete segments/<id>/ there by hand for sweeps that nobody needs; "
            f"{results} is only a cache of it, which may be deleted at any time that nothing runs"
        )
    garbage = find_garbage(store, weights=weights)
    has_garbage = bool(garbage.checkpoints or garbage.leftovers)
    if not as_json:
        _say(store, garbage)
    elif dry_run or not has_garbage:
        print_json("mor-sweep.gc/1", _garbage_json(store, garbage, freed=0))
    if dry_run or not has_garbage:
        if not as_json:
            say_next((["gc", "--weights"] if weights else ["gc"]) if has_garbage else ["status"], results=results)
        return
    _agree(f"{bytes_text(garbage.num_bytes)} are deleted for good", yes=yes, refusal=GcRefused)
    with writing(store.root):
        freed = collect(store, garbage)
    if as_json:
        print_json("mor-sweep.gc/1", _garbage_json(store, garbage, freed=freed))
        return
    typer.echo(f"freed {bytes_text(freed)}")
    say_next(["fsck"], results=results)


def _garbage_json(store: "Store", garbage: "Garbage", *, freed: int) -> dict[str, Any]:
    return {
        "checkpoints": [
            {"path": str(checkpoint.folder.relative_to(store.root)), "bytes": checkpoint.num_bytes}
            for checkpoint in garbage.checkpoints
        ],
        "leftovers": [{"path": str(path.relative_to(store.root)), "bytes": size} for path, size in garbage.leftovers],
        "bytes": garbage.num_bytes,
        "kept_checkpoints": garbage.num_kept,
        "freed_bytes": freed,
    }


def _say(store: "Store", garbage: "Garbage") -> None:
    from orchestrator.records.cell_names import segment_names

    names = segment_names(store)
    for checkpoint in garbage.checkpoints:
        name = names.get(checkpoint.segment_id, "")
        place = checkpoint.segment_id[:12]
        typer.echo(f"checkpoint {bytes_text(checkpoint.num_bytes):>9s}  {place}  {name}".rstrip())
    for path, size in garbage.leftovers:
        typer.echo(f"leftover   {bytes_text(size):>9s}  {path.relative_to(store.root)}")
    typer.echo(
        f"{len(garbage.checkpoints)} checkpoints and {len(garbage.leftovers)} leftovers, "
        f"{bytes_text(garbage.num_bytes)}; {garbage.num_kept} checkpoints are kept"
    )


def _agree(consequence: str, *, yes: bool, refusal: type[ValueError]) -> None:
    """Raises `refusal` unless --yes was given or someone at the terminal agrees."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise refusal(f"{consequence}, and there is no terminal to ask: add --yes")
    if not typer.confirm(f"{consequence}. Go on?", err=True):
        raise refusal("nothing was changed")
