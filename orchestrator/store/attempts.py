"""Tries at segments: the private folders in which segments are computed, and where workers that share one meet.

    attempts/<segment_id>/lock        held by the process that computes the segment
    attempts/<segment_id>/<attempt>/  metrics.jsonl  checkpoint-<step>/  progress.json  log.txt  failure.json
    scratch/<run>/                    where the workers that share a segment meet while it runs

Once a segment is published, the checkpoints of its attempts are removed; their logs and notes stay.
"""

import contextlib
import json
import logging
import os
import platform
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mor_core.files import remove_folder, replace_text, write_json
from orchestrator.store.folder import is_held
from orchestrator.store.published import METRICS, SEQUENCE_LOSSES, InFolder
from orchestrator.store.workers.sign_of_life import Sign, read_sign

LOCK = "lock"
"""In a segment's attempts folder: held by the process that computes it, and let go by the kernel with it."""

SCRATCH = "scratch"
LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"

FAILURE = "failure.json"
NUMERICS = "numerics.json"
STATE_FILES = (METRICS, NUMERICS)
"""What another attempt needs of this one beside a checkpoint, to go on from it."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_DEBRIS = ("*.writing", "*.writing.*", "*.removed", "final", "publish", SEQUENCE_LOSSES)
"""What of an attempt only its own process would have gone on with."""

_LEFTOVERS = (*_DEBRIS, "*.corrupt")
"""What of an attempt nobody goes on with once its process is gone."""


def checkpoint_name(step: int) -> str:
    """What an attempt calls the checkpoint that it keeps of a step."""
    return f"checkpoint-{step}"


def checkpoint_step(name: str) -> int | None:
    """The step of a checkpoint that has this name; None where no checkpoint has."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match[1]) if match else None


@dataclass(frozen=True, kw_only=True)
class SegmentProgress:
    """Where an attempt at a segment is."""

    step: int
    """Steps taken, from the start of the trunk."""
    stop_step: int
    """The step at which the segment ends."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a segment: its files, of which any may not be there, and what is read from them and written to them.

    Each attribute from `log` on is the path of a file or folder.
    """

    folder: Path
    """Where they lie: private to the process that makes the attempt, but for what others say of one that is dead."""

    @property
    def name(self) -> str:
        """Number, host and process, such as 001-host-4711."""
        return self.folder.name

    @property
    def is_of_this_host(self) -> bool:
        """Whether a process of this host made it, as far as its name tells."""
        return re.fullmatch(rf"\d+-{re.escape(socket.gethostname())}-\d+", self.name) is not None

    log = InFolder("log.txt")
    """What its process printed, warned and logged while it ran."""

    metrics = InFolder(METRICS)
    """Its curve from the start of the trunk: a line of JSON for each logged step, or for each batch of a task."""

    sequence_losses = InFolder(SEQUENCE_LOSSES)
    """What each validation sequence lost, until it is published."""

    numerics = InFolder(NUMERICS)
    """How it, and the attempts whose state it took over, were computed."""

    notes = InFolder("notes.txt")
    """What the result is to say beside its numbers, one note a line."""

    progress = InFolder("progress.json")
    """How far it is, written anew about once a second."""

    sign = InFolder("watchdog.json")
    """While it is at work: the sign of life of its watchdog, written anew with its steps."""

    stacks = InFolder("stacks.txt")
    """What its threads were doing when the watchdog, or the driver, ended it."""

    failure = InFolder(FAILURE)
    """Why it failed."""

    cleared_failure = InFolder("failure.retried.json")
    """Why it failed, once the segment may be tried again."""

    shared_failure = InFolder("failure.shared")
    """An empty file beside a failure that the bucket has."""

    shared_name = InFolder("remote-name.txt")
    """Its name in the bucket."""

    interrupted = InFolder("interrupted.json")
    """At which step it stopped because it was told to, and by what."""

    final = InFolder("final")
    """The checkpoint of the segment's last step, until it is published."""

    publication = InFolder("publish")
    """The published segment, until it appears whole in its place."""

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step on the way."""
        return self.folder / checkpoint_name(step)

    def corrupt_checkpoint(self, step: int) -> Path:
        """The checkpoint of a step, once it was set aside."""
        return self.folder / f"{checkpoint_name(step)}.corrupt"

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of its checkpoints, the latest step first."""
        steps = [(checkpoint_step(path.name), path) for path in self.folder.glob("checkpoint-*")]
        return sorted([(step, path) for step, path in steps if step is not None], reverse=True)

    def set_aside(self, step: int) -> None:
        """Let nobody use a checkpoint again, and keep it for who wants to see what is wrong with it."""
        if self.checkpoint(step).exists():
            self.checkpoint(step).rename(self.corrupt_checkpoint(step))

    def debris(self) -> list[Path]:
        """What only its own process would have gone on with."""
        return [path for pattern in _DEBRIS for path in self.folder.glob(pattern)]

    def leftovers(self, *, is_published: bool) -> list[Path]:
        """What nobody goes on with once its process is gone: all checkpoints too where its segment is published."""
        patterns = (*_LEFTOVERS, "checkpoint-*") if is_published else _LEFTOVERS
        return sorted({path for pattern in patterns for path in self.folder.glob(pattern)})

    def note(self, text: str) -> None:
        """Add a note."""
        with self.notes.open("a") as file:
            file.write(text + "\n")

    def read_notes(self) -> list[str]:
        """Its notes, the first first."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def record_numerics(self, distinct: Sequence[Mapping[str, Any]]) -> None:
        """Say how it is computed, and how what it took over was."""
        write_json(self.numerics, distinct)

    def read_numerics(self) -> list[dict[str, Any]]:
        """The distinct numerics of this attempt and of those whose state it took over; more than one is a mix."""
        return json.loads(self.numerics.read_text())

    def record_progress(self, step: int, stop_step: int) -> None:
        """Say how far it is."""
        replace_text(self.progress, json.dumps({"step": step, "stop_step": stop_step}), durable=False)

    def read_progress(self) -> SegmentProgress | None:
        """How far it is; None where it has not said so."""
        try:
            document = json.loads(self.progress.read_text())
            return SegmentProgress(step=document["step"], stop_step=document["stop_step"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def read_sign(self) -> Sign | None:
        """Its sign of life; None where it gives none."""
        return read_sign(self.sign)

    def record_interrupted(self, step: int, cause: str) -> None:
        """Say that it was told to stop, and did after this step."""
        write_json(self.interrupted, {"step": step, "cause": cause})

    @property
    def has_failed(self) -> bool:
        """Whether it, or who ended it, says that it failed."""
        return self.failure.exists()

    def record_failure(self, document: Mapping[str, Any]) -> None:
        """Say that it failed: `class`, `reason` and what else is known."""
        write_json(self.failure, document)

    def failure_reason(self) -> str | None:
        """Why it failed, in one line; None where it has not."""
        if not self.has_failed:
            return None
        try:
            return json.loads(self.failure.read_text())["reason"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"an attempt failed, and {self.failure} does not say why"

    def clear_failure(self) -> None:
        """Let its failure, which must be there, no longer count: the segment may be tried again."""
        self.failure.replace(self.cleared_failure)


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """The tries at one segment, the first first."""

    folder: Path
    """Where they lie. It may not be there yet."""

    def __iter__(self) -> Iterator[Attempt]:
        if self.folder.is_dir():
            yield from (Attempt(folder=path) for path in sorted(self.folder.iterdir()) if path.is_dir())

    def named(self, name: str) -> Attempt:
        """The try of this name, which may not be there."""
        return Attempt(folder=self.folder / name)

    def newest(self) -> Attempt | None:
        """The last one; None before the first."""
        return max(self, default=None, key=lambda attempt: attempt.folder)

    def count(self) -> int:
        """How many tries there have been."""
        return sum(1 for _ in self)

    def new(self) -> Attempt:
        """A new private folder for one try, numbered by trial. The folder above it must be there."""
        number = 1 + self.count()
        while True:
            attempt = self.named(f"{number:03d}-{socket.gethostname()}-{os.getpid()}")
            try:
                attempt.folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return attempt

    def remove_debris(self) -> None:
        """Remove what attempts that were killed on this host left half done. Only for who holds the segment's lock.

        An attempt of another host, where the lock may not be seen, may still be at work: its files stay.
        """
        for attempt in self:
            for path in attempt.debris() if attempt.is_of_this_host else ():
                remove_folder(path) if path.is_dir() else path.unlink(missing_ok=True)

    def progress(self) -> SegmentProgress | None:
        """How far the newest attempt that has taken a step is; None where none has."""
        newest_first = reversed(list(self))
        return next((progress for attempt in newest_first if (progress := attempt.read_progress())), None)

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of the checkpoints of all attempts, the latest step first."""
        return sorted((kept for attempt in self for kept in attempt.checkpoints()), reverse=True)

    def last_step(self) -> int:
        """The furthest step that any attempt has kept a checkpoint of; 0 without one."""
        return max((step for step, _ in self.checkpoints()), default=0)

    def is_locked(self) -> bool:
        """Whether a process is at work on the segment, as far as this host can see its lock."""
        try:
            return is_held(self.folder / LOCK)
        except OSError:  # A disk without locks.
            return False

    def abandon_lock(self) -> None:
        """Let others at a segment whose lock is held by a process that cannot be ended: the next lock is another
        file. Only for who has recorded that the holder's attempt failed."""
        (self.folder / LOCK).unlink(missing_ok=True)


def scratch_folder(root: Path, run: str) -> Path:
    """Where the workers that share a segment meet, in a results folder, for the length of one run of a command."""
    return root / SCRATCH / (run or "alone")


def remove_scratch(root: Path, run: str) -> None:
    """Remove what workers that were ended with their run left there."""
    shutil.rmtree(scratch_folder(root, run), ignore_errors=True)
    with contextlib.suppress(OSError):  # Another run is using it, or nobody has.
        (root / SCRATCH).rmdir()


@contextlib.contextmanager
def logged(attempt: Attempt, title: str) -> Iterator[None]:
    """Keep what the body says on stdout, stderr and through `logging` and `warnings` in the attempt's log."""
    with attempt.log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as log:
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
