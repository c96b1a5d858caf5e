"""The process that mirrors a sweep while it runs.

    python -m orchestrator.tracking.follower --results DIR --sweep NAME

It loads mlflow with the first thing to send, and ends with its standard input: the pipe of the driver that started it.
A driver waits for the last pass as long as it sees fit; where it was killed, the last pass has ORPHAN_SECONDS.
"""

import argparse
import os
import select
import sys
import threading
import time
from pathlib import Path

from orchestrator.records.revisions import Sweep, load_sweep
from orchestrator.records.status.verified_cells import shown_lines
from orchestrator.store.folder import HeldFolder, ResultsGone, holding
from orchestrator.store.store import Store
from orchestrator.store.upstream.upstream import open_store
from orchestrator.tracking.connection import MirrorError
from orchestrator.tracking.cursor import is_current, tracking_uri
from orchestrator.tracking.mirror import sync
from orchestrator.tracking.process import UNREACHABLE

PASS_SECONDS = 5.0
"""Between passes."""

WATCH_SECONDS = 0.5
"""Between two looks at whether the driver lives."""

BUSY_SHARE = 50
"""A pause lasts this many times the processor time of the pass before, up to LONGEST_PAUSE seconds: under 2 % of a
core. The first thing that is sent does not count: it loads mlflow, once."""

LONGEST_PAUSE = 60.0

ORPHAN_SECONDS = 8.0
"""How long a mirror outlives a driver that was killed: what it is at may be cut short without harm."""

IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""For the last pass at a server that did not take the one before: nobody waits long for it."""


def follow(store: Store, name: str, uri: str, driver: int) -> int:
    """Sync until standard input ends or the driver is gone, then once more. Returns the exit code of the last pass, or
    at once where the results folder is gone."""
    try:
        with holding(store.root) as folder:
            return _follow(store, name, uri, driver, folder)
    except ResultsGone as error:
        print(error, flush=True)
        return UNREACHABLE


def _follow(store: Store, name: str, uri: str, driver: int, folder: HeldFolder) -> int:
    last_problem, ended, sent = "", False, False
    while True:
        busy = time.process_time()
        if ended and last_problem:
            os.environ.update(IMPATIENT)
        folder.check()  # A lock of what is gone would make its folders again.
        sweep = load_sweep(store, name)
        current = is_current(store, sweep, uri)
        problem = "" if current else _send(store, sweep, uri)
        if problem != last_problem:
            print(f"{problem}; retrying" if problem else "MLflow is up to date again", flush=True)
            last_problem = problem
        if ended:
            return UNREACHABLE if problem else 0
        busy = time.process_time() - busy if current or sent else 0.0
        sent = sent or not current
        pause = min(max(PASS_SECONDS, BUSY_SHARE * busy), LONGEST_PAUSE)
        ended = _input_ends_within(pause) or os.getppid() != driver


def _send(store: Store, sweep: Sweep, uri: str) -> str:
    """One pass. Returns what went wrong, empty where nothing did."""
    try:
        return "; ".join(shown_lines(list(sync(store, sweep, uri).problems)))
    except MirrorError as error:
        return str(error)


def _input_ends_within(seconds: float) -> bool:
    """Wait for the end of standard input: the pipe of a driver that closed it, or that is no more."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable) and not os.read(sys.stdin.fileno(), 4096)


def _end_with(driver: int) -> None:
    """End this process soon after its driver was killed. For a thread of its own."""
    while os.getppid() == driver:
        time.sleep(WATCH_SECONDS)
    time.sleep(ORPHAN_SECONDS)
    os._exit(UNREACHABLE)


def main() -> int:
    """Mirror a sweep into MLflow until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.tracking.follower", description=main.__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--sweep", required=True)
    parser.add_argument("--driver", type=int, default=os.getppid(), help="the process to end with; the parent")
    arguments = parser.parse_args()
    os.nice(10)
    threading.Thread(target=_end_with, args=(arguments.driver,), daemon=True).start()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # The next pass is the retry.
    store = open_store(arguments.results.resolve())
    return follow(store, arguments.sweep, tracking_uri(store, arguments.sweep), arguments.driver)


if __name__ == "__main__":
    sys.exit(main())
