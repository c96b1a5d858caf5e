"""Where the numbers of a figure or report come from: what a sweep trained on, and which version looked at it."""

from importlib.metadata import version
from pathlib import Path

from mor_core.data.snapshot import load_snapshot
from mor_core.data.spec import DataError
from orchestrator.revisions import Sweep


def data_label(sweep: Sweep) -> str:
    """The data snapshot of a sweep: its name and the start of its fingerprint; its folder's name where it is gone."""
    folder = Path(sweep.data_folder)
    try:
        snapshot = load_snapshot(folder)
    except (DataError, OSError):
        return f"data {folder.name[:12]}" if folder.name else ""
    return f"{snapshot.name} {snapshot.fingerprint[:12]}"


def package_version() -> str:
    """Of mor-sweep."""
    return version("mor-sweep")
