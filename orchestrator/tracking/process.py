"""Start and stop the process that mirrors a sweep into MLflow. This module loads no mlflow; training never waits for
it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.revisions import load_sweep
from orchestrator.records.terminal import command_line
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import NoSuchSweep
from orchestrator.tracking.cursor import is_current, is_sent, public_uri, tracking_uri

FOLLOWER = "orchestrator.tracking.follower"
"""The module that is run as a process of its own; fsck knows such processes by it."""

LAST_PASS_SECONDS = 60.0
"""How long the end of a sweep waits for the mirror's last pass."""

INTERRUPTED_SECONDS = 8.0
"""The same after Ctrl-C or an error."""

TERMINATE_SECONDS = 2.0
"""Between asking a process to end and ending it."""

UNREACHABLE = 6
"""Exit code where MLflow cannot be brought up to date."""


@dataclass(kw_only=True)
class Following:
    """A mirror at work, and in the end how it went."""

    process: subprocess.Popen[bytes]
    """The mirror."""
    log: Path
    """Its output."""
    warning: str = ""
    """Once the mirror has ended: one line for the user where MLflow does not show the whole sweep."""


@contextlib.contextmanager
def following(store: Store, name: str) -> Iterator[Following]:
    """Mirror a sweep (whose sweep.json exists) into MLflow while the body runs; leaves no process.

    Afterwards `warning` says how it went. Nothing that goes wrong with MLflow raises, but for a tracking
    URI that nobody could use: that is said before the body (TrackingUriError).
    """
    uri = tracking_uri(store, name)
    mirror = _start(store, name, uri)
    limit = INTERRUPTED_SECONDS
    try:
        yield mirror
        limit = LAST_PASS_SECONDS
    finally:
        code = _end(mirror.process, limit)
        if code != 0 or not _shows_everything(store, name, uri):
            cause = _cause(code, limit, public_uri(uri), mirror.log)
            again = command_line("mlflow", "sync", name, results=store.root)
            mirror.warning = f"MLflow mirror incomplete: {cause}; run `{again}`"


def _shows_everything(store: Store, name: str, uri: str) -> bool:
    """Whether MLflow was sent the whole sweep; also False where the sweep itself can no longer be read."""
    try:
        return is_sent(store, load_sweep(store, name), uri)
    except (NoSuchSweep, StoreError, OSError):
        return False


def bring_up_to_date(store: Store, name: str) -> str:
    """Send what a sweep has gained since its mirror ended, such as findings. Returns a line for the user where that did
    not succeed, else nothing."""
    if is_current(store, load_sweep(store, name), tracking_uri(store, name)):
        return ""
    with following(store, name) as mirror:
        pass
    return mirror.warning


def _start(store: Store, name: str, uri: str) -> Following:
    """A process group of its own, so that Ctrl-C in the terminal does not cut a write short; its input is our pipe."""
    log = store.sweep_folder(name) / "mirror.log"
    command = [sys.executable, "-m", FOLLOWER, "--results", str(store.root), "--sweep", name]
    command += ["--driver", str(os.getpid())]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        )
    return Following(process=process, log=log)


def _end(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """End the mirror's input and wait for its last pass. None where that had to be cut short."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads its group, and the group with it: politely, then for certain."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # Nothing of the group is left.
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERMINATE_SECONDS)


def _cause(code: int | None, seconds: float, uri: str, log: Path) -> str:
    if code is None:
        return f"it was still sending {seconds:g} s after the end"
    if code == UNREACHABLE:
        return f"{uri} did not take everything (see {log})"
    return f"it ended with code {code} (see {log})" if code else f"{uri} does not show every cell (see {log})"
