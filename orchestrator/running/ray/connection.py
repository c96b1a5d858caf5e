"""The only file that imports ray: starting or joining a cluster, leaving it, and running a group of workers on it.

By default Ray is a cluster of its own on this machine, on 127.0.0.1 only, without a dashboard.
"""

import contextlib
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from mor_core.errors import Fix, Unreachable, first_line
from orchestrator.planning.costs.machine import CPUS_PER_WORKER, Request
from orchestrator.running.ray.local_cluster import end_processes_of, ended_with, ray_folder
from orchestrator.running.stopping import deferred_signals

CONNECT_SECONDS = 5.0

SHARED_MEMORY = Path("/dev/shm")
"""Where Ray keeps what its processes share. Where that is too small, Ray takes the disk. Where it is read-only, Ray
tries for a minute and does not name it."""

WITHOUT_RAY = Fix(setting="executor", value="in-process", words="{} needs no Ray")

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

SUBMITTED_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells a driver that `ray job submit` has started what that command asked for, as JSON."""


class ClusterUnreachable(Unreachable):
    """No Ray cluster answers at the address, or it answers no longer; the message says what was tried."""


@contextlib.contextmanager
def connected(
    address: str | None,
    cpus: int,
    code_files: Mapping[str, Path] = MappingProxyType({}),
) -> Iterator[ModuleType]:
    """Ray, connected to the cluster at `address` (`host:port`), or to a local one with so many CPUs.

    `code_files`, by their relative paths, are what each worker starts in a copy of and can import; without them it
    starts where Ray was started. Whatever was started or submitted ends with it. Raises ClusterUnreachable.
    """
    if address is None:
        check_shared_memory()
        os.environ.update(LOCAL_ENVIRONMENT)
    else:
        _check_reachable(address)
        os.environ.update(DRIVER_ENVIRONMENT)
    import ray

    folder = ray_folder() if address is None else contextlib.nullcontext()
    with folder as local:
        try:
            # Cut short, Ray would leave processes or crash; and it puts handlers of its own in the command's place.
            with deferred_signals("Ray has started"), working_folder(code_files) as settings:
                if local is not None:
                    _start_local(ray, cpus, local, settings)
                else:
                    _connect(ray, str(address), settings)
            yield ray
        except ClusterUnreachable:
            if local is not None:
                end_processes_of(local)  # Before Ray's own end, which first asks those for ten seconds that are gone.
            raise
        finally:
            with ended_with(local) if local is not None else contextlib.nullcontext():
                ray.shutdown()


def check_shared_memory() -> None:
    """Raises ClusterUnreachable where a local Ray could never start. Light: Ray is not loaded."""
    if SHARED_MEMORY.is_dir() and not os.access(SHARED_MEMORY, os.W_OK):
        raise ClusterUnreachable(
            f"Ray needs to write to {SHARED_MEMORY}, which is read-only: mount it anew "
            f"(mount -o remount,rw {SHARED_MEMORY})",
            fix=WITHOUT_RAY,
        )


@contextlib.contextmanager
def working_folder(code_files: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    """Settings of `ray.init` by which every worker starts in a folder of these files alone, and can import them.

    Ray packs the folder once, when it connects, and keeps the package under the hash of its content. A folder of the
    user's own would bring all that lies in it, and leave out what its .gitignore names.

    https://docs.ray.io/en/latest/ray-core/handling-dependencies.html (working_dir)
    """
    if not code_files or "working_dir" in _submitted_environment():
        # A job submitted with a working folder has the code in it, and Ray takes one working folder only.
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="mor-sweep-code-") as folder:
        for name, file in code_files.items():
            copy = Path(folder) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        yield {"runtime_env": {"working_dir": folder}}


def _submitted_environment() -> Mapping[str, Any]:
    """The runtime environment that the job of this process was submitted with; empty outside a job."""
    return json.loads(os.environ.get(SUBMITTED_JOB, "{}")).get("runtime_env") or {}


def _start_local(ray: ModuleType, cpus: int, folder: Path, settings: Mapping[str, Any]) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Ray opens its folder to everybody; the one above it belongs to this user alone.
            _temp_dir=str(folder / "ray"),
            **settings,
        )
    except Exception as error:  # Ray raises a bare Exception where one of its processes does not come up.
        cause = first_line(error)
        raise ClusterUnreachable(f"Ray did not start on this machine ({cause}): try again", fix=WITHOUT_RAY) from error


def _connect(ray: ModuleType, address: str, settings: Mapping[str, Any]) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise ClusterUnreachable(
            f"the Ray cluster at {address} did not take the code of your own models: {error}"
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterUnreachable(f"the Ray cluster at {address} refused the connection: {error}") from error


def _check_reachable(address: str) -> None:
    """Ray itself retries for minutes before it gives an address up."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ClusterUnreachable(f"the Ray address {address!r}: expected host:port, as `ray start --head` prints it")
    if error := connection_error(f"{host}:{port}"):
        raise ClusterUnreachable(
            f"no Ray cluster answers at {address} ({error})",
            fix=Fix(setting="address", words="start one with `ray start --head` or leave out {}"),
        )


def connection_error(address: str) -> OSError | None:
    """Why nothing answers at host:port; None where something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return error
    return None


def run_on_host(ray: ModuleType, host: str, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """What a function returns on a node of this name, beside the node's other work; None where there is no such node.

    Raises a RayError where it is not done after so many seconds.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerHostname"] == host]
    if not nodes:
        return None
    on_node = NodeAffinitySchedulingStrategy(nodes[0], soft=False)
    task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node)
    return ray.get(task.remote(*arguments), timeout=seconds)


def run_group(
    loop: Callable[[dict[str, Any]], None], config: dict[str, Any], request: Request, *, name: str, folder: Path
) -> str | None:
    """Run `loop(config)` on every worker of a group that has a process group of its own, for tasks on a cluster.

    Returns when all have ended: why the group was lost, or None where it ended by itself. `folder` is one that all
    machines of the cluster share.
    """
    # How often the group is asked whether it lives and is done; read when ray.train is imported.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": float(CPUS_PER_WORKER)} | ({"GPU": request.gpus} if request.gpus else {})
    trainer = TorchTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=request.workers, use_gpu=request.gpus > 0, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if request.gpus else "gloo"),
        # Which losses are worth another try is decided where the store is known.
        run_config=RunConfig(name=name, storage_path=str(folder), failure_config=FailureConfig(max_failures=0)),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return first_line(error)
    return None
