"""Where the numbers of a figure or report come from: what a sweep trained on, and which version looked at it."""

from importlib.metadata import version
from pathlib import Path

from mor_core.data.snapshot import DataSnapshot, load_snapshot
from mor_core.data.spec import PYTHON_SOURCES, DataError
from orchestrator.revisions import Sweep


def data_label(sweep: Sweep) -> str:
    """The data snapshot of a sweep: its name and the start of its fingerprint; its folder's name where it is gone."""
    snapshot = _snapshot_of(sweep)
    if snapshot is None:
        name = Path(sweep.data_folder).name
        return f"data {name[:12]}" if name else ""
    return f"{snapshot.name} {snapshot.fingerprint[:12]}"


def is_on_own_corpus(sweep: Sweep) -> bool:
    """Whether a sweep trained on the Python files of the installed libraries; False where its data is gone."""
    snapshot = _snapshot_of(sweep)
    return snapshot is not None and snapshot.name == PYTHON_SOURCES


def _snapshot_of(sweep: Sweep) -> DataSnapshot | None:
    try:
        return load_snapshot(Path(sweep.data_folder))
    except (DataError, OSError):
        return None


def package_version() -> str:
    """Of mor-sweep."""
    return version("mor-sweep")
