"""The MLflow UI of a sweep: a process on this machine that runs for the length of a with block. This module loads no
mlflow."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mor_core.errors import Fix, Unreachable, UserError
from mor_core.units import budget_text
from orchestrator.records.revisions import load_sweep
from orchestrator.records.table import table
from orchestrator.records.terminal import command_line
from orchestrator.store.store import Store
from orchestrator.tracking.connection import engine_uri, require_whole
from orchestrator.tracking.content import isoflop_points
from orchestrator.tracking.cursor import public_uri, read_cursor, sqlite_path, tracking_uri
from orchestrator.tracking.process import end_group

HOST = "127.0.0.1"
USUAL_PORT = 5000
REFUSED_PORTS = (5060, 5061)
"""Browsers refuse to open them (telephony)."""

START_SECONDS = 120.0
PROBE_SECONDS = 5.0


class UiError(UserError):
    """The MLflow UI cannot be shown as asked."""


class TrackingServerUnreachable(Unreachable):
    """No server answers where MLFLOW_TRACKING_URI points; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class MlflowServer:
    """An MLflow UI that is being served."""

    address: str
    """Such as http://127.0.0.1:5000."""
    process: subprocess.Popen[bytes]
    """The server, leader of its process group."""


@contextlib.contextmanager
def serving(store: Store, name: str, port: int | None) -> Iterator[MlflowServer]:
    """An MLflow UI of a sweep on this machine only, for the length of the body; leaves no process.

    Raises UiError where there is nothing to show yet, the port is taken or the server does not start, and
    DamagedStore.
    """
    uri = tracking_uri(store, name)
    path = sqlite_path(uri)
    require_whole(uri)
    if path is not None and not path.exists():
        command = command_line("mlflow", "sync", name, results=store.root)
        raise UiError(f"the sweep {name!r} has no MLflow store yet: run it, or `{command}`")
    port = free_port(port)
    folder = store.sweep_folder(name)
    process = _start(uri, port, folder)
    try:
        _wait_until_healthy(process, port, folder / "ui.log")
        yield MlflowServer(address=f"http://{HOST}:{port}", process=process)
    finally:
        end_group(process)


def running_server(store: Store, name: str) -> str | None:
    """The address of the server that MLFLOW_TRACKING_URI names; None where the store is a file or a database."""
    uri = tracking_uri(store, name)
    return public_uri(uri).rstrip("/") if uri.startswith(("http://", "https://")) else None


def check_answers(uri: str) -> None:
    """Raises TrackingServerUnreachable where nothing answers HTTP at a tracking URI; other stores are not asked."""
    if not uri.startswith(("http://", "https://")):
        return
    address = public_uri(uri)
    try:
        urllib.request.urlopen(address, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:  # Somebody is there; a password or a path is the client's to settle.
        return
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLError):
            return
        raise TrackingServerUnreachable(
            f"no MLflow server answers at {address} ({reason}): start it or correct MLFLOW_TRACKING_URI, or unset that "
            "to use the store in the sweep's own folder"
        ) from error


def runs_page(address: str, store: Store, name: str) -> str:
    """The page of a sweep's runs in an MLflow UI, by arm, size and budget; the front page where the sweep was never
    sent."""
    experiment = read_cursor(store, name, tracking_uri(store, name)).experiment_id
    if not experiment:
        return address
    sorted_by = f"orderByKey={quote('tags.`mor.order`')}&orderByAsc=true"
    return f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning&{sorted_by}"


def chart_page(address: str, store: Store, name: str) -> str:
    """The same runs as curves."""
    page = runs_page(address, store, name)
    return f"{page}&compareRunsMode=CHART" if "?" in page else page


def isoflop_page(address: str, store: Store, name: str) -> str:
    """Loss against N, one curve an arm and budget, as metrics of the summary run; empty where there is none yet."""
    uri = tracking_uri(store, name)
    cursor = read_cursor(store, name, uri)
    rows = table(store, load_sweep(store, name)).iter_rows(named=True)
    metrics = sorted({point for point, _, _ in isoflop_points(rows)}, key=_arm_and_budget)
    if not cursor.summary or not metrics:
        return ""
    parameters = {
        "runs": [cursor.summary],
        "metric": metrics[0],
        "experiments": [cursor.experiment_id],
        "plot_metric_keys": metrics,
    }
    query = "&".join(f"{key}={quote(json.dumps(value))}" for key, value in parameters.items())
    return f"{address}/#/metric?{query}&x_axis=step&workflowType=machine_learning"


def _arm_and_budget(metric: str) -> tuple[str, float]:
    """What sorts isoflop/ARM/BUDGET."""
    arm, _, budget = metric.rpartition("/")
    return arm, float(budget)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Some of a sweep's runs."""

    name: str
    """Which: an arm, or a budget as it is typed."""
    search: str
    """What one would type into the search field of the runs page."""
    page: str
    """The runs page with that in its search field."""


def filters(address: str, store: Store, name: str) -> list[Filter]:
    """The runs of each arm, then those of each budget."""
    cells, runs = load_sweep(store, name).cells, runs_page(address, store, name)
    searches = {arm: f"tags.`mor.arm` = '{arm}'" for arm in sorted({cell.arm for cell in cells})}
    budgets = map(budget_text, sorted({int(cell.budget) for cell in cells}))
    searches |= {budget: f"tags.`mor.budget` = '{budget}'" for budget in budgets}
    return [Filter(name=which, search=text, page=_searched(runs, text)) for which, text in searches.items()]


def _searched(page: str, text: str) -> str:
    """A runs page as its own address names it once that text is searched for; the front page has no search field."""
    return f"{page}&searchFilter={quote(text, safe='')}" if "?" in page else page


def free_port(port: int | None) -> int:
    """The port that was asked for, else MLflow's usual one, else any. Raises UiError where the former will not do."""
    fix = Fix(setting="port", value=str(port))
    if port in REFUSED_PORTS:
        raise UiError(f"browsers refuse to open this port; choose another, such as {USUAL_PORT}", fix=fix)
    # For 0 the operating system gives one; it draws from far above the refused ones.
    for candidate in (USUAL_PORT, 0) if port is None else (port,):
        with contextlib.suppress(OSError), socket.create_server((HOST, candidate)) as probe:
            return probe.getsockname()[1]
    raise UiError("this port is taken; choose another, or none for a free one", fix=fix)


def _start(uri: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """One worker and no job queue: a quarter of the memory and of the start-up time. The URI stays out of `ps`."""
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": engine_uri(uri),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", (folder / "artifacts").resolve().as_uri()]
    with (folder / "ui.log").open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Raises UiError where the server ends or does not answer in time."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UiError(f"the MLflow server ended with code {process.returncode}: see {log}")
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise UiError(f"the MLflow server did not answer within {START_SECONDS:g} s: see {log}")
