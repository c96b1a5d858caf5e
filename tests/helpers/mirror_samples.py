"""A small sweep in a results folder, published with made-up numbers, and what an MLflow store holds of it."""

import contextlib
import json
import math
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from orchestrator.planning.identity import Segment, trunk_id
from orchestrator.planning.plan import Plan, plan
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.records.revisions import Sweep, load_sweep, record_revision
from orchestrator.store.published import small_file_sums, summed_content
from orchestrator.store.store import Store
from orchestrator.tracking.cursor import sqlite_uri
from tests.helpers.made_up_data import MADE_UP_DATA

NAME = "sample"

ODD_FOLDER = "a b ü%41#x?y=1&z"
"""A folder whose name means something else where a URI is made of it carelessly."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A results folder with one sweep."""

    store: Store
    plan: Plan

    @property
    def sweep(self) -> Sweep:
        return load_sweep(self.store, NAME)

    @property
    def folder(self) -> Path:
        return self.store.sweep_folder(NAME)

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    @property
    def uri(self) -> str:
        return sqlite_uri(self.database)

    def publish_all(self) -> None:
        """Every segment that is not published yet, with made-up numbers."""
        for segment in self.plan.segments:
            if not self.store.is_done(segment.id):
                publish(self.store, segment)


def sample(root: Path, *budgets: str, sizes: tuple[str, ...] = ("70k", "115k"), batch_size: int = 16) -> Sample:
    """A planned sweep over vanilla and mor-2; nothing is published."""
    changes = {
        "name": NAME,
        "budgets": list(budgets),
        "sizes": {"names": list(sizes)},
        "arms.architectures": ["vanilla", "mor"],
        "train.batch_size": batch_size,
        "seeds": [0],
    }
    spec = load_spec("cpu", [Override(flag=key, path=tuple(key.split(".")), value=changes[key]) for key in changes])
    store, planned = Store(root=root), plan(spec, MADE_UP_DATA)
    record_revision(store, planned, MADE_UP_DATA)
    return Sample(store=store, plan=planned)


def loss_at(segment: Segment, step: int) -> float:
    """A loss curve of its own for every trunk and, below it, every cooldown."""
    floor = 2.0 + int(trunk_id(segment.trunk)[:4], 16) / 2**16
    cooled = 0.1 * (step - segment.decay_start) / segment.stop_step if segment.decay_start is not None else 0.0
    return floor + 4.0 / math.sqrt(1 + step / 20) + 0.05 * math.sin(step) - cooled


def publish(store: Store, segment: Segment, *, status: str = "finished", reason: str = "") -> None:
    """One segment as a worker would publish it: metrics every 10 steps and at its end, then the result."""
    attempt = store.new_attempt(segment)
    result = {"status": status, "reason": reason, "step": segment.stop_step, "kind": segment.kind, "attempts": 1}
    result |= {
        "wall_seconds": 3.0,
        "numerics": [{"device": "cpu x86_64", "torch": "2.13"}],
        "peak_memory_bytes": 1 << 28,
    }
    if segment.kind == "evaluate":
        result["evaluation"] = evaluation(segment)
    else:
        result |= {"train_seconds": 2.5, "steps_executed": segment.stop_step}
        lines = [json.dumps(metrics_row(segment, step)) for step in logged_steps(segment)]
        attempt.metrics.write_text("".join(f"{line}\n" for line in lines))
    assert store.publish(segment, attempt, None, result)


def rewrite_curve(store: Store, segment: Segment, text: str) -> None:
    """Change the curve of a published segment as if it had been published so."""
    files = store.published(segment.id)
    files.metrics.write_text(text)
    document = json.loads(files.result.read_text()) | {"files": small_file_sums(files.folder)}
    files.result.write_bytes(summed_content(document))


def logged_steps(segment: Segment) -> list[int]:
    start = (segment.decay_start or 0) + 1
    steps = range(start, segment.stop_step + 1)
    return [step for step in steps if step % 10 == 0 or step in (1, segment.stop_step)]


def metrics_row(segment: Segment, step: int) -> dict[str, float]:
    values = {"loss": loss_at(segment, step), "aux_loss": 0.5, "gradient_norm": 1.0 / step, "learning_rate": 0.01}
    return {"step": step, "tokens": step * 2048, **values}


def evaluation(segment: Segment) -> dict[str, object]:
    loss = loss_at(segment, segment.stop_step)
    return {
        "loss": loss,
        "loss_topk": loss - 0.01,
        "bits_per_byte": loss / 2,
        "tokens": 4096,
        "depth_mean": 1.5,
        "realised_capacity": [1.0, 0.5],
        "planned_capacity": [1.0, 0.5],
        "forward_flops_per_token": 200_000.5,
    }


def fail(store: Store, segment: Segment, reason: str) -> None:
    """An attempt that ended in an error."""
    attempt = store.new_attempt(segment)
    attempt.record_failure({"reason": reason, "traceback": ""})


def query(database: Path, sql: str, *values: object) -> list[tuple]:
    """What an MLflow SQLite file holds, read without MLflow."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql, values).fetchall()


def active_runs(database: Path) -> dict[str, str]:
    """mor.cell -> run id of the runs that nobody deleted."""
    rows = query(
        database,
        "SELECT tags.value, runs.run_uuid FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        "WHERE tags.key = 'mor.cell' AND runs.lifecycle_stage = 'active'",
    )
    assert len(rows) == len({cell for cell, _ in rows})
    return dict(rows)


def history(database: Path, run_id: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every stored point of a metric."""
    return query(
        database, "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step", run_id, metric
    )


def tags(database: Path, run_id: str) -> dict[str, str]:
    return dict(query(database, "SELECT key, value FROM tags WHERE run_uuid = ?", run_id))


def status(database: Path, run_id: str) -> str:
    return query(database, "SELECT status FROM runs WHERE run_uuid = ?", run_id)[0][0]


def change(database: Path, sql: str, *values: object) -> None:
    """Tamper with an MLflow SQLite file."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(sql, values)
        connection.commit()
