"""A request to stop: a file that a driver writes and its workers look for between steps, on whichever node they run."""

import os
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mor_core.files import replace_text

How = Literal["now", "launch no more"]
"""Whether running segments leave at their next step, or run to their end and only no new one starts."""


@dataclass(frozen=True, kw_only=True)
class StopFile:
    """The file by which one driver tells its workers to stop."""

    path: Path
    """On the disk that driver and workers share."""

    def ask(self, how: How) -> None:
        """Tell the workers. Raises OSError where the file cannot be written."""
        self.path.parent.mkdir(exist_ok=True)
        replace_text(self.path, how, durable=False)

    def asked(self) -> str | None:
        """How the workers are to stop; None while they are to go on."""
        try:
            return self.path.read_text()
        except OSError:
            return None

    def announce(self) -> None:
        """Pass the request on to workers who do not see the file; by the driver, again and again."""

    def remove(self) -> None:
        """Take the request back: its run is over."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()  # Fails while another run's file is there.


def new_stop_file(folder: Path) -> StopFile:
    """A stop file of this process's own, in a folder that its workers see too. Nothing is written yet."""
    return StopFile(path=folder / "stop" / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
