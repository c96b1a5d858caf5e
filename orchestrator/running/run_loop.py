"""One run of segments, to its end or to a request to stop: the loop that every verb which computes segments uses."""

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from orchestrator.planning.identity import Segment
from orchestrator.running.executor import Executor
from orchestrator.running.outcomes import RULES, Outcome
from orchestrator.running.segment.job import Job
from orchestrator.running.stopping import GRACE_SECONDS, Stopping, stoppable
from orchestrator.store.attempts import remove_scratch
from orchestrator.store.folder import holding
from orchestrator.store.store import Store

_ID_OR_NUMBER = re.compile(r"[0-9a-f]{8,}|\d+")


def run_segments(
    executor: Executor,
    store: Store,
    pending: Sequence[Segment],
    job: Job,
    published: dict[str, Outcome],
    on_event: Callable[[Outcome | None], str],
    report: Callable[[str], None],
    *,
    on_this_host: bool,
) -> None:
    """Compute the pending segments, of which `published` has the outcomes of what they need.

    `on_event` gets each outcome, once its result is in `store`, and None now and then. A sentence that it returns is
    reported, and no other segment is started. Without `on_this_host` the workers may see other folders and locks.

    Raises KeyboardInterrupt or SystemExit where it was told to stop, after running segments have kept a checkpoint, and
    ResultsGone where the results folder was moved away.
    """
    assert job.stop is not None
    alike = _FailuresAlike()
    try:
        with (
            holding(store.root) as folder,
            stoppable(job.stop) as stopping,
            closing(executor.run(pending, job, published)) as events,
        ):
            for outcome in events:
                folder.check()  # Before anything is read or written at a place that may be another's by now.
                if outcome is not None:
                    # Whoever is told of an outcome reads its result, which may be on another host.
                    store.upstream.fetch_outcome(outcome.segment_id)
                limit = on_event(outcome)
                for reason in filter(None, (alike.reason_to_stop(outcome, pending), limit)):
                    report(reason)
                    job.stop.ask("launch no more")
                job.stop.announce()
                if stopping.number is not None and _may_leave(stopping, store, pending, on_this_host):
                    break
    except (KeyboardInterrupt, SystemExit):
        report("stopped: the same command goes on from the last checkpoints")
        raise
    finally:
        # Last: workers that are still there use it until the executor's events are closed.
        remove_scratch(store.root, job.run)


def _may_leave(stopping: Stopping, store: Store, pending: Sequence[Segment], on_this_host: bool) -> bool:
    """Whether no worker is left that keeps a checkpoint, as far as locks tell, or one takes too long."""
    if stopping.seconds() > GRACE_SECONDS:
        return True
    return on_this_host and not any(store.attempts(segment.id).is_locked() for segment in pending)


@dataclass(kw_only=True)
class _FailuresAlike:
    """Sees whether a run's first failures have one cause, before anything has been evaluated."""

    failures: list[Outcome] = field(default_factory=list)
    """Of classes that other segments may share."""
    has_finished: bool = False
    """Whether an evaluation has finished, so that not every segment fails."""

    def reason_to_stop(self, outcome: Outcome | None, pending: Sequence[Segment]) -> str:
        """Why no other segment is worth a start, in a sentence; empty where others may well finish."""
        if outcome is None:
            return ""
        if outcome.status == "finished":
            kinds = {segment.id: segment.kind for segment in pending}
            self.has_finished |= kinds[outcome.segment_id] == "evaluate"
        if outcome.failure is None or not RULES[outcome.failure].shared:
            return ""
        self.failures.append(outcome)
        if len(self.failures) != 2 or self.has_finished or not fail_alike(*self.failures):
            return ""
        return f"the first two segments failed alike, so no other is started: {outcome.reason}"


def fail_alike(first: Outcome, second: Outcome) -> bool:
    """Whether two segments failed for what looks like one cause that all the others share."""
    if first.failure is None or first.failure is not second.failure or not RULES[first.failure].shared:
        return False
    texts = {_ID_OR_NUMBER.sub("#", outcome.reason) for outcome in (first, second)}
    return len(texts) == 1
