"""Tries at segments: the private folders in which segments are computed, and where workers that share one meet.

    attempts/<segment_id>/lock        held by the process that computes the segment
    attempts/<segment_id>/<attempt>/  metrics.jsonl  checkpoint-<step>/  progress.json  log.txt  failure.json
    scratch/<run>/                    where the workers that share a segment meet while it runs

Once a segment is published, the checkpoints of its attempts go; what says how it came about stays.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mor_core.files import remove_folder

LOCK = "lock"
"""In a segment's attempts folder: held by the process that computes it, and let go by the kernel with it."""

SCRATCH = "scratch"
LOG = "log.txt"
"""In an attempt's folder: what its process printed, warned and logged while it ran."""

LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_DEBRIS = ("*.writing", "*.writing.*", "*.removed", "final", "publish")
"""What of an attempt only its own process would have gone on with."""


@dataclass(frozen=True, kw_only=True)
class SegmentProgress:
    """Where an attempt at a segment is."""

    step: int
    """Steps taken, from the start of the trunk."""
    stop_step: int
    """The step at which the segment ends."""


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """The tries at one segment, the first first; each is a folder."""

    folder: Path
    """Where they lie. It may not be there yet."""

    def __iter__(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from sorted(path for path in self.folder.iterdir() if path.is_dir())

    def newest(self) -> Path | None:
        """The last one; None before the first."""
        return max(self, default=None)

    def count(self) -> int:
        """How many tries there have been."""
        return sum(1 for _ in self)

    def new(self) -> Path:
        """A new private folder for one try, numbered by trial. The folder above it must be there."""
        number = 1 + self.count()
        while True:
            attempt = self.folder / f"{number:03d}-{socket.gethostname()}-{os.getpid()}"
            try:
                attempt.mkdir()
            except FileExistsError:
                number += 1
            else:
                return attempt

    def remove_debris(self) -> None:
        """Remove what attempts that were killed on this host left half done. Only for who holds the segment's lock.

        An attempt of another host, where the lock may not be seen, may still be at work: its files stay.
        """
        for attempt in self:
            if re.fullmatch(rf"\d+-{re.escape(socket.gethostname())}-\d+", attempt.name):
                for path in [path for pattern in _DEBRIS for path in attempt.glob(pattern)]:
                    remove_folder(path) if path.is_dir() else path.unlink(missing_ok=True)

    def progress(self) -> SegmentProgress | None:
        """How far the newest attempt that has taken a step is; None where none has."""
        newest_first = reversed(list(self))
        return next((progress for progress in map(attempt_progress, newest_first) if progress), None)

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of the checkpoints of all attempts, the latest step first."""
        matches = [(_CHECKPOINT.fullmatch(path.name), path) for path in self.folder.glob("*/checkpoint-*")]
        return sorted([(int(match[1]), path) for match, path in matches if match], reverse=True)

    def last_step(self) -> int:
        """The furthest step that any attempt has kept a checkpoint of; 0 without one."""
        return max((step for step, _ in self.checkpoints()), default=0)

    def is_locked(self) -> bool:
        """Whether a process is at work on the segment, as far as this host can see its lock."""
        try:
            lock = os.open(self.folder / LOCK, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno == errno.EWOULDBLOCK
        finally:
            os.close(lock)
        return False

    def abandon_lock(self) -> None:
        """Let others at a segment whose lock is held by a process that cannot be ended: the next lock is another
        file. Only for who has recorded that the holder's attempt failed."""
        (self.folder / LOCK).unlink(missing_ok=True)


def attempt_progress(attempt: Path) -> SegmentProgress | None:
    """How far one attempt is; None where it has not said so."""
    try:
        document = json.loads((attempt / "progress.json").read_text())
        return SegmentProgress(step=document["step"], stop_step=document["stop_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def scratch_folder(root: Path, run: str) -> Path:
    """Where the workers that share a segment meet, in a results folder, for the length of one run of a command."""
    return root / SCRATCH / (run or "alone")


def remove_scratch(root: Path, run: str) -> None:
    """Remove what workers that were ended with their run left there."""
    shutil.rmtree(scratch_folder(root, run), ignore_errors=True)
    with contextlib.suppress(OSError):  # Another run is using it, or nobody has.
        (root / SCRATCH).rmdir()


@contextlib.contextmanager
def logged(attempt: Path, title: str) -> Iterator[None]:
    """Keep what the body says on stdout, stderr and through `logging` and `warnings` in the attempt's log.txt."""
    with (attempt / LOG).open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as log:
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        log.write(f"{now} {title} on {platform.node()}, process {os.getpid()}\n")
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
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
