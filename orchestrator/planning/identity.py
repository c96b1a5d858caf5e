"""Units of work and their names: a segment's id is the sha256 of what it computes, and of nothing else.

Pure: no clock, no machine, no path. Resources, threads, micro-batches and the segment that a stable stretch happens to
start from are execution, not identity.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from mor_core.config.fields import later_field
from mor_core.config.model import CausalRule, LayerSelection
from mor_core.config.own_model import Model
from mor_core.config.training import TrainConfig
from orchestrator.planning.canonical import content_id

SegmentKind = Literal["stable", "decay", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class Initialisation:
    """Pretrained weights that a trunk starts from."""

    fingerprint: str
    """sha256 of the weights and their shape."""
    selection: LayerSelection
    """Which layers fill the shared block."""


@dataclass(frozen=True, kw_only=True)
class TrunkRecipe:
    """The mathematics of a trunk: warm-up and constant-learning-rate training that budgets share."""

    model: Model
    """The architecture."""
    train: TrainConfig
    """Optimiser, schedule, batch and precision."""
    data_fingerprint: str
    """sha256 of the data snapshot (documents, split, tokens)."""
    tokenizer_fingerprint: str
    """sha256 of the tokenizer."""
    seed: int
    """Seeds the initial weights and the order of the data."""
    numerics_version: int
    """mor_core.config.training.NUMERICS_VERSION at planning time."""
    init: Initialisation | None = None
    """Where the weights come from; None draws them from the seed, which draws what pretrained weights lack too."""
    unique_tokens: int | None = later_field(None, since="0.1.0")
    """Training reads the first so many tokens of the training part, in their frozen order; None reads all."""

    @cached_property
    def content_id(self) -> str:
        """See `trunk_id`. Each segment of the trunk asks; to look it up by the recipe would take longer."""
        return content_id(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """How weights become losses: validation sequences spread evenly over the validation tokens."""

    num_sequences: int
    """Validation sequences of the model's context length."""

    def __post_init__(self) -> None:
        if self.num_sequences < 1:
            raise ValueError(f"evaluation num_sequences {self.num_sequences}: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class TaskEvaluation:
    """How weights become a task's score: log-likelihoods of the choices of its items (`mor_core.interop.tasks`)."""

    task: str
    """The task's name."""
    fingerprint: str
    """sha256 of its metric and of every prompt as the model gets it."""
    limit: int | None
    """How many of its items, evenly spread; None for all."""
    rule: CausalRule
    """How expert-choice tokens go on; threshold for models that choose otherwise or not at all."""
    measures: int = later_field(1, since="0.1.0")
    """What is measured: 1 the score, 2 bits per byte of the right answers, too."""


@dataclass(frozen=True, kw_only=True)
class TextEvaluation:
    """How weights become the loss of one text: every token of it, in windows of the context that each start afresh.
    What the text is called is no part of it."""

    text_sha256: str
    """Of the text's token ids (`mor_core.data.tokens.text_tokens`)."""
    rule: CausalRule
    """How expert-choice tokens go on; threshold for models that choose otherwise or not at all."""


Evaluation = EvaluationSpec | TaskEvaluation | TextEvaluation


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A content-addressed unit of work. `stable` trains a trunk up to stop_step, `decay` cools down from decay_start
    to stop_step, `evaluate` turns the weights of a decay, or of a whole cosine, into losses, the loss of a text or a
    task's score."""

    id: str
    """64 hexadecimal digits; see `stable_segment`, `decay_segment` and `evaluate_segment`."""
    kind: SegmentKind
    """What it does."""
    trunk: TrunkRecipe
    """The trunk it belongs to."""
    stop_step: int
    """Optimiser steps taken in all when it ends, counted from the start of the trunk."""
    decay_start: int | None = None
    """The step a cooldown branches from (decay and its evaluate)."""
    evaluation: Evaluation | None = None
    """What is measured (evaluate)."""
    needs: tuple[str, ...] = ()
    """Ids of the segments that must be published first. Execution, not identity."""

    @property
    def trunk_step(self) -> int:
        """How far along its trunk it goes: to where its cooldown branches, or to its end where it has none."""
        return self.stop_step if self.decay_start is None else self.decay_start


def stable_segment(trunk: TrunkRecipe, stop_step: int, needs: tuple[str, ...] = ()) -> Segment:
    """Warm-up and what follows it, from the nearest published checkpoint of the trunk to stop_step.

    What follows is a constant learning rate, or the cosine of the trunk's TrainConfig.
    """
    identity = {"kind": "stable", "trunk": trunk_id(trunk), "stop_step": stop_step}
    return Segment(id=content_id(identity), kind="stable", trunk=trunk, stop_step=stop_step, needs=needs)


def decay_segment(trunk: TrunkRecipe, decay_start: int, stop_step: int, needs: tuple[str, ...]) -> Segment:
    """Linear cooldown to a learning rate of 0 over the steps from decay_start to stop_step."""
    identity = {"kind": "decay", "trunk": trunk_id(trunk), "decay_start": decay_start, "stop_step": stop_step}
    return Segment(
        id=content_id(identity), kind="decay", trunk=trunk, stop_step=stop_step, decay_start=decay_start, needs=needs
    )


def evaluation_id(weights_id: str, evaluation: Evaluation) -> str:
    """Id of the segment that measures the weights which a segment ends with."""
    return content_id({"kind": "evaluate", "weights": weights_id, "evaluation": evaluation})


def evaluate_segment(weights: Segment, evaluation: Evaluation) -> Segment:
    """What the weights that a segment ends with can do: a decay's, or a stable one's whose schedule ends there."""
    return Segment(
        id=evaluation_id(weights.id, evaluation),
        kind="evaluate",
        trunk=weights.trunk,
        stop_step=weights.stop_step,
        decay_start=weights.decay_start,
        evaluation=evaluation,
        needs=(weights.id,),
    )


def chain_ids(segment_id: str, needs_of: Callable[[str], Sequence[str]]) -> list[str]:
    """Ids of the segments that lead to one, the first first, itself last; `needs_of` says by id what a segment needs.

    Here, and not with the plan, so that `status` walks the chains of a sweep without reading how one is planned.
    """
    chain = [segment_id]
    # This ends: a plan lists each segment after the one that it needs, which is checked when it is read.
    while needs := needs_of(chain[-1]):
        chain.append(needs[0])
    return chain[::-1]


def trunk_id(trunk: TrunkRecipe) -> str:
    """The name of a trunk: cells that share it share data order and weights up to their branch."""
    return trunk.content_id
