"""Ray clusters of several nodes on this machine, on 127.0.0.1 only, whose nodes can be taken away."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.toy_sweep import ToySweep

CLUSTER_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray listens on every interface
    "RAY_AUTH_MODE": "disabled",
    # A node that is gone is noticed in a second; Ray's defaults take a quarter of a minute.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@contextlib.contextmanager
def cluster(*nodes: dict[str, Any]) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster`; the first node is its head. The test's own commands see its environment too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CLUSTER_ENVIRONMENT.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        folder = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))  # A socket's path may have 107 bytes at most.
        # Here a cluster writes its address, for commands that look for one; the default, /tmp/ray, is not there until
        # a Ray without a folder of its own has run, and is shared by all that do.
        patch.setenv("RAY_TMPDIR", str(folder))
        (folder / "ray").mkdir()
        ray_cluster = Cluster()
        try:
            for node in nodes:
                ray_cluster.add_node(
                    **node, include_dashboard=False, object_store_memory=80 * 2**20, temp_dir=str(folder)
                )
            yield ray_cluster
        finally:
            ray_cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def remove(ray_cluster: Any, node: Any) -> None:
    """Kill a node's processes with -9."""
    ray_cluster.remove_node(node, allow_graceful=False)


def attempts_on(toy: ToySweep, node: Any) -> list[Path]:
    """The attempts that worker processes of a node are at."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    workers = {process.pid for process in raylet.children(recursive=True)}
    attempts = [path for path in toy.results.glob("attempts/*/*") if path.is_dir()]
    return [path for path in attempts if int(path.name.rsplit("-", 1)[1]) in workers]
