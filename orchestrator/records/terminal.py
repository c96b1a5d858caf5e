"""What is shown on a terminal: texts that others wrote, in which nothing moves the cursor or hides a word, and commands
to copy, quoted as a shell takes them.

There are two doors, and control characters of somebody's file pass neither: plain lines are cleaned on their way to
stdout and stderr (`clean_streams`), rich's tables on their way through `console.Console`. This module loads no rich,
which takes long.
"""

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from orchestrator.store.folder import ADDRESS

_SEQUENCES = re.compile(r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")
"""Whole escape sequences: those that set something, such as a window's name, and those of colour and cursor."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of writing."""


def without_controls(text: str) -> str:
    """The text without control characters; its lines and tabs stay. Nothing that is seen goes, so widths hold."""
    return _CONTROLS.sub("", text)


def printable_text(text: str) -> str:
    """The text without escape sequences and control characters; its lines and tabs stay."""
    return without_controls(_SEQUENCES.sub("", text)) if _CONTROLS.search(text) else text


def printable_label(text: str) -> str:
    """The text as one line of characters that are seen."""
    if text.isprintable():
        return text
    spaced = " ".join(printable_text(text).split())
    return "".join(filter(str.isprintable, spaced))


@contextlib.contextmanager
def clean_streams() -> Iterator[None]:
    """Within it, text that is printed goes to the terminal, a file or a pipe without control characters."""
    with (
        contextlib.redirect_stdout(_CleanStream(sys.stdout)),  # type: ignore[type-var]
        contextlib.redirect_stderr(_CleanStream(sys.stderr)),  # type: ignore[type-var]
    ):
        yield


class _CleanStream:
    """A text stream; all but the writing is the stream's own."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        # rich looks for this name and writes past this class: its colours are no text, and its text is clean already
        # (`orchestrator.records.terminal`).
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """The text, cleaned."""
        self._stream.write(printable_text(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


USUAL = Path("results")
"""The results folder of a command that names none."""


def command_line(*arguments: str, results: Path = USUAL) -> str:
    """`mor-sweep` with these arguments, and --results where the folder is not the usual one."""
    usual = results == USUAL or results == USUAL.absolute()
    where = [] if usual else ["--results", shown_results(results)]
    return shlex.join(["mor-sweep", *arguments, *where])


def shown_results(results: Path) -> str:
    """The folder, or the s3:// address that it stands for; not quoted yet."""
    if not (results / ADDRESS).exists():
        return str(results)
    from orchestrator.store.upstream.upstream import open_store

    return open_store(results).location
