"""Which checkpoints may be deleted, and deleting them. A segment's result, curve and losses always stay.

A checkpoint of a planned stable segment may go once every planned segment that starts from it, in any revision of any
sweep of the folder, is published as finished. The newest one of a trunk stays: a larger budget goes on from there.
The final weights of a cell may go, if `weights` is set, once each planned evaluation of them is finished. What no sweep
of the folder has planned stays: its sweep.json may be lost, and its command would build on it. Work that is planned
later and needs a state that was deleted takes its steps again (see pruned).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mor_core.errors import Refused
from mor_core.files import remove_folder, tree_bytes, write_json
from mor_core.training.manifest import MANIFEST
from orchestrator.maintenance.idle import check_idle
from orchestrator.store.attempts import SCRATCH
from orchestrator.store.drivers import running_drivers
from orchestrator.store.pruned import PRUNED, pruned_document
from orchestrator.store.published import CHECKPOINT
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import PlannedWork, planned_work


class GcRefused(Refused):
    """Nothing is deleted as things stand; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class PrunableCheckpoint:
    """A published checkpoint that may go."""

    segment_id: str
    """Whose it is."""
    folder: Path
    """Where it lies."""
    num_bytes: int
    """On disk."""
    reason: str
    """Why nothing needs it."""


def leftovers(store: Store) -> Iterator[Path]:
    """What dead attempts, and deletions that were cut short, left. An attempt at work holds its segment's lock."""
    yield from sorted(store.root.glob("segments/*/*.removed"))
    if not running_drivers(store):
        yield from sorted((store.root / SCRATCH).glob("*"))
    for folder in sorted((store.root / "attempts").glob("*")):
        segment_id = folder.name
        if not folder.is_dir() or store.attempts(segment_id).is_locked():
            continue
        done = store.is_done(segment_id)
        for attempt in store.attempts(segment_id):
            # Whether an attempt of another host is at work cannot be seen for certain.
            if done or attempt.is_of_this_host:
                yield from attempt.leftovers(is_published=done)


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What may go, and how much stays."""

    checkpoints: tuple[PrunableCheckpoint, ...]
    """Published checkpoints."""
    leftovers: tuple[tuple[Path, int], ...]
    """Files and folders of dead attempts, with their bytes."""
    num_kept: int
    """Published checkpoints that stay."""

    @property
    def num_bytes(self) -> int:
        """Of all that may go."""
        return sum(checkpoint.num_bytes for checkpoint in self.checkpoints) + sum(size for _, size in self.leftovers)


def find_garbage(store: Store, *, weights: bool = False) -> Garbage:
    """What may go; changes nothing. Raises StoreError where a plan cannot be read."""
    work = planned_work(store)
    finished = {name for name in work.segments if store.has_finished(name)}
    needed = _needed(store, work, finished, weights=weights)
    with_checkpoint = sorted(path.parent.name for path in store.root.glob(f"segments/*/{CHECKPOINT}") if path.is_dir())
    prunable = [name for name in with_checkpoint if name in finished and name not in needed]
    return Garbage(
        checkpoints=tuple(_prunable(store, work, name) for name in prunable),
        leftovers=tuple((path, tree_bytes(path)) for path in leftovers(store)),
        num_kept=len(with_checkpoint) - len(prunable),
    )


def collect(store: Store, garbage: Garbage) -> int:
    """Delete it; returns the bytes freed. Raises GcRefused while a sweep runs: its plan may just have changed."""
    check_idle(store, GcRefused)
    for checkpoint in garbage.checkpoints:
        _prune(checkpoint)
    for path, _ in garbage.leftovers:
        remove_folder(path) if path.is_dir() else path.unlink(missing_ok=True)
    return garbage.num_bytes


def _needed(store: Store, work: PlannedWork, finished: set[str], *, weights: bool) -> set[str]:
    """Segments whose checkpoints stay."""
    needed = {name for name, users in work.users.items() if not users <= finished}
    if not weights:
        needed |= {name for name in finished if _is_final(work, name)}
    ends: dict[str, list[int]] = {}
    for planned in work.segments.values():
        unfinished = planned[0].kind == "stable" and planned[0].id not in finished
        ends.setdefault(planned[0].trunk_id, []).extend([planned[0].stop_step] if unfinished else [])
    for trunk, stop_steps in ends.items():
        states = [
            (step, name) for step, name in store.published_trunk_steps(trunk) if store.checkpoint_folder(name).is_dir()
        ]
        needed |= {name for _, name in states[:1]}
        for stop_step in stop_steps:  # An unfinished stretch starts from the furthest state before its end.
            needed |= {name for _, name in [state for state in states if state[0] <= stop_step][:1]}
    return needed


def _is_final(work: PlannedWork, segment_id: str) -> bool:
    """Whether a cell ends with these weights: a cooldown's, or those that an evaluation measures."""
    users = work.users.get(segment_id, frozenset())
    return work.kind(segment_id) == "decay" or any(work.kind(user) == "evaluate" for user in users)


def _prunable(store: Store, work: PlannedWork, segment_id: str) -> PrunableCheckpoint:
    folder = store.checkpoint_folder(segment_id)
    users = len(work.users.get(segment_id, ()))
    return PrunableCheckpoint(
        segment_id=segment_id,
        folder=folder,
        num_bytes=tree_bytes(folder),
        reason=f"{users} planned segments start from it, and all of them are finished",
    )


def _prune(checkpoint: PrunableCheckpoint) -> None:
    """Say that it went, then let it go: cut short in between, the next gc goes on."""
    try:
        manifest = json.loads((checkpoint.folder / MANIFEST).read_text())
    except (OSError, ValueError):
        manifest = {}
    kept = {name: manifest.get(name) for name in ("step", "files")} if isinstance(manifest, dict) else {}
    document = pruned_document(checkpoint.segment_id, checkpoint.reason)
    write_json(checkpoint.folder.parent / PRUNED, document | kept | {"bytes": checkpoint.num_bytes})
    remove_folder(checkpoint.folder)
