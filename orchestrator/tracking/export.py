"""Any MLflow experiment as one table, for fits of runs that were trained elsewhere."""

from pathlib import Path
from typing import Any

import polars as pl

from mor_core.errors import Fix, UserError
from mor_core.files import replacing
from orchestrator.planning.spec.sweep_file import did_you_mean
from orchestrator.records.table import parquet_bytes
from orchestrator.tracking.connection import reading, runs_of
from orchestrator.tracking.cursor import public_uri

SUFFIXES = (".csv", ".parquet")


class ExportError(UserError):
    """An experiment that is not there or holds no run, or a file that cannot be written."""


def export_experiment(uri: str, name: str, out: Path) -> pl.DataFrame:
    """Write the runs of an experiment to a new CSV or Parquet file, and return them. Raises ExportError, MirrorError.

    One row a run: run_id, run_name, status, then params.KEY, metrics.KEY (its last value) and tags.KEY. Parameters,
    which MLflow keeps as text, are numbers where all of them are.
    """
    fix = Fix(setting="out", value=str(out))
    if out.suffix not in SUFFIXES:
        raise ExportError(f"expected a name that ends with {' or '.join(SUFFIXES)}.", fix=fix)
    if out.exists():
        raise ExportError("there is such a file already; move it away or name another.", fix=fix)
    rows = _runs(uri, name)
    if not rows:
        raise ExportError(f"the experiment {name!r} at {public_uri(uri)} holds no run.")
    runs = _numbers(pl.DataFrame(rows, infer_schema_length=None))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_bytes(runs.write_csv().encode() if out.suffix == ".csv" else parquet_bytes(runs))
    return runs


def _runs(uri: str, name: str) -> list[dict[str, Any]]:
    with reading(uri) as client:
        experiment = client.get_experiment_by_name(name) if client is not None else None
        if client is None or experiment is None:
            names = [other.name for other in client.search_experiments()] if client is not None else []
            raise ExportError(f"{public_uri(uri)} has no experiment {name!r}: {did_you_mean(name, names)}")
        return [_row(run) for run in runs_of(client, experiment.experiment_id)]


def _row(run: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"run_id": run.info.run_id, "run_name": run.info.run_name, "status": run.info.status}
    row |= {f"params.{key}": value for key, value in sorted(run.data.params.items())}
    row |= {f"metrics.{key}": float(value) for key, value in sorted(run.data.metrics.items())}
    return row | {f"tags.{key}": value for key, value in sorted(run.data.tags.items()) if not key.startswith("mlflow.")}


def _numbers(runs: pl.DataFrame) -> pl.DataFrame:
    """Parameters as numbers where every one that is given is one."""
    for column in runs.columns:
        if column.startswith("params."):
            numbers = runs[column].cast(pl.Float64, strict=False)
            if numbers.null_count() == runs[column].null_count():
                runs = runs.with_columns(numbers)
    return runs
