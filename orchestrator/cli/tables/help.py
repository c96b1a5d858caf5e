"""The help of the command and of its verbs: groups by what one wants and an example for each verb; with colours on a
terminal, as plain text elsewhere.

Typer's own rich help reads square brackets in help texts as markup, such as those of `arm/size/budget[/seed]`, and is
the same in a pipe. What is shown here is what Typer knows of the options, laid out anew.
"""

import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

MOST_COLUMNS = 100
"""Wider help is harder to read."""

TYPES = {"str": "TEXT", "int": "N", "int range": "N", "float": "X", "float range": "X", "directory": "PATH"}
"""What Typer calls the type of a value, and what is shown; others as they are, in capitals where they name no choices.
"""

NO_SUCH_CALL = 2
"""The exit code of a command that names no verb, as of any usage error."""


class Verbs(typer.Typer):
    """Verbs under a name, each with an example."""

    def __init__(self, help: str, **settings: Any) -> None:
        super().__init__(help=help, cls=_Group, rich_markup_mode=None, pretty_exceptions_enable=False, **settings)

    def verb(self, name: str, example: str, panel: str | None = None) -> Callable[[Callable[..., Any]], Any]:
        """Registers a function as the verb `name`; `example` is a whole command that one may type."""
        return self.command(name, cls=_Verb, epilog=example_text(example), rich_help_panel=panel)


def example_text(command: str) -> str:
    """How a help ends."""
    return f"Example: {command}"


def first_paragraph(text: str) -> str:
    """The sentence that a list of verbs shows of a verb's help."""
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


class _InPanels:
    """What a verb and a group of verbs have in common: their help, by panel."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Laid out on a terminal, plain elsewhere."""
        if sys.stdout.isatty():
            _print_panels(self, ctx)
        else:
            super().format_help(ctx, formatter)  # type: ignore[misc]  # Of the class that it is laid over.

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, verbs, the named panels, and the other options."""
        for heading, rows in panels_of(self, ctx).items():
            with formatter.section(heading):
                formatter.write_dl(rows)


class _Verb(_InPanels, TyperCommand):
    """A verb."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`mor-sweep logs [OPTIONS] CELL`: without braces around what has to be there."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


class _Group(_InPanels, TyperGroup):
    """Verbs by panel."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Without a verb the help is the answer."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(NO_SUCH_CALL)
        return super().parse_args(ctx, args)


def panels_of(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Heading -> name and text of what stands below it: arguments, verbs or options by panel, the other options."""
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    for name, verb in getattr(command, "commands", {}).items():
        panels.setdefault(verb.rich_help_panel or "Verbs", []).append((name, first_paragraph(verb.help or "")))
    others: list[tuple[str, str]] = []
    for param in command.get_params(ctx):
        if (record := param.get_help_record(ctx)) is None:
            continue
        is_argument = param.param_type_name == "argument"
        row = (_argument_name(record[0]) if is_argument else _with_plain_type(record[0]), record[1])
        panel = "Arguments" if is_argument else getattr(param, "rich_help_panel", None)
        (panels.setdefault(panel, []) if panel else others).append(row)
    return {heading: rows for heading, rows in (panels | {"Options": others}).items() if rows}


def _argument_name(name: str) -> str:
    """`text <path>` is `TEXT`: an argument's own name says more than its type."""
    argument = name.split(" <")[0]
    return argument if any(letter.isupper() for letter in argument) else argument.upper()


def _with_plain_type(name: str) -> str:
    """`--sizes <str>` is `--sizes TEXT`, `--trunks <shared|per-budget>` names the choices alone."""
    return re.sub(r"<(?:list\[)?([^\]>]*)\]?>", lambda match: _plain_type(match[1]), name)


def _plain_type(kind: str) -> str:
    return kind if "|" in kind else TYPES.get(kind, kind.upper())


def _print_panels(command: Any, ctx: Any) -> None:
    """To a terminal: usage, what the command does, a panel for each group, the example."""
    from rich.markup import escape
    from rich.panel import Panel
    from rich.table import Table

    from orchestrator.records.console import Console

    console = Console(highlight=False)
    console = console if console.width <= MOST_COLUMNS else Console(highlight=False, width=MOST_COLUMNS)
    console.print(f"[bold]{escape(command.get_usage(ctx))}[/bold]\n")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        console.print(escape(" ".join(paragraph.split())) + "\n")
    for heading, rows in panels_of(command, ctx).items():
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(style="bold cyan", overflow="fold", max_width=32)
        table.add_column(overflow="fold")
        for name, text in rows:
            table.add_row(escape(name), escape(text))
        console.print(Panel(table, title=heading, title_align="left", border_style="dim"))
    if command.epilog:
        console.print(f"\n[bold]{escape(command.epilog)}[/bold]", soft_wrap=True)
