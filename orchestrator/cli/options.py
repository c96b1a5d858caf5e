"""Options that several verbs have in common, said once: a dataclass whose fields become options of a verb, and what the
shell offers for sweeps and cells."""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from orchestrator.planning.spec.sweep_file import Override


_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(.*)")
"""Such as s3://bucket/prefix, of which a path keeps one slash."""


def _folder(context: typer.Context, results: Path) -> Path:
    """The folder, or the local folder that stands for an s3:// address: up to date, and uploaded when the verb ends.

    Raises ResultsError where the path is no folder, RemoteRefused and RemoteUnreachable where an address is of no use.
    """
    from orchestrator.store.folder import check_is_folder

    address = _ADDRESS.fullmatch(str(results))
    if address is None:
        check_is_folder(results)
        return results
    from orchestrator.store.upstream.address import open_remote
    from orchestrator.store.upstream.sync import pull, push

    remote = open_remote(f"{address[1]}://{address[2]}")
    pull(remote)
    context.call_on_close(partial(push, remote))
    return remote.store.root


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with a versioned schema instead.")]


def print_json(schema: str, data: Any) -> None:
    """A document for programs to stdout: what it is and in which version ("mor-sweep.plan/1"), and its content."""
    import json

    typer.echo(json.dumps({"schema": schema, "data": data}, indent=1))


PIPED_WIDTH = 140
"""Columns of a table where nothing says how wide the reader's window is."""

Results = Annotated[Path, typer.Option(help="The results folder, or s3://BUCKET/PREFIX.", callback=_folder)]


def complete_sweep(context: typer.Context, incomplete: str) -> list[str]:
    """Sweeps of the results folder, or of the one that --results names."""
    from orchestrator.store.sweep_document import sweep_names

    return [name for name in sweep_names(_store(context)) if name.startswith(incomplete)]


# A verb about a sweep takes its name as the argument; a verb about cells takes those, and --sweep.
SweepArgument = Annotated[
    str | None,
    typer.Argument(metavar="SWEEP", help="The sweep; the last one used by default.", autocompletion=complete_sweep),
]
SweepOption = Annotated[
    str | None, typer.Option("--sweep", help="The sweep; the last one used by default.", autocompletion=complete_sweep)
]
_CELL = "arm/size/budget[/seed], such as mor-3/360M/2e18, or the start of a cell's id"


def complete_cell(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Cells of the sweep that is named on the line, or of the last one used: arm/size/budget/seed, and their ids where
    one has been begun."""
    from mor_core.units import budget_text
    from orchestrator.records.terminal import printable_label
    from orchestrator.store.published import StoreError
    from orchestrator.store.sweep_document import NoSuchSweep, current_revisions, find_document

    try:
        _, document = find_document(_store(context), context.params.get("sweep"))
        cells = [cell for revision in current_revisions(document) for cell in revision["cells"]]
        named = {
            printable_label(f"{cell['arm']}/{cell['size']}/{budget_text(cell['budget'])}/{cell['seed']}"): cell[
                "cell_id"
            ]
            for cell in cells
        }
    except (NoSuchSweep, StoreError, KeyError, TypeError):
        return []
    found = [(name, identity[:12]) for name, identity in named.items() if name.startswith(incomplete)]
    if found or not incomplete:
        return found
    return [(identity, name) for name, identity in named.items() if identity.startswith(incomplete)]


CellArgument = Annotated[str, typer.Argument(metavar="CELL", help=f"{_CELL}.", autocompletion=complete_cell)]
CellArguments = Annotated[list[str], typer.Argument(metavar="CELL...", help=f"{_CELL}.", autocompletion=complete_cell)]
CellsOrAll = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CELL...]", help=f"{_CELL}; all by default.", autocompletion=complete_cell),
]


def above_zero(value: float | None) -> float | None:
    """Raises BadParameter for what is no amount: nan, infinity, 0 and less."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"found {value:g}, expected a number above 0")
    return value


def say(line: str) -> None:
    """What is going on, to stderr."""
    typer.echo(line, err=True)


def say_next(*commands: Sequence[str], results: Path = Path("results")) -> None:
    """What one may do now, to stderr: each command as its arguments."""
    from orchestrator.records.terminal import command_line

    typer.echo("next: " + ", ".join(command_line(*command, results=results) for command in commands), err=True)


PART_MEGABYTES = 256.0
"""10^6 bytes of text in one part of a large corpus: two minutes of one core, and what a kill can cost each worker."""


def corpus_override(corpus: str | None) -> "list[Override]":
    """What --data changes in a sweep. Raises SpecError where it is empty."""
    from orchestrator.planning.spec.sweep_file import Override, SpecError

    if corpus is None:
        return []
    if not corpus.strip():
        raise SpecError(
            f"--data: found {corpus!r}, expected python-sources, fineweb-edu, hf:NAME, or the path of a file or folder "
            "of text: leave the flag out for the preset's own"
        )
    return [Override(flag="--data", path=("data", "corpus"), value=corpus)]


def spread(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with an option for every field of the dataclasses among its parameters, in their place.

    Typer reads options from a signature: this is `verb` with another one, called with the values put together again.
    """
    groups: dict[str, type] = {}
    options: list[inspect.Parameter] = []
    hints = get_type_hints(verb, include_extras=True)
    for name, parameter in inspect.signature(verb).parameters.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            groups[name] = hint
            options += _options_of(hint)
        else:
            options.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))

    def called(**given: Any) -> None:
        own = dict(given)
        for name, group in groups.items():
            own[name] = group(**{field.name: own.pop(field.name) for field in dataclasses.fields(group)})
        verb(**own)

    called.__name__, called.__doc__, called.__module__ = verb.__name__, verb.__doc__, verb.__module__
    called.__annotations__ = {option.name: option.annotation for option in options}
    called.__signature__ = inspect.Signature(options)
    return called


def _options_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(group).parameters.values()
    ]


def _store(context: typer.Context):
    from orchestrator.store.store import Store

    return Store(root=Path(context.params.get("results") or "results"))
