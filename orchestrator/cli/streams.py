"""stdout and stderr of the command: whatever a verb prints, no control character of a file's text gets through."""

import contextlib
import sys
from collections.abc import Iterator
from typing import IO, Any

from mor_core.printable import printable_text


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
        # (`orchestrator.terminal`).
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """The text, cleaned."""
        self._stream.write(printable_text(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
