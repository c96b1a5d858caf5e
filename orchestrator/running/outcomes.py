"""Why a segment was not computed: a closed set of classes, and what each means for trying again.

| class | what happened | same run | same command |
|---|---|---|---|
| diverged | a loss or gradient is not finite | never | never: it is a published result |
| oom | no memory left, of the host or of the GPU | once, with half the micro-batch | yes |
| data | a shard or the tokenizer is missing or changed | never | yes, once mended |
| user | what was asked for cannot be done | never | yes, once mended |
| store | the results folder cannot be read or written | never | yes, once mended |
| infrastructure | a process or a node was lost | as often as the executor retries | yes |
| stalled | no step within the watchdog's time, or the process is frozen | once | yes |
| preempted | the process was asked to leave | as often as the executor retries | yes |
| error | anything else: a defect | never | yes |

`RULES` has what a run asks of that table. A failure lives in its attempt; only a divergence is a result.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from orchestrator.planning.identity import Segment
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store

LOST_PROCESS_RETRIES = 3
"""How often an executor that outlives its workers puts a segment whose worker was lost on another one."""


class FailureClass(StrEnum):
    """What went wrong, by what can be done about it."""

    diverged = "diverged"
    oom = "oom"
    data = "data"
    user = "user"
    store = "store"
    infrastructure = "infrastructure"
    stalled = "stalled"
    preempted = "preempted"
    error = "error"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a class of failure means for trying again."""

    retries: int
    """Further attempts at the segment within the same run."""
    shared: bool
    """Whether two segments that fail alike, at the start of a run, say that all the others would too."""


RULES = {
    FailureClass.diverged: Rule(retries=0, shared=False),
    FailureClass.oom: Rule(retries=1, shared=False),
    FailureClass.data: Rule(retries=0, shared=True),
    FailureClass.user: Rule(retries=0, shared=True),
    FailureClass.store: Rule(retries=0, shared=True),
    FailureClass.infrastructure: Rule(retries=LOST_PROCESS_RETRIES, shared=False),
    FailureClass.stalled: Rule(retries=1, shared=False),
    FailureClass.preempted: Rule(retries=LOST_PROCESS_RETRIES, shared=False),
    FailureClass.error: Rule(retries=0, shared=True),
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one attempt failed."""

    kind: FailureClass
    """Its class."""
    text: str
    """One sentence, without the class."""

    @property
    def reason(self) -> str:
        """One line, the class first."""
        return f"{self.kind}: {self.text}"

    def to_json(self, **details: Any) -> dict[str, Any]:
        """What an attempt records of it."""
        return {"class": str(self.kind), "reason": self.reason, **details}


Status = Literal["finished", "diverged", "failed", "blocked", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a segment."""

    segment_id: str
    """Its id."""
    status: Status
    """finished and diverged are published results; failed and interrupted stay in their attempts; blocked never
    started, for what it needs did not finish."""
    reason: str = ""
    """One sentence where it is not finished."""
    failure: FailureClass | None = None
    """The class of a failure."""


def blocked(segment: Segment, cause: Outcome) -> Outcome:
    """The outcome of a segment that needs one which did not finish: after one that was interrupted, it is too."""
    if cause.status == "interrupted":
        return replace(cause, segment_id=segment.id)
    reason = cause.reason if cause.status == "blocked" else f"parent {cause.status}: {cause.reason}"
    return Outcome(segment_id=segment.id, status="blocked", reason=reason)


def failed(segment: Segment, failure: Failure) -> Outcome:
    """The outcome of a segment that is not tried again by this run."""
    return Outcome(segment_id=segment.id, status="failed", reason=failure.reason, failure=failure.kind)


def published_outcome(store: Store, segment_id: str) -> Outcome:
    """The outcome that a published result records. Raises StoreError where the result cannot be read, or it or a small
    file beside it was changed since."""
    result = store.verified_result(segment_id)
    if result is None:
        raise StoreError(f"segment {segment_id} has no result in {store.root}")
    failure = None if result.is_finished else FailureClass.diverged
    return Outcome(segment_id=segment_id, status=result.status, reason=result.reason, failure=failure)
