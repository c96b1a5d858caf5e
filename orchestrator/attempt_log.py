"""log.txt of an attempt: what its process printed, warned and logged while it ran, still shown where it was before."""

import contextlib
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LOG = "log.txt"
FORMAT = "%(levelname)s %(name)s: %(message)s"


@contextlib.contextmanager
def logged(attempt: Path, title: str) -> Iterator[None]:
    """Keep what the body says on stdout, stderr and through `logging` and `warnings` in the attempt's log.txt."""
    with (attempt / LOG).open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as log:
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        log.write(f"{now} {title} on {platform.node()}, process {os.getpid()}\n")
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter(FORMAT))
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            # print, warnings and third parties look the streams up when they write.
            with (
                contextlib.redirect_stdout(_Both(sys.stdout, log)),
                contextlib.redirect_stderr(_Both(sys.stderr, log)),
            ):
                yield
        finally:
            root.removeHandler(handler)


class _Both:
    """A text stream that also goes to a log; everything else is the stream's own."""

    def __init__(self, stream: IO[str], log: IO[str]) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        """To both."""
        self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Both."""
        self._log.flush()
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
