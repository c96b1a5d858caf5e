"""Checkpoints that `mor-sweep gc` removed, and what is done where work would start from one.

    segments/<id>/pruned.json    in the place of checkpoint/: its step, the sha256 of its files, why it went

No result depends on a pruned checkpoint. The steps of a trunk are a pure function of its recipe, so work that needs the
state takes them again, from the nearest earlier checkpoint that is kept or from the start, and comes to the same bits.
That costs compute: the command says how much before it is spent, and the result notes it.
"""

import json
from typing import Any

from orchestrator.planning.identity import Segment, trunk_id
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store

PRUNED = "pruned.json"
PRUNED_SCHEMA = "mor-sweep.pruned/1"


def pruned_document(segment_id: str, reason: str) -> dict[str, Any]:
    """What pruned.json says of a checkpoint that went, at the least."""
    return {"schema": PRUNED_SCHEMA, "segment_id": segment_id, "reason": reason}


def read_pruned(store: Store, segment_id: str) -> dict[str, Any] | None:
    """What pruned.json says of a checkpoint that went; None where there is none. Raises StoreError for any other."""
    path = store.segment_folder(segment_id) / PRUNED
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error})") from error
    expected = [PRUNED_SCHEMA, segment_id]
    if not isinstance(document, dict) or [document.get("schema"), document.get("segment_id")] != expected:
        raise StoreError(f"{path} is not of its segment in schema {PRUNED_SCHEMA}")
    return document


def pruned_step(store: Store, segment: Segment) -> int:
    """The furthest step on a segment's way whose published state was pruned; 0 without one."""
    states = store.published_trunk_steps(trunk_id(segment.trunk))
    return max((step for step, name in _on_the_way(segment, states) if is_pruned(store, name)), default=0)


def steps_taken_again(store: Store, segment: Segment) -> int:
    """Steps of its trunk, behind pruned states, that a segment takes again where no attempt has kept a later one."""
    if not all(map(store.is_done, segment.needs)):
        return 0  # It starts from what is to be published before it.
    states = store.published_trunk_steps(trunk_id(segment.trunk))
    steps_with_state = [step for step, name in _on_the_way(segment, states) if store.checkpoint_folder(name).is_dir()]
    return max(0, pruned_step(store, segment) - max(steps_with_state, default=0))


def _on_the_way(segment: Segment, states: list[tuple[int, str]]) -> list[tuple[int, str]]:
    return [] if segment.kind == "evaluate" else [(step, name) for step, name in states if step <= segment.trunk_step]


def is_pruned(store: Store, segment_id: str) -> bool:
    """Whether a segment's checkpoint is gone and gc says that it took it. Raises StoreError."""
    return not store.checkpoint_folder(segment_id).is_dir() and read_pruned(store, segment_id) is not None
