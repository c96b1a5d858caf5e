"""From log-likelihoods to a task's score, with what chance and the longest answer would get beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from mor_core.interop.scoring import SpanScore
from mor_core.interop.tasks import Item, Metric, Task

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """What a model got. Shares are of items."""

    task: str
    """Its name."""
    metric: Metric
    """Which of the shares below `score` is."""
    score: float
    """The task's number, a share from 0 to 1."""
    standard_error: float | None
    """Of `score`, from the spread over items; None for a single one."""
    items: int
    """Questions."""
    chance: float
    """What picking at random would get; 0 where there is nothing to pick from."""
    longest: float | None
    """What picking the longest choice would get, in characters, the first of equals; None without choices."""
    accuracy: float
    """Share of items whose right choice has the highest log-likelihood; without choices, share answered exactly."""
    accuracy_per_character: float | None
    """The same with each log-likelihood divided by the choice's characters; None without choices."""
    nats_per_answer: float
    """Mean negative log-likelihood of the right choice."""
    bits_per_byte: float
    """Mean over items of what the right choice takes, in bits per byte of its UTF-8 text, the space before it included
    as it is scored: smooth where the score is at chance, and independent of the tokenizer (Bhagia et al. 2024,
    arXiv:2412.04403)."""
    cut: int
    """Items of which the model's context was too short for at least one choice."""


def score_task(task: Task, scores: Sequence[SpanScore], is_cut: Sequence[bool]) -> TaskScore:
    """The score of a task; `scores` and `is_cut` are of `Task.pairs`, in order."""
    scores_by_item = _by_item(task, scores)
    exact, raw, normed = zip(
        *(_verdicts(item, item_scores) for item, item_scores in zip(task.items, scores_by_item, strict=True)),
        strict=True,
    )
    is_choice = task.metric != "exact"
    right = {"exact": exact, "acc": raw, "acc_norm": normed}[task.metric]
    count, score = len(task.items), sum(right) / len(task.items)
    return TaskScore(
        task=task.name,
        metric=task.metric,
        score=score,
        standard_error=math.sqrt(score * (1 - score) / (count - 1)) if count > 1 else None,
        items=count,
        chance=sum(1 / len(item.choices) for item in task.items) / count if is_choice else 0.0,
        longest=sum(_longest(item) == item.label for item in task.items) / count if is_choice else None,
        accuracy=sum(raw if is_choice else exact) / count,
        accuracy_per_character=sum(normed) / count if is_choice else None,
        nats_per_answer=-sum(
            item_scores[item.label].log_likelihood for item, item_scores in zip(task.items, scores_by_item, strict=True)
        )
        / count,
        bits_per_byte=sum(
            -item_scores[item.label].log_likelihood / len(item.choices[item.label].encode())
            for item, item_scores in zip(task.items, scores_by_item, strict=True)
        )
        / (count * math.log(2)),
        cut=sum(any(item_cuts) for item_cuts in _by_item(task, is_cut)),
    )


def _by_item(task: Task, values: Sequence[Value]) -> list[Sequence[Value]]:
    """Values of `Task.pairs`, one group an item."""
    groups: list[Sequence[Value]] = []
    start = 0
    for item in task.items:
        groups.append(values[start : start + len(item.choices)])
        start += len(item.choices)
    assert start == len(values)
    return groups


def _verdicts(item: Item, scores: Sequence[SpanScore]) -> tuple[bool, bool, bool]:
    """Whether an item is right exactly, by log-likelihood, and by log-likelihood per character."""
    plain = [score.log_likelihood for score in scores]
    normed = [
        nats / len(choice.removeprefix(" ")) if choice.strip() else nats
        for nats, choice in zip(plain, item.choices, strict=True)
    ]
    return (
        scores[item.label].is_greedy,
        plain.index(max(plain)) == item.label,
        normed.index(max(normed)) == item.label,
    )


def _longest(item: Item) -> int:
    lengths = [len(context) + len(choice) for context, choice in zip(item.contexts, item.choices, strict=True)]
    return lengths.index(max(lengths))
