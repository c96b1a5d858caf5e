"""Segments as Ray tasks.

This process says which segment starts next (orchestrator.running.schedule); Ray places it and, when a worker process or
a node dies, runs the task again, which is a new attempt that resumes from the last checkpoint.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from psutil import Process

from mor_core.errors import first_line
from orchestrator.planning.costs.machine import (
    CPUS_PER_WORKER,
    Node,
    Request,
    check_feasible,
    default_gpus,
    has_room,
    parallel_segments,
)
from orchestrator.planning.identity import Segment
from orchestrator.running.executor import Events
from orchestrator.running.outcomes import LOST_PROCESS_RETRIES, RULES, Failure, FailureClass, Outcome, failed
from orchestrator.running.ray.connection import ClusterUnreachable, connected, connection_error, run_group, run_on_host
from orchestrator.running.ray.local_cluster import central_processes, lost_process
from orchestrator.running.schedule import Schedule
from orchestrator.running.segment.job import Job
from orchestrator.running.segment.ranks import Rank, run_rank, with_ranks
from orchestrator.running.segment.worker import run_segment
from orchestrator.running.stalls.detection import Silence, StallWatch
from orchestrator.running.stalls.ending import Ending, end_frozen, record_stalled, stalled_failure
from orchestrator.running.stopping import preemptible
from orchestrator.store.store import Store
from orchestrator.store.upstream.upstream import open_store

Item = TypeVar("Item")
Result = TypeVar("Result")

TICK_SECONDS = 0.5
LOST_SECONDS = 10.0
"""For how long nothing answers at a cluster's address before it counts as lost; Ray itself would end this process
after a minute, without a word."""

END_ELSEWHERE_SECONDS = 20.0
"""For another node of the cluster to end a frozen process there."""


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs segments as Ray tasks."""

    workers: int
    """Segments that a local cluster runs at a time. A cluster at `address` runs as many as it holds."""
    address: str | None = None
    """`host:port` of an existing cluster; None starts a local one."""
    gpus_per_segment: float | None = None
    """GPUs of each worker of a segment; None takes one where the cluster has any."""
    gpu_shares: Mapping[str, float] = field(default_factory=dict)
    """By segment id, of segments with one worker, where the cluster has GPUs; those left out take the above."""
    workers_per_segment: int = 1
    """Processes that share a segment's batches, each with one CPU."""

    @property
    def on_this_host(self) -> bool:
        """See orchestrator.running.executor.Executor."""
        return self.address is None

    def run(self, segments: Sequence[Segment], job: Job, published: dict[str, Outcome]) -> Events:
        """See orchestrator.running.executor.Executor. Raises ClusterUnreachable, and Infeasible before anything is
        started."""
        store = open_store(job.results)
        with self._connected(job.code_files) as ray:
            if job.code_files:  # Each worker starts in a copy of them.
                job = replace(job, import_from=None, code_files={})
            request = self._request(ray)
            shared = self.gpu_shares if request.gpus and request.workers == 1 else {}
            run = _Run(ray=ray, store=store, job=job, request=request, shares=shared, cluster=self._cluster(ray))
            check_feasible(run.request, _nodes(ray), self._name)
            yield from run.events(Schedule(segments, published))

    def nodes(self) -> list[Node]:
        """The machines of the cluster, of which one at least holds a segment. Raises ClusterUnreachable and
        Infeasible."""
        with self._connected() as ray:
            check_feasible(self._request(ray), _nodes(ray), self._name)
            return _nodes(ray)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply a function to items as tasks of one CPU each; items are taken as workers become free, and outcomes come
        as they are ready. Raises ClusterUnreachable where a task's process dies again and again, and what the function
        raises.
        """
        with self._connected() as ray:
            task = ray.remote(function).options(num_cpus=1, max_retries=LOST_PROCESS_RETRIES)
            holds = max(1, int(sum(node.cpus for node in _nodes(ray))))
            remaining, running, cluster = iter(items), [], self._cluster(ray)
            while True:
                running += [task.remote(item) for item in islice(remaining, holds - len(running))]
                if not running:
                    return
                ready, running = ray.wait(running, num_returns=1, timeout=TICK_SECONDS)
                cluster.refuse_lost_processes()
                for reference in ready:
                    yield _mapped(ray, reference)

    def _connected(
        self, code_files: Mapping[str, Path] = MappingProxyType({})
    ) -> contextlib.AbstractContextManager[ModuleType]:
        cpus = self.workers * self.workers_per_segment * CPUS_PER_WORKER
        return connected(self.address, cpus, code_files)

    def _cluster(self, ray: ModuleType) -> "_Cluster":
        central = central_processes() if self.address is None else {}
        return _Cluster(name=self._name, head=self._head(ray), central=central)

    def _request(self, ray: ModuleType) -> Request:
        gpus = default_gpus(_nodes(ray)) if self.gpus_per_segment is None else self.gpus_per_segment
        return Request(workers=self.workers_per_segment, gpus=gpus)

    def _head(self, ray: ModuleType) -> str:
        """Where the head answers this process: through Ray's client, or itself."""
        if self.address and self.address.startswith("ray://"):
            return self.address.removeprefix("ray://")
        return ray.get_runtime_context().gcs_address

    @property
    def _name(self) -> str:
        return f"the Ray cluster at {self.address}" if self.address else "the Ray cluster of this machine"


@dataclass(kw_only=True)
class _Cluster:
    """Whether the cluster that a run is connected to is still there."""

    name: str
    """For messages."""
    head: str
    """host:port at which its head answers, for as long as it lives."""
    central: Mapping[str, Process]
    """By name, processes of a local one without which it is lost; empty for one at an address."""
    silent_since: float | None = None
    """Monotonic time since when nothing answers at its address."""

    def answers(self) -> bool:
        """Whether it answers now. Raises ClusterUnreachable once it is lost."""
        self.refuse_lost_processes()
        if connection_error(self.head) is None:
            self.silent_since = None
            return True
        self.silent_since = self.silent_since or time.monotonic()
        if time.monotonic() - self.silent_since > LOST_SECONDS:
            raise self._lost(f"nothing answers at {self.head} any more", "on a cluster that answers ")
        return False

    def refuse_lost_processes(self) -> None:
        """Raise ClusterUnreachable where a local cluster has lost a process that Ray does not start again."""
        if name := lost_process(self.central):
            raise self._lost(f"its process {name} has ended", "")

    def _lost(self, why: str, where: str) -> ClusterUnreachable:
        return ClusterUnreachable(
            f"{self.name} is lost: {why}. What ran there is interrupted, not failed: the same command {where}goes on "
            "from the last checkpoints"
        )


@dataclass(kw_only=True)
class _Run:
    """One run of segments on a cluster that is connected."""

    ray: ModuleType
    store: Store
    """Where the results are."""
    job: Job
    request: Request
    shares: Mapping[str, float]
    """GPUs of the segments that do not take what `request` says."""
    cluster: _Cluster
    """What it is connected to."""
    nodes: list[Node] = field(default_factory=list)
    """The machines of the cluster, as last seen."""
    running: dict[object, Segment] = field(default_factory=dict)
    """By Ray's reference to the outcome that will come."""
    reached: dict[str, int] = field(default_factory=dict)
    """The last checkpoint's step when a segment was last submitted."""

    def __post_init__(self) -> None:
        self._watch = StallWatch(store=self.store, run=self.job.run)
        # Once for all segments: Ray keeps the order of tasks of one function, and takes one made anew for another.
        remote = partial(self.ray.remote, max_retries=LOST_PROCESS_RETRIES)  # of processes and nodes that die
        self._compute = remote(num_cpus=CPUS_PER_WORKER, num_gpus=self.request.gpus)(_compute)
        self._coordinate = remote(num_cpus=0)(_coordinate)

    def events(self, schedule: Schedule) -> Events:
        """Start what is ready, settle what has ended, until every segment has its outcome."""
        yield from schedule.blocked_at_first
        looked = -math.inf
        while not schedule.is_done:
            given_up: list[Outcome] = []
            if time.monotonic() - looked > TICK_SECONDS:
                looked = time.monotonic()
                self._look()
                given_up = list(self._given_up())
                yield None
            self._fill(schedule)
            for outcome in (*given_up, *self._ended()):
                yield outcome
                yield from schedule.settle(outcome)

    def _fill(self, schedule: Schedule) -> None:
        """Submit no more than the cluster holds: what waited there would start before what is worth more by then."""
        while segment := schedule.take():
            if not self._has_room(segment):
                schedule.put_back(segment)  # Nothing worth less overtakes it, or a whole GPU would never be free.
                return
            self._submit(segment)

    def _has_room(self, segment: Segment) -> bool:
        if not self.shares:
            return len(self.running) < max(1, parallel_segments(self.request, self.nodes))
        running = [self._asks(other).gpus for other in self.running.values()]
        return not running or has_room(self._asks(segment).gpus, running, self.nodes)

    def _asks(self, segment: Segment) -> Request:
        return replace(self.request, gpus=self.shares.get(segment.id, self.request.gpus))

    def _submit(self, segment: Segment, cpus: int = CPUS_PER_WORKER) -> None:
        self.reached[segment.id] = self._last_checkpoint(segment)
        request, name = self._asks(segment), f"{segment.kind} {segment.id[:12]}"
        task = (
            self._coordinate.options(name=name)
            if self._is_shared(segment)
            else self._compute.options(name=name, num_cpus=cpus, num_gpus=request.gpus)
        )
        self.running[task.remote(segment, self.job, request)] = segment

    def _is_shared(self, segment: Segment) -> bool:
        """Whether several workers compute it."""
        return self.request.workers > 1 and segment.kind != "evaluate"

    def _given_up(self) -> Iterator[Outcome]:
        """End the processes that take no step, whose tasks Ray then runs again; the outcomes of segments that are not
        tried again although their process cannot be ended."""
        references = {segment.id: reference for reference, segment in self.running.items()}
        for silence in self._watch.too_long(references, time.monotonic()):
            if self._end(silence) == "left":
                outcome = self._replace(references[silence.segment_id])
                if outcome:
                    yield outcome

    def _end(self, silence: Silence) -> Ending:
        arguments = (silence.attempt, silence.sign, silence.seconds)
        if silence.sign.process.is_of_this_host:
            return end_frozen(*arguments)
        try:
            host = silence.sign.process.host
            ending = run_on_host(self.ray, host, end_frozen, *arguments, seconds=END_ELSEWHERE_SECONDS)
        except self.ray.exceptions.RayError:
            return "left"
        return ending or "gone"  # Without its node it is gone too, and Ray runs its task elsewhere.

    def _replace(self, reference: object) -> Outcome | None:
        """Another attempt in the place of one whose process cannot be ended; the failure where there is to be none."""
        segment = self.running.pop(reference)
        self.ray.cancel(reference, force=True)
        stalled = record_stalled(segment, self.job.run, self.store)
        self.store.attempts(segment.id).abandon_lock()
        # A device that hangs is not free for another attempt, which would wait for it for ever.
        if stalled > RULES[FailureClass.stalled].retries or self._asks(segment).gpus or self._is_shared(segment):
            failure = stalled_failure(segment, self.store)
            return failed(segment, replace(failure, text=f"{failure.text}; its process cannot be ended"))
        self._submit(segment, cpus=0)  # Ray still counts the frozen process's CPU as taken, which it does not use.
        return None

    def _ended(self) -> Iterator[Outcome]:
        """Outcomes of the tasks that have ended, as soon as one has, or none after a while."""
        if not self.running:
            return
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=TICK_SECONDS)
        for reference in ready:
            segment = self.running.pop(reference)
            outcome = self._outcome(reference, segment)
            if outcome is None:
                self._submit(segment)
            else:
                yield outcome

    def _outcome(self, reference: object, segment: Segment) -> Outcome | None:
        """The task's own outcome, or what Ray says became of its process; None where it is worth another try."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self._wait_until_alive()
            # A long segment on machines that come and go may lose many processes and still arrive.
            if self._last_checkpoint(segment) > self.reached[segment.id]:
                return None
            reason = first_line(getattr(error, "cause", None) or error)
            out_of_memory = isinstance(error, self.ray.exceptions.OutOfMemoryError)
            kind = FailureClass.oom if out_of_memory else FailureClass.infrastructure
            return failed(segment, Failure(kind=kind, text=reason))

    def _last_checkpoint(self, segment: Segment) -> int:
        return self.store.last_step(segment.id)

    def _wait_until_alive(self) -> None:
        """Return when the cluster answers; a task that died with the cluster has not failed."""
        while not self._look():
            time.sleep(TICK_SECONDS)

    def _look(self) -> bool:
        """See how much the cluster holds: nodes come and go. Whether it answers; raises ClusterUnreachable once it is
        lost."""
        if not self.cluster.answers():
            return False
        self.nodes = _nodes(self.ray)
        return True


def _mapped(ray: ModuleType, reference: object) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise ClusterUnreachable(
            f"a task's process died again and again ({first_line(error)}); the same command goes on"
        ) from error


def _compute(segment: Segment, job: Job, request: Request) -> Outcome:
    """The task of a segment with one worker."""
    _hide_unasked_gpus(request)
    with preemptible():
        return run_segment(segment, job)


def _coordinate(segment: Segment, job: Job, request: Request) -> Outcome:
    """The task of a segment with several workers: it asks for them, waits, and computes nothing itself."""
    return with_ranks(
        segment, job, lambda rank: _train(rank, request), workers=request.workers, tries=1 + LOST_PROCESS_RETRIES
    )


def _train(rank: Rank, request: Request) -> str | None:
    """Run a rank's part on every worker of a group; returns why the group was lost, or None where it ended."""
    config = {"rank": rank, "request": request}
    return run_group(_rank_loop, config, request, name=rank.segment.id, folder=rank.scratch)


def _rank_loop(config: dict) -> None:
    """What Ray Train calls on each worker, when the process group stands. An exception makes it end the others."""
    _hide_unasked_gpus(config["request"])
    if not run_rank(config["rank"]):
        raise RuntimeError("this worker left before the end; the others are ended")


def _hide_unasked_gpus(request: Request) -> None:
    """Ray leaves every GPU visible to a task that asked for none. CUDA reads this when it is first used."""
    if request.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _nodes(ray: ModuleType) -> list[Node]:
    """The machines of the cluster that are alive."""
    offered = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(cpus=resources.get("CPU", 0), gpus=resources.get("GPU", 0)) for resources in offered]
