"""`mor-sweep fsck` and `mor-sweep doctor`: whether the results, and this machine, are in order. Imports when called."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, Results, open_results, print_json, say_next

FOUND_PROBLEMS = 1


def fsck(
    results: Results = Path("results"),
    strict: Annotated[bool, typer.Option("--strict", help="Notes, such as leftovers, count as problems.")] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Also compare what MLflow shows.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check the whole results folder: ids, checksums, tables.

    Also states, fits and MLflow. Reads only; exit code 1 where something is wrong.

    A folder that does not exist is an error (exit 2), not an empty store."""
    from mor_core.units import bytes_text
    from orchestrator.maintenance.findings import problem
    from orchestrator.maintenance.fsck import check_results
    from orchestrator.store.folder import check_exists

    check_exists(results)
    started = time.monotonic()
    store = open_results(results)
    unreadable = [
        problem(Path(store.upstream.address, "segments", name), fault, "see there")
        for name, fault in store.fetch_checkpoints()
    ]
    report = check_results(store, ask_mlflow=mlflow)
    report = replace(report, findings=(*unreadable, *report.findings))
    failing = report.findings if strict else report.problems
    if as_json:
        data = {
            "clean": not failing,
            "sweeps": report.num_sweeps,
            "segments": report.num_segments,
            "bytes": report.num_bytes,
            "unsummed": report.num_unsummed,
            "findings": [asdict(finding) for finding in report.findings],
        }
        print_json("mor-sweep.fsck/1", data)
    else:
        for finding in report.findings:
            typer.echo(finding.line())
        if report.num_unsummed:
            typer.echo(f"{report.num_unsummed} segments were published before sums existed")
        typer.echo(
            f"{report.num_sweeps} sweeps, {report.num_segments} segments, {bytes_text(report.num_bytes)} of "
            f"checkpoints hashed in {time.monotonic() - started:.1f} s: {len(report.problems)} problems, "
            f"{len(report.findings) - len(report.problems)} notes"
        )
    if failing:
        raise typer.Exit(FOUND_PROBLEMS)
    if not as_json:
        say_next(["status"], results=results)


def doctor(
    results: Results = Path("results"),
    deep: Annotated[bool, typer.Option("--deep", help="Also start and end a local Ray.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine: packages, memory, disk, MLflow, data.

    Exit code 1 where a sweep would fail.
    """
    from orchestrator.maintenance.doctor import examine

    lines = []
    for line in examine(open_results(results), deep=deep):
        lines.append(line)
        if not as_json:
            typer.echo(f"{line.level:5s}{line.name:18s}{line.found}")
    bad = any(line.level == "bad" for line in lines)
    if as_json:
        data = {"healthy": not bad, "lines": [asdict(line) for line in lines]}
        print_json("mor-sweep.doctor/1", data)
    if bad:
        raise typer.Exit(FOUND_PROBLEMS)
    if not as_json:
        verbs = [[*line.next, "--dry-run"] for line in lines if line.next]
        say_next(*verbs, results=results)
