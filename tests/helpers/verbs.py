"""Every verb of the command line, found by walking over the application itself."""

from collections.abc import Iterator
from typing import Any

import typer

from orchestrator.cli.main import app


def _leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from _leaves(subcommand, f"{path} {name}".strip())
    if not hasattr(command, "commands"):
        yield path, command


VERBS: dict[str, Any] = dict(_leaves(typer.main.get_command(app)))
"""By what one types, such as "data info"."""
