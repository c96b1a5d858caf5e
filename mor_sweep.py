"""The door for scripts and notebooks.

import mor_sweep as ms

ms.open("isoflop-cpu").predict("1e13")
ms.open_table("runs.csv", columns="params=N,tokens=D*1e9,loss=val_loss").fit()
print(ms.check_model("my_model:ladder"))
"""

from collections.abc import Mapping
from pathlib import Path

from orchestrator.notebook import RunTable, Sweep, check_model

__all__ = ["RunTable", "Sweep", "check_model", "open", "open_table"]


def open(name: str | None = None, results: str | Path = "results") -> Sweep:
    """A sweep by its name, or the last one used, of a results folder or an s3:// address; an address in place of the
    name is that of the last sweep used there. It answers `status`, `table`, `fit`, `predict`, `compare`, `backtest`,
    `suggest`, `forecast` and `figure`. Raises NoSuchSweep, OtherVersion and StoreError."""
    return Sweep.open(name, results)


def open_table(
    path: str | Path,
    columns: str | Mapping[str, str] | None = None,
    *,
    convention: str | None = None,
    budgets: str | None = None,
) -> RunTable:
    """Anyone's runs, a CSV or Parquet file, with what `mor-sweep fit --table` is told of it. It answers `fit`,
    `predict`, `compare`, `backtest` and `figure`. Raises TableError."""
    return RunTable.open(path, columns, convention, budgets)
