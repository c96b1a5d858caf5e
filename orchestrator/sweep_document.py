"""sweeps/<name>/sweep.json as it lies there: which sweeps there are, and the plans that one of them still stands by.

Light on purpose: what `mor-sweep status` needs of a sweep of thousands of cells is read without building them.
"""

import json
from pathlib import Path
from typing import Any

from mor_core.errors import UserError
from mor_core.plain_names import is_plain_name
from orchestrator.store import Store, StoreError

SCHEMA = "mor-sweep.sweep/1"

MOVE_AWAY = "move it away and run the sweep's command again; trained segments are kept"


class NoSuchSweep(UserError):
    """A sweep that the results folder does not hold."""


def find_document(store: Store, name: str | None = None) -> tuple[str, dict[str, Any]]:
    """Name and sweep.json of a sweep, or of the last one used. Raises NoSuchSweep and StoreError."""
    name = name or last_sweep_name(store)
    # A name is one folder's, never a way out of the results folder.
    document = read_document(store.sweep_folder(name) / "sweep.json") if is_plain_name(name) else None
    if document is None:
        known = ", ".join(sweep_names(store)) or "none yet"
        raise NoSuchSweep(f"no sweep named {name!r} in {store.root}; there are: {known}")
    return name, document


def read_document(path: Path) -> dict[str, Any] | None:
    """A sweep.json; None where there is none. Raises StoreError for a file that is something else."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}): {MOVE_AWAY}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise StoreError(f"{path} is not a sweep of schema {SCHEMA!r}: {MOVE_AWAY}")
    return document


def current_revisions(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The revisions that have the latest one's settings, oldest first: their cells may share a table."""
    revisions = document["revisions"]
    return [each for each in revisions if each["settings_id"] == revisions[-1]["settings_id"]]


def damaged(store: Store, name: str, error: Exception) -> StoreError:
    """What to say of a sweep.json that is JSON and makes no sense."""
    return StoreError(f"{store.sweep_folder(name) / 'sweep.json'} is damaged ({error!r}): {MOVE_AWAY}")


def last_sweep_name(store: Store) -> str:
    """The sweep that was run last. Raises NoSuchSweep where there is none."""
    path = store.root / "sweeps" / ".last"
    if not path.is_file():
        raise NoSuchSweep(f"no sweep has been run in {store.root}; start one with `mor-sweep isoflop --preset cpu`")
    return path.read_text().strip()


def sweep_names(store: Store) -> list[str]:
    """All sweeps of a results folder."""
    return sorted(path.parent.name for path in (store.root / "sweeps").glob("*/sweep.json"))
