"""Executors, which run segments: the protocol that each of them keeps, and the one that works in this process."""

from collections.abc import Generator, Sequence
from typing import Protocol

from orchestrator.planning.identity import Segment
from orchestrator.running.outcomes import Outcome
from orchestrator.running.segment.job import Job
from orchestrator.running.segment.worker import run_or_block

Events = Generator[Outcome | None, None, None]
"""Each segment's outcome once, as it comes, and None now and then: between outcomes, which may be hours apart, the
caller then sees whether the results folder is still there and whether it was told to stop, and says how far the work
is."""


class Executor(Protocol):
    """Runs segments in an order that respects what they need."""

    @property
    def on_this_host(self) -> bool:
        """Whether its workers see the folders and the locks of this process."""
        ...

    def run(self, segments: Sequence[Segment], job: Job, published: dict[str, Outcome]) -> Events:
        """Run segments given in topological order; `published` has the outcomes of needed segments already done.

        Closing the generator ends everything that it started.
        """
        ...


class InProcessExecutor:
    """One segment after the other in this process: for a debugger, a test, a single small cell."""

    on_this_host = True
    """See Executor."""

    def run(self, segments: Sequence[Segment], job: Job, published: dict[str, Outcome]) -> Events:
        """See Executor."""
        outcomes = dict(published)
        for segment in segments:
            outcome = run_or_block(segment, job, [outcomes[need] for need in segment.needs])
            outcomes[segment.id] = outcome
            yield outcome
