"""`mor-sweep pilot`: train a few small cells, measure seed noise and speed, and write the sweep file they advise."""

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, Taken, options_from_dataclass, print_json, say, say_next
from orchestrator.cli.train.launch import Launch, prepared
from orchestrator.cli.train.objections import needs_preparation
from orchestrator.cli.train.search import NOTHING_FOUND, open_search
from orchestrator.cli.train.spending import Priced
from orchestrator.cli.train.sweep_flags import SweepFlags, items_of

SCHEMA = "mor-sweep.pilot/1"
ADVISED = "advised.toml"


Flags = Annotated[
    SweepFlags,
    Taken(
        words={
            "preset": "The sweep to advise: a shipped one (paper, gpu, cpu) or a file.",
            "budgets": "Of the pilot; the sweep's smallest and half of it by default.",
            "sizes": "Base shapes of the pilot; five around each expected optimum by default.",
            "only": "Labels of the arms to try; all by default.",
            "data": "",
            "name": "The sweep that holds the cells; pilot-PRESET.",
        },
        after={"replicates": ("data", "name")},
    ),
]


@options_from_dataclass
def pilot(
    *,
    flags: Flags,
    replicates: Annotated[int, typer.Option(help="Seeds of the three middle sizes.", min=2)] = 3,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The sweep file to write.", dir_okay=False)] = None,
    how: Launch,
    money: Priced,
    as_json: AsJson = False,
) -> None:
    """Train a few small cells to see how noisy a sweep will be.

    Writes the sweep file that they advise. Exit code 5 where they say nothing.
    """
    from mor_core.data.prepare import find
    from mor_core.files import replace_text
    from orchestrator.cli.tables.listing import output_console
    from orchestrator.cli.tables.search import print_pilot
    from orchestrator.search.pilot import pilot_plan, read_pilot, result
    from orchestrator.search.pilot_file import document, sweep_text
    from orchestrator.store.folder import writing

    design = read_pilot(
        flags.file_to_search(),
        name=flags.name,
        budgets=_budgets(flags.budgets),
        sizes=items_of(flags.sizes),
        replicates=replicates,
        sizes_flag="--sizes",
    )
    search = open_search(design.spec, how)
    snapshot = find(design.spec.data_spec)
    if not how.dry_run and (snapshot is not None or not needs_preparation(design.spec)):
        snapshot = prepared(design.spec)
    planned = pilot_plan(design, snapshot)
    search.begin(planned, design.spec, money, as_json=as_json)
    assert snapshot is not None  # A dry run has ended, and so has what needs preparation.
    code = search.train(planned, design.pilot_spec, snapshot)
    findings = result(search.store, design, planned)
    folder, content = search.store.sweep_folder(design.name), document(findings)
    replace_text(folder / "pilot.json", json.dumps({"schema": SCHEMA, "data": content}, indent=1))
    replace_text(folder / ADVISED, sweep_text(design, findings))
    path = out or folder / ADVISED
    with writing(path):
        replace_text(path, sweep_text(design, findings))
    search.mirror(design.name)
    if as_json:
        print_json(SCHEMA, content | {"file": str(path)})
    else:
        print_pilot(findings, output_console())
    say(f"sweep file written to {path}")
    say_next(["isoflop", "--preset", str(path), "--dry-run"], results=how.results)
    raise typer.Exit(code or (0 if findings.says_something else NOTHING_FOUND))


def _budgets(text: str | None) -> list[int] | None:
    """Raises SpecError."""
    from mor_core.units import parse_budget
    from orchestrator.planning.spec.sweep_file import SpecError

    try:
        return None if text is None else [parse_budget(budget) for budget in items_of(text) or []]
    except ValueError as error:
        raise SpecError(f"--budgets: {error}") from None
