"""The one door to MLflow: its client, requests to it, what it raises, and the SQLite file that it may keep.

mlflow is imported when it is first needed, which takes seconds. A file that is no whole database is refused before
MLflow is asked, which would try again for minutes: SQLite checks it, and no table is read but through MLflow.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from mor_core.errors import Unreachable, first_line
from orchestrator.store.store import Store
from orchestrator.tracking.content import MetricPoint
from orchestrator.tracking.credentials import VARIABLE, use_credentials
from orchestrator.tracking.cursor import public_uri, sqlite_path, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""What mlflow reads when it is imported. A server that does not answer is tried again at the next pass."""

_REFUSED = re.compile(r"\b(error code|code:?|status) 40[13]\b|UNAUTHENTICATED|PERMISSION_DENIED|Unauthorized")
"""How MLflow says that a server wants other credentials."""

LOCK_SECONDS = 60.0
BATCH = 1000
"""Points that MLflow takes in one request."""

TimedPoint = tuple[MetricPoint, int]
"""A point and its time, in milliseconds since 1970."""

MAGIC = b"SQLite format 3\0"


class MirrorError(Unreachable):
    """MLflow could not be brought up to date. The results store is untouched; a later pass sends the rest."""


class DamagedStore(MirrorError):
    """The file of an SQLite store is no whole database: no later pass sends anything until it is moved away."""


@contextlib.contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """What MLflow and its database raise, as a MirrorError that shows no password."""
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    use_credentials()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        cause = first_line(error).replace(uri, public_uri(uri))
        if _REFUSED.search(cause):
            cause = (
                "it refused the credentials: put others into ~/.mlflow/credentials, or into the file that "
                f"{VARIABLE} names"
            )
        raise MirrorError(f"the MLflow store {public_uri(uri)} did not take the sweep ({cause})") from error


@contextlib.contextmanager
def reading(uri: str) -> "Iterator[MlflowClient | None]":
    """A client to ask a store with; None where an SQLite store does not exist yet. Raises as `sync`."""
    require_whole(uri)
    path = sqlite_path(uri)
    with mlflow_errors(uri):
        from mlflow import MlflowClient

        yield None if path is not None and not path.exists() else MlflowClient(tracking_uri=engine_uri(uri))


def runs_of(client: "MlflowClient", experiment_id: str) -> "Iterator[Run]":
    """The runs of an experiment, the oldest first."""
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=BATCH, order_by=["start_time ASC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def log_points(client: "MlflowClient", run_id: str, points: Iterable[TimedPoint]) -> None:
    """Send metric points, in as many requests as MLflow wants."""
    from mlflow.entities import Metric

    metrics = [Metric(key=name, value=value, timestamp=time, step=step) for (name, value, step), time in points]
    for first in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + BATCH])


def log_texts(client: "MlflowClient", run_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """Send parameters, which no later call can change, and tags."""
    from mlflow.entities import Param, RunTag

    client.log_batch(
        run_id,
        params=[Param(name, text) for name, text in params.items()],
        tags=[RunTag(name, text) for name, text in tags.items()],
    )


def create_experiment(client: "MlflowClient", name: str, artifacts: str | None) -> str | None:
    """Id of a new experiment; None where it cannot be made: a mirror on another host may have made it just now."""
    from mlflow.exceptions import MlflowException

    try:
        return client.create_experiment(name, artifact_location=artifacts, tags={"mor.kind": "sweep"})
    except MlflowException:
        return None


def set_experiment_aside(client: "MlflowClient", experiment: "Experiment") -> None:
    """Rename an experiment and delete it: a deleted one keeps its name."""
    number, name = experiment.experiment_id, f"{experiment.name} at {experiment.artifact_location}"
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(number)
    client.rename_experiment(number, f"{name} ({number})")
    client.delete_experiment(number)


def engine_uri(uri: str) -> str:
    """What MLflow is given for a tracking URI: for an SQLite file, what SQLAlchemy makes of its path.

    The driver is named because MLflow makes the folders above the path of a bare `sqlite:///`: as they are written,
    percent signs and all, and anew where they were moved away. Raises MirrorError for a path that cannot be written so.
    """
    path = sqlite_path(uri)
    if path is None:
        return uri
    from sqlalchemy.engine import URL, make_url

    _, mark, options = uri.partition("?")
    engine = URL.create("sqlite+pysqlite", database=str(path)).render_as_string(hide_password=False)
    if make_url(engine).database != str(path):
        raise MirrorError(
            f"{path}: SQLAlchemy cannot name this file; choose a results folder without ? and % in its path"
        )
    return f"{engine}{mark}{options}"


def open_client(uri: str, store: Store) -> "MlflowClient":
    """A client of a store whose schema exists. Raises MirrorError where the folder of the results is gone."""
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is None:
        return MlflowClient(tracking_uri=uri)
    if path.is_relative_to(store.root.resolve()):
        if not path.parent.is_dir():  # Moved away while mlflow was loaded: it must not come back.
            raise MirrorError(f"{path.parent} is gone")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
        if not path.exists():
            _create_database(path)
        return MlflowClient(tracking_uri=engine_uri(uri))


def _create_database(path: Path) -> None:
    """Build the schema beside its place and move it there whole: one that was cut short could never be repaired."""
    from mlflow import MlflowClient

    unfinished = path.with_name(f"{path.name}.creating")
    for leftover in path.parent.glob(f"{unfinished.name}*"):
        leftover.unlink()
    MlflowClient(tracking_uri=engine_uri(sqlite_uri(unfinished))).search_experiments(max_results=1)
    unfinished.rename(path)


def require_whole(uri: str) -> None:
    """Raises DamagedStore where the file of an SQLite store is there and is no whole database. An empty file is one
    without tables."""
    path = sqlite_path(uri)
    if path is not None and (damage := _damage(path)):
        raise DamagedStore(
            f"{path} {damage}: move it away, and `mor-sweep mlflow sync` builds it anew from the results"
        )


def _damage(path: Path) -> str:
    """What is wrong with a file; empty where nothing is, or where it is being written to."""
    if path.is_dir():
        return "is a folder, expected an SQLite database"
    if not path.is_file() or path.stat().st_size == 0:
        return ""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return "is not an SQLite database"
    try:
        return _complaint(path)
    except sqlite3.OperationalError:  # Another process writes, so it can read; or SQLite cannot, and MLflow says why.
        return ""
    except sqlite3.DatabaseError as error:
        return f"is damaged ({error})"


def _complaint(path: Path) -> str:
    """What SQLite's own check says first; empty where it finds nothing."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)) as database:
        (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    return "" if answer == "ok" else f"is damaged ({str(answer).splitlines()[-1]})"
