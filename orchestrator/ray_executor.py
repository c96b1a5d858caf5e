"""The only file that imports ray.

Each segment is a Ray task whose arguments are the outcomes of the segments it needs: Ray orders and places the work
and, when a worker process or a node dies, runs the task again, which is a new attempt that resumes from the last
checkpoint. By default Ray is a cluster of its own on this machine, on 127.0.0.1 only, without a dashboard.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from orchestrator.deferred_signals import deferred_signals
from orchestrator.executor import Events
from orchestrator.identity import Segment
from orchestrator.ray_folder import ray_folder
from orchestrator.segment_run import Job
from orchestrator.worker import Outcome, blocked, run_or_block

TASK_RETRIES = 3
TICK_SECONDS = 0.5
CONNECT_SECONDS = 5.0
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
    """No Ray cluster answers at the address; the message says what was tried."""

    exit_code = 6


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs segments as Ray tasks."""

    workers: int
    """Worker processes of a local cluster; each takes one CPU. A cluster at `address` has its own."""
    address: str | None = None
    """`host:port` of an existing cluster; None starts a local one."""

    def run(self, segments: Sequence[Segment], job: Job, published: dict[str, Outcome]) -> Events:
        """See orchestrator.executor.Executor. Raises ClusterUnreachable."""
        with _cluster(self) as ray:
            yield from _run(ray, segments, job, published)


def _run(ray: ModuleType, segments: Sequence[Segment], job: Job, published: dict[str, Outcome]) -> Events:
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TASK_RETRIES)(_task)
    references: dict[str, object] = {}
    for segment in segments:
        needed = [references.get(need) or published[need] for need in segment.needs]
        references[segment.id] = task.options(name=f"{segment.kind} {segment.id[:12]}").remote(segment, job, *needed)
    waiting = {reference: segment for segment, reference in zip(segments, references.values(), strict=True)}
    outcomes = dict(published)
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=TICK_SECONDS)
        for reference in ready:
            segment = waiting.pop(reference)
            outcomes[segment.id] = _outcome(ray, reference, segment, outcomes)
            yield outcomes[segment.id]
        yield None


def _task(segment: Segment, job: Job, *needed: Outcome) -> Outcome:
    return run_or_block(segment, job, needed)


def _outcome(ray: ModuleType, reference: object, segment: Segment, outcomes: dict[str, Outcome]) -> Outcome:
    """The task's own outcome, or what Ray says became of its process."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        # Ray fails a task whose argument failed with that argument's error.
        for need in segment.needs:
            if need in outcomes and outcomes[need].status != "finished":
                return blocked(segment, outcomes[need])
        cause = getattr(error, "cause", None) or error
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        return Outcome(segment_id=segment.id, status="failed", reason=f"infrastructure: {reason}")


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
                    _start_local(ray, executor.workers, local)
                else:
                    _connect(ray, str(executor.address))
            yield ray
        finally:
            ray.shutdown()


def _start_local(ray: ModuleType, workers: int, folder: Path) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=workers,
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
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise ClusterUnreachable(f"the Ray address {address!r}: expected host:port, as `ray start --head` prints it")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterUnreachable(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head` or leave out --address"
        ) from error
