"""Options that several verbs share, a decorator that makes options of a dataclass's fields, and what the shell offers
to complete names of sweeps and cells."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from mor_core.errors import Fix
from orchestrator.planning.spec.sweep_file import Override, SpecError
from orchestrator.records.terminal import command_line, printable_label

if TYPE_CHECKING:
    from orchestrator.records.revisions import Sweep
    from orchestrator.store.store import Store


def _folder(context: typer.Context, results: Path) -> Path:
    """The folder, or the local folder of a bucket: up to date, and uploaded when the verb ends.

    Raises ResultsError where the path is no folder, BucketRefused and BucketUnreachable where an address is of no use.
    """
    from orchestrator.store.folder import check_is_folder
    from orchestrator.store.upstream.upstream import address_in, open_store

    if not address_in(results):
        check_is_folder(results)
        return results
    store = open_store(results)
    store.upstream.pull()
    context.call_on_close(store.upstream.push)
    return store.root


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with a versioned schema instead.")]


def print_json(schema: str, data: Any) -> None:
    """A document for programs to stdout: what it is and in which version ("mor-sweep.plan/1"), and its content."""
    import json

    typer.echo(json.dumps({"schema": schema, "data": data}, indent=1))


DOCUMENTS = {
    "mor-sweep.ablation/1": "`ablate`",
    "mor-sweep.backtest/1": "`backtest`",
    "mor-sweep.cancel/1": "`cancel`",
    "mor-sweep.compare/1": "`compare`",
    "mor-sweep.config/1": "`config show`",
    "mor-sweep.data/1": "`data prepare`, `data info`",
    "mor-sweep.depth/1": "`depth`",
    "mor-sweep.doctor/1": "`doctor`",
    "mor-sweep.eval/1": "`eval --tasks`",
    "mor-sweep.fit/1": "`fit`",
    "mor-sweep.forecast-scores/1": "`forecast --score`",
    "mor-sweep.forecast/1": "`forecast`",
    "mor-sweep.fsck/1": "`fsck`",
    "mor-sweep.gc/1": "`gc`",
    "mor-sweep.generate/1": "`generate`",
    "mor-sweep.lifetime/2": "`lifetime`",
    "mor-sweep.logs/1": "`logs`",
    "mor-sweep.mlflow-check/1": "`mlflow sync --check`",
    "mor-sweep.mlflow-sync/1": "`mlflow sync`",
    "mor-sweep.pilot/1": "`pilot`",
    "mor-sweep.plan/1": "`isoflop`, `ablate`, `pilot` and `tune` with `--dry-run`",
    "mor-sweep.predict/1": "`predict`",
    "mor-sweep.predict-corpus/1": "`predict --unique-tokens`",
    "mor-sweep.published-data/1": "`data publish`",
    "mor-sweep.retry/1": "`retry`",
    "mor-sweep.routing/1": "`routing`",
    "mor-sweep.runs/1": "`status`",
    "mor-sweep.suggest/1": "`suggest`",
    "mor-sweep.table/1": "`table`",
    "mor-sweep.task-fit/1": "`fit --task`",
    "mor-sweep.task-predict/1": "`predict --task`",
    "mor-sweep.task-table/1": "`table --tasks`",
    "mor-sweep.text-loss/1": "`eval --text FILE`",
    "mor-sweep.throughput/1": "`throughput`",
    "mor-sweep.tune/1": "`tune`",
    "mor-sweep.ui/1": "`ui`",
}
"""Every document of --json, and which verb prints it."""

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
    from orchestrator.store.published import StoreError
    from orchestrator.store.sweep_document import NoSuchSweep, current_revisions, find_document

    try:
        _, document = find_document(_store(context), context.params.get("sweep"))
        cells = [cell for revision in current_revisions(document) for cell in revision["cells"]]
        ids_by_name = {
            printable_label(f"{cell['arm']}/{cell['size']}/{budget_text(cell['budget'])}/{cell['seed']}"): cell[
                "cell_id"
            ]
            for cell in cells
        }
    except (NoSuchSweep, StoreError, KeyError, TypeError):
        return []
    matches = [(name, identity[:12]) for name, identity in ids_by_name.items() if name.startswith(incomplete)]
    if matches or not incomplete:
        return matches
    return [(identity, name) for name, identity in ids_by_name.items() if identity.startswith(incomplete)]


CellArgument = Annotated[str, typer.Argument(metavar="CELL", help=f"{_CELL}.", autocompletion=complete_cell)]
CellsOrAll = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CELL...]", help=f"{_CELL}; all by default.", autocompletion=complete_cell),
]


LOSSES = ("loss", "loss_topk", "loss_half", "bits_per_byte", "text:", "task:", "bpb:", "own:")
"""What --loss takes, as the shell offers it."""


def _loss_name(words: str | None) -> str | None:
    """The loss's name, which is its column of the run table. Raises LossError."""
    from analysis.runs.losses import parse_loss

    return None if words is None else parse_loss(words).name


_LOSS = typer.Option(
    "--loss",
    metavar="LOSS",
    help="What is fitted: loss (what inference can do), loss_topk (the paper's evaluation), loss_half, bits_per_byte, "
    "text:NAME, task:NAME, bpb:NAME for bits per byte of a task's right answers (see eval), or own:NAME of a model of "
    "your own.",
    callback=_loss_name,
    autocompletion=lambda incomplete: [name for name in LOSSES if name.startswith(incomplete)],
)
LossOption = Annotated[str, _LOSS]
"""A verb's loss: its name, checked."""

LossesOption = Annotated[str | None, _LOSS]
"""The same for a verb that takes more than one where it is told none."""


def above_zero(value: float | None) -> float | None:
    """Raises BadParameter for what is no amount: nan, infinity, 0 and less."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"found {value:g}, expected a number above 0")
    return value


def not_below_zero(value: float) -> float:
    """Raises BadParameter for nan, infinity and less than 0."""
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"found {value:g}, expected a number from 0")
    return value


def say(line: str) -> None:
    """What is going on, to stderr."""
    typer.echo(line, err=True)


FLAGS = {
    "address": "--address",
    "batches": "--batches",
    "budgets": "--budgets",
    "chance": "--chance",
    "columns": "--columns",
    "convention": "--convention",
    "executor": "--executor",
    "max_hours": "--max-gpu-hours",
    "other": "--with",
    "out": "--out",
    "paper": "--paper",
    "port": "--port",
    "preset": "--preset",
    "recipe": "--recipe",
    "refresh": "--refresh",
    "results": "--results",
    "same_model": "--same-model",
    "sizes": "--sizes",
    "table": "--table",
    "tasks": "--tasks",
    "text": "--text",
}
"""What a setting that an error names is called on the command line, the same at every verb that has it. Settings of a
sweep file alone have no flag."""


def fix_in_flags(fix: Fix) -> str:
    """What to type: a flag, a command, or the setting of a sweep file that has no flag."""
    flag = FLAGS.get(fix.setting)
    if flag is None and fix.setting:
        return str(fix)
    typed = " ".join(part for part in (flag, fix.value) if part)
    return f"`{' '.join(part for part in ('mor-sweep', fix.verb, typed) if part)}`" if fix.verb else typed


def say_next(*commands: Sequence[str], results: Path = Path("results")) -> None:
    """What one may do now, to stderr: each command as its arguments."""
    typer.echo("next: " + ", ".join(command_line(*command, results=results) for command in commands), err=True)


DEFAULT_PRESET = "paper"
"""What every verb that takes a sweep file takes where it is told none: one study from `data prepare` to `isoflop`."""


def corpus_override(corpus: str | None) -> "list[Override]":
    """What --data changes in a sweep: its text, and whether rules of quality hold for it. A sweep file asks for these
    of the text that it names, so they do not hold for files of one's own. Raises SpecError where it is empty."""
    from mor_core.data.spec import PYTHON_CORPORA

    if corpus is None:
        return []
    if not corpus.strip():
        raise SpecError(
            f"--data: found {corpus!r}, expected pinned-python, python-sources, fineweb-edu, hf:NAME, or the path of "
            "a file or folder of text: leave the flag out for the preset's own"
        )
    named = Override(flag="--data", path=("data", "corpus"), value=corpus)
    return [named] if corpus in PYTHON_CORPORA else [named, replace(named, path=("data", "quality"), value=False)]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a verb takes of a dataclass of flags that others take whole; in the parameter's annotation, such as
    `flags: Annotated[SweepFlags, Taken(...)]`."""

    words: Mapping[str, str]
    """By field that is taken, the help of its option; empty for the field's own."""
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Fields that stand later among the options: after which parameter of the verb."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """By field, where the verb's differs from the field's own."""


def options_from_dataclass(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with an option for every field of the dataclasses among its parameters, in their place.

    Typer reads options from a signature: this is `verb` with another one, called with the values put together again.
    """
    groups: dict[str, tuple[type, list[str]]] = {}
    options: list[inspect.Parameter] = []
    later: dict[str, list[inspect.Parameter]] = {}
    hints = get_type_hints(verb, include_extras=True)
    for name, parameter in inspect.signature(verb).parameters.items():
        group, selection = _group_of(hints[name])
        if group is None:
            options.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            fields = {option.name: option for option in _options_of(group, selection)}
            groups[name] = (group, list(fields))
            for place, names in selection.after.items() if selection else ():
                later[place] = [fields.pop(field_name) for field_name in names]
            options += fields.values()
        options += later.pop(name, [])

    def command(**values: Any) -> None:
        for name, (group, fields) in groups.items():
            values[name] = group(**{field_name: values.pop(field_name) for field_name in fields})
        verb(**values)

    command.__name__, command.__doc__, command.__module__ = verb.__name__, verb.__doc__, verb.__module__
    command.__annotations__ = {option.name: option.annotation for option in options}
    command.__signature__ = inspect.Signature(options)
    return command


def _group_of(hint: Any) -> tuple[type | None, Taken | None]:
    """The dataclass of flags that a parameter stands for, and what is taken of it; None for a plain option."""
    selection = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Taken)), None)
    bare = get_args(hint)[0] if selection else hint
    return (bare, selection) if isinstance(bare, type) and dataclasses.is_dataclass(bare) else (None, None)


def _options_of(group: type, selection: Taken | None) -> list[inspect.Parameter]:
    """The fields as options of a verb, in its own words and with its own defaults where it has some."""
    hints = get_type_hints(group, include_extras=True)
    options = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(group).parameters.items()
    ]
    if selection is None:
        return options
    return [
        _reworded(option, selection.words[option.name]).replace(
            default=selection.defaults.get(option.name, option.default)
        )
        for option in options
        if option.name in selection.words
    ]


def _reworded(option: inspect.Parameter, words: str) -> inspect.Parameter:
    if not words:
        return option
    kind, described = get_args(option.annotation)
    reworded = copy(described)
    reworded.help = words
    return option.replace(annotation=Annotated[kind, reworded])


def open_results(results: Path) -> "Store":
    """The results in a folder, or in the bucket that it stands for."""
    from orchestrator.store.upstream.upstream import open_store

    return open_store(results)


def open_sweep(results: Path, name: str | None) -> "tuple[Store, Sweep]":
    """The same with a sweep of them, the last one used where none is named. Raises NoSuchSweep and OtherVersion."""
    from orchestrator.records.revisions import load_sweep

    store = open_results(results)
    return store, load_sweep(store, name)


def _store(context: typer.Context) -> "Store":
    return open_results(Path(context.params.get("results") or "results"))
