"""One run of segments, to its end or to a request to stop: the loop that every verb which computes segments uses."""

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from orchestrator.planning.costs.limits import NO_LIMIT, Allowance, HourLimit
from orchestrator.planning.costs.machine import fixed_gpus
from orchestrator.planning.identity import Segment
from orchestrator.planning.spec.sections import ExecutionSection
from orchestrator.running.executor import Executor, InProcessExecutor
from orchestrator.running.outcomes import RULES, Outcome
from orchestrator.running.segment.job import Job
from orchestrator.running.stopping import GRACE_SECONDS, Stopping, stoppable
from orchestrator.store.attempts import remove_scratch
from orchestrator.store.folder import holding
from orchestrator.store.store import Store

_ID_OR_NUMBER = re.compile(r"[0-9a-f]{8,}|\d+")


def chosen_executor(
    name: str,
    workers: int,
    address: str | None,
    execution: ExecutionSection,
    allowance: Allowance | None = None,
) -> Executor:
    """What runs segments: "in-process", one after the other; or "ray", on a cluster at an address or one of its own,
    `workers` segments at a time."""
    if name == "in-process":
        return InProcessExecutor()
    from orchestrator.running.ray.executor import RayExecutor

    return RayExecutor(
        workers=workers,
        address=address,
        gpus_per_segment=fixed_gpus(execution.gpus_per_segment),
        gpu_shares=allowance.hours.gpu_shares if allowance else {},
        workers_per_segment=execution.workers_per_segment,
    )


def run_segments(
    executor: Executor,
    store: Store,
    pending: Sequence[Segment],
    job: Job,
    published: dict[str, Outcome],
    on_event: Callable[[Outcome | None], None],
    report: Callable[[str], None],
    hours: HourLimit = NO_LIMIT,
) -> None:
    """Compute the pending segments, of which `published` has the outcomes of what they need.

    `on_event` gets each outcome, once its result is in `store`, and None now and then. No other segment is started once
    the first two failed alike, or the segments of this run have taken their `hours`; `report` gets the sentence.

    Raises KeyboardInterrupt or SystemExit where it was told to stop, after running segments have kept a checkpoint, and
    ResultsGone where the results folder was moved away.
    """
    assert job.stop is not None
    alike, used = _FailuresAlike(), _HoursUsed(store=store, limit=hours)
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
                on_event(outcome)
                for reason in filter(None, (alike.reason_to_stop(outcome, pending), used.reason_to_stop(outcome))):
                    report(reason)
                    job.stop.ask("launch no more")
                job.stop.announce()
                if stopping.number is not None and _may_leave(stopping, store, pending, executor.on_this_host):
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
class _HoursUsed:
    """What this run's published segments took, against what it may take."""

    store: Store
    """Where their results are."""
    limit: HourLimit
    """What it may take."""
    total: float = 0.0
    """Device-hours so far; of a failed segment nothing is known."""

    def reason_to_stop(self, outcome: Outcome | None) -> str:
        """A sentence where this segment's hours take the total to the limit; else empty."""
        before, most = self.total, self.limit.max_hours
        if most is None or outcome is None or outcome.status not in ("finished", "diverged"):
            return ""
        result = self.store.readable_results([outcome.segment_id]).get(outcome.segment_id)
        self.total += self.limit.hours(outcome.segment_id, result.wall_seconds) if result is not None else 0.0
        if not before < most <= self.total:
            return ""
        return (
            f"{self.total:.3g} {self.limit.unit} are used, and {most:g} were allowed: "
            "what runs goes on to its end, nothing else starts"
        )


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
