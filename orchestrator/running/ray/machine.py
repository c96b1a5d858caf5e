"""What a cluster holds of a sweep's segments, for its plan."""

from pathlib import Path

from orchestrator.planning.costs.machine import Throughput, fixed_gpus, machine_of_nodes, this_machine
from orchestrator.planning.spec.sections import ExecutionSection
from orchestrator.running.ray.executor import RayExecutor
from orchestrator.store.folder import ResultsError
from orchestrator.store.store import Store
from orchestrator.store.upstream.address import address_of


def cluster_machine(address: str, workers: int | None, execution: ExecutionSection, results: Path) -> Throughput:
    """The cluster at an address: as many segments at a time as it holds.

    Raises ClusterUnreachable, Infeasible, and ResultsError where workers of one segment would have no folder to meet
    in.
    """
    _check_disk(execution, results)
    executor = RayExecutor(
        workers=this_machine(workers, execution).workers,
        address=address,
        gpus_per_segment=fixed_gpus(execution.gpus_per_segment),
        workers_per_segment=execution.workers_per_segment,
    )
    return machine_of_nodes(executor.nodes(), None, execution)


def _check_disk(execution: ExecutionSection, results: Path) -> None:
    url = address_of(Store(root=results.absolute()))
    if url and execution.workers_per_segment > 1:
        raise ResultsError(
            f"results in {url}: {execution.workers_per_segment} workers of one segment on a cluster meet in the "
            "results folder, and a bucket is none: use a disk that all nodes share, or workers_per_segment = 1"
        )
