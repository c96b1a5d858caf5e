"""The only file that imports ray.

Each segment is a Ray task. This process says which one starts next (orchestrator.schedule) and keeps a few more in
flight than the cluster holds; Ray places them and, when a worker process or a node dies, runs the task again, which is
a new attempt that resumes from the last checkpoint. By default Ray is a cluster of its own on this machine, on
127.0.0.1 only, without a dashboard.
"""

import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from orchestrator.deferred_signals import deferred_signals
from orchestrator.distributed_segment import Rank, run_rank, with_ranks
from orchestrator.executor import Events
from orchestrator.failures import LOST_PROCESS_RETRIES, Failure, FailureClass
from orchestrator.identity import Segment
from orchestrator.ray_folder import ray_folder
from orchestrator.remote_work import last_step, local_store
from orchestrator.resources import (
    CPUS_PER_WORKER,
    Node,
    Request,
    check_feasible,
    default_gpus,
    parallel_segments,
)
from orchestrator.schedule import Schedule
from orchestrator.segment_run import Job
from orchestrator.stopping import preemptible
from orchestrator.worker import Outcome, failed, run_segment

TICK_SECONDS = 0.5
CONNECT_SECONDS = 5.0
LOST_SECONDS = 10.0
"""For how long nothing answers at a cluster's address before it counts as lost; Ray itself would end this process
after a minute, without a word."""

IN_FLIGHT = 2
"""Tasks submitted for each that the cluster holds: a worker that is done finds its next one waiting."""

OBJECT_STORE_BYTES = 100 * 2**20
"""Outcomes are a few hundred bytes; Ray's default would claim a third of the memory."""

DRIVER_ENVIRONMENT = {
    # Ray reads its environment when it is imported.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own handler of SIGTERM, below Python's, would end this process without a word.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
}

LOCAL_ENVIRONMENT = DRIVER_ENVIRONMENT | {
    # Without this, a local cluster listens on every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class ClusterUnreachable(Exception):
    """No Ray cluster answers at the address, or it answers no longer; the message says what was tried."""

    exit_code = 6


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs segments as Ray tasks."""

    workers: int
    """Segments that a local cluster runs at a time. A cluster at `address` runs as many as it holds."""
    address: str | None = None
    """`host:port` of an existing cluster; None starts a local one."""
    gpus_per_segment: float | None = None
    """GPUs of each worker of a segment; None takes one where the cluster has any."""
    workers_per_segment: int = 1
    """Processes that share a segment's batches, each with one CPU."""

    def run(self, segments: Sequence[Segment], job: Job, published: dict[str, Outcome]) -> Events:
        """See orchestrator.executor.Executor. Raises ClusterUnreachable, and Infeasible before anything is started."""
        with _cluster(self) as ray:
            run = _Run(ray=ray, job=job, request=self._request(ray), where=self._name, head=self._head(ray))
            check_feasible(run.request, _nodes(ray), self._name)
            yield from run.events(Schedule(segments, published))

    def parallel_segments(self) -> int:
        """How many segments the cluster at `address` holds at a time. Raises ClusterUnreachable and Infeasible."""
        with _cluster(self) as ray:
            check_feasible(self._request(ray), _nodes(ray), self._name)
            return parallel_segments(self._request(ray), _nodes(ray))

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
class _Run:
    """One run of segments on a cluster that is connected."""

    ray: ModuleType
    job: Job
    request: Request
    where: str
    head: str
    """host:port at which the head of the cluster answers, for as long as it lives."""
    holds: int = 1
    """Segments that the cluster holds at a time, as last seen."""
    running: dict[object, Segment] = field(default_factory=dict)
    """By Ray's reference to the outcome that will come."""
    reached: dict[str, int] = field(default_factory=dict)
    """The last checkpoint's step when a segment was last submitted."""
    silent_since: float | None = None
    """Monotonic time since when nothing answers at the cluster's address."""

    def events(self, schedule: Schedule) -> Events:
        """Start what is ready, settle what has ended, until every segment has its outcome."""
        yield from schedule.blocked_at_first
        looked = -math.inf
        while not schedule.is_done:
            if time.monotonic() - looked > TICK_SECONDS:
                looked = time.monotonic()
                self._look()
                yield None
            self._fill(schedule)
            for outcome in self._ended():
                yield outcome
                yield from schedule.settle(outcome)

    def _fill(self, schedule: Schedule) -> None:
        # A group of workers that waits for its place would only time out.
        limit = self.holds * (IN_FLIGHT if self.request.workers == 1 else 1)
        while len(self.running) < limit and (segment := schedule.take()):
            self._submit(segment)

    def _submit(self, segment: Segment) -> None:
        self.reached[segment.id] = self._last_checkpoint(segment)
        several = self.request.workers > 1 and segment.kind != "evaluate"
        task = self.ray.remote(_coordinate if several else _compute).options(
            name=f"{segment.kind} {segment.id[:12]}",
            num_cpus=0 if several else CPUS_PER_WORKER,
            num_gpus=0 if several else self.request.gpus,
            max_retries=LOST_PROCESS_RETRIES,  # of processes and nodes that die; an exception is never tried again
        )
        self.running[task.remote(segment, self.job, self.request)] = segment

    def _ended(self) -> Iterator[Outcome]:
        """Outcomes of the tasks that have ended, as soon as one has, or none after a while."""
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
            cause = getattr(error, "cause", None) or error
            reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
            out_of_memory = isinstance(error, self.ray.exceptions.OutOfMemoryError)
            kind = FailureClass.oom if out_of_memory else FailureClass.infrastructure
            return failed(segment, Failure(kind=kind, text=reason))

    def _last_checkpoint(self, segment: Segment) -> int:
        return last_step(local_store(self.job), segment.id)

    def _wait_until_alive(self) -> None:
        """Return when the cluster answers; a task that died with the cluster has not failed."""
        self._look()
        while self.silent_since is not None:
            time.sleep(TICK_SECONDS)
            self._look()

    def _look(self) -> None:
        """See how much the cluster holds: nodes come and go. Raises ClusterUnreachable once it is lost."""
        if _connection_error(self.head) is None:
            self.silent_since = None
            self.holds = max(1, parallel_segments(self.request, _nodes(self.ray)))
            return
        self.silent_since = self.silent_since or time.monotonic()
        if time.monotonic() - self.silent_since > LOST_SECONDS:
            raise ClusterUnreachable(
                f"{self.where} is lost: nothing answers at {self.head} any more. What ran there is interrupted, not "
                "failed: the same command on a cluster that answers goes on from the last checkpoints"
            )


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
    # How often the group is asked whether it lives and is done; read when ray.train is imported.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": float(CPUS_PER_WORKER)} | ({"GPU": request.gpus} if request.gpus else {})
    trainer = TorchTrainer(
        _rank_loop,
        train_loop_config={"rank": rank, "request": request},
        scaling_config=ScalingConfig(
            num_workers=request.workers, use_gpu=request.gpus > 0, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if request.gpus else "gloo"),
        # Which losses are worth another try is decided where the store is known.
        run_config=RunConfig(
            name=rank.segment.id, storage_path=str(rank.scratch), failure_config=FailureConfig(max_failures=0)
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return str(error).strip().partition("\n")[0]
    return None


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
    return [Node(cpus=each.get("CPU", 0), gpus=each.get("GPU", 0)) for each in offered]


@contextlib.contextmanager
def _cluster(executor: RayExecutor) -> Iterator[ModuleType]:
    """A connection to a cluster; whatever was started or submitted ends with it."""
    if executor.address is None:
        os.environ.update(LOCAL_ENVIRONMENT)
    else:
        _check_reachable(executor.address)
        os.environ.update(DRIVER_ENVIRONMENT)
    import ray

    folder = ray_folder() if executor.address is None else contextlib.nullcontext()
    with folder as local:
        try:
            # Cut short, Ray would leave processes or crash; and it puts handlers of its own in the command's place.
            with deferred_signals("Ray has started"):
                if local is not None:
                    _start_local(ray, executor.workers * executor.workers_per_segment, local)
                else:
                    _connect(ray, str(executor.address))
            yield ray
        finally:
            ray.shutdown()


def _start_local(ray: ModuleType, workers: int, folder: Path) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=workers * CPUS_PER_WORKER,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Ray opens its folder to everybody; the one above it belongs to this user alone.
            _temp_dir=str(folder / "ray"),
        )
    except Exception as error:  # Ray raises a bare Exception where one of its processes does not come up.
        cause = str(error).strip().partition("\n")[0]
        raise ClusterUnreachable(
            f"Ray did not start on this machine ({cause}): try again, or use --executor in-process"
        ) from error


def _connect(ray: ModuleType, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterUnreachable(f"the Ray cluster at {address} refused the connection: {error}") from error


def _check_reachable(address: str) -> None:
    """Ray itself retries for minutes before it gives an address up."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ClusterUnreachable(f"the Ray address {address!r}: expected host:port, as `ray start --head` prints it")
    if error := _connection_error(f"{host}:{port}"):
        raise ClusterUnreachable(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head` or leave out --address"
        )


def _connection_error(address: str) -> OSError | None:
    """Why nothing answers at host:port; None where something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return error
    return None
