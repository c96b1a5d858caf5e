"""A finding of `mor-sweep fsck`; and the findings about processes that outlived their sweep (I8), as far as this host
can see them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.records.terminal import printable_label
from orchestrator.store.attempts import LOCK
from orchestrator.store.drivers import running_drivers
from orchestrator.store.store import Store
from orchestrator.tracking.process import FOLLOWER


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A path, what is wrong with it, what to do."""

    path: str
    """What it is about."""
    what: str
    """What is wrong, or could be tidier."""
    remedy: str
    """What to do."""
    is_note: bool
    """Whether nothing is wrong."""

    def line(self) -> str:
        """One line for people."""
        return printable_label(f"{'note' if self.is_note else 'problem'}: {self.path}: {self.what}: {self.remedy}")


def problem(path: Path, what: str, remedy: str) -> Finding:
    """Something is wrong."""
    return Finding(path=str(path), what=what, remedy=remedy, is_note=False)


def note(path: Path, what: str, remedy: str) -> Finding:
    """Nothing is wrong."""
    return Finding(path=str(path), what=what, remedy=remedy, is_note=True)


def process_findings(store: Store) -> Iterator[Finding]:
    """A worker that holds a segment's lock, or a mirror, while no driver runs."""
    if running_drivers(store):
        return
    for lock in sorted((store.root / "attempts").glob(f"*/{LOCK}")):
        if store.attempts(lock.parent.name).is_locked():
            fault = "is held by a process, though no driver of this host runs a sweep here"
            yield problem(lock, fault, "wait for a driver on another host, else end the process that `fuser` names")
    for pid, command in running_commands():
        if FOLLOWER in command and f"--results {store.root.resolve()} " in f"{command} ":
            yield problem(store.root, f"process {pid} mirrors a sweep that no driver runs", f"kill {pid}")


def running_commands() -> list[tuple[int, str]]:
    """(pid, command line) of the processes of this host, without a line for those that this user may not see."""
    return [(process.pid, " ".join(process.info["cmdline"] or ())) for process in psutil.process_iter(["cmdline"])]
