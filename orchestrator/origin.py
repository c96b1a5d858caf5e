"""Where the numbers of a figure or report come from: what a sweep trained on, and which version looked at it."""

from importlib.metadata import version
from pathlib import Path

from mor_core.data.snapshot import DataSnapshot, load_snapshot
from mor_core.data.spec import DataError
from orchestrator.revisions import Sweep

SMALL_CORPUS_TOKENS = 10**9


def data_label(sweep: Sweep) -> str:
    """The data snapshot of a sweep: its name and the start of its fingerprint; its folder's name where it is gone."""
    snapshot = _snapshot_of(sweep)
    if snapshot is None:
        name = Path(sweep.data_folder).name
        return f"data {name[:12]}" if name else ""
    return f"{snapshot.name} {snapshot.fingerprint[:12]}"


def is_on_small_corpus(sweep: Sweep) -> bool:
    """Whether a sweep trained on less text than language models take; True where its data is gone."""
    snapshot = _snapshot_of(sweep)
    return snapshot is None or snapshot.train_tokens < SMALL_CORPUS_TOKENS


def _snapshot_of(sweep: Sweep) -> DataSnapshot | None:
    try:
        return load_snapshot(Path(sweep.data_folder))
    except (DataError, OSError):
        return None


def package_version() -> str:
    """Of mor-sweep."""
    return version("mor-sweep")
