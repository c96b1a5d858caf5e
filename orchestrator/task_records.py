"""What the run table says of tasks: the published scores of a cell's weights, over all items, under its own rule."""

from typing import Any

from mor_core.interop.tasks import task_average
from orchestrator.store.store import Store

SHOWN = ("metric", "score", "standard_error", "items", "chance", "longest", "cut", "fingerprint")
"""Fields of a score that the table keeps; the segment has all."""


def task_scores(store: Store, weights_id: str) -> dict[str, dict[str, Any]]:
    """By task: the scores over all of its items under the calibrated threshold, where they are published.

    Of two versions of a task's files the one with more items counts, then the one whose fingerprint comes first.
    """
    results = store.readable_results(store.published_task_scores(weights_id))
    published = [result.task for result in results.values() if result.task is not None]
    whole = [score for score in published if score.limit is None and score.rule == "threshold"]
    scores: dict[str, dict[str, Any]] = {}
    for score in sorted(whole, key=lambda score: (score.task, -score.items, score.fingerprint)):
        scores.setdefault(score.task, {name: getattr(score, name) for name in SHOWN})
    return scores


def average(scores: dict[str, dict[str, Any]]) -> float | None:
    """The paper's average over its tasks; None unless each of them is there."""
    return task_average({name: score["score"] for name, score in scores.items()})
