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

`RULES` is that table. A failure lives in its attempt's failure.json; only a divergence is a result.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

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
    by_command: bool
    """Whether the same command tries the segment again."""
    shared: bool
    """Whether two segments that fail alike, at the start of a run, say that all the others would too."""


RULES = {
    FailureClass.diverged: Rule(retries=0, by_command=False, shared=False),
    FailureClass.oom: Rule(retries=1, by_command=True, shared=False),
    FailureClass.data: Rule(retries=0, by_command=True, shared=True),
    FailureClass.user: Rule(retries=0, by_command=True, shared=True),
    FailureClass.store: Rule(retries=0, by_command=True, shared=True),
    FailureClass.infrastructure: Rule(retries=LOST_PROCESS_RETRIES, by_command=True, shared=False),
    FailureClass.stalled: Rule(retries=1, by_command=True, shared=False),
    FailureClass.preempted: Rule(retries=LOST_PROCESS_RETRIES, by_command=True, shared=False),
    FailureClass.error: Rule(retries=0, by_command=True, shared=True),
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
        """The content of failure.json."""
        return {"class": str(self.kind), "reason": self.reason, **details}
