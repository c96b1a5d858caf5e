"""How many segments a cluster runs at a time, for the plan of a sweep."""

from orchestrator.planning.costs.machine import Throughput, fixed_gpus, machine_of_nodes, this_machine
from orchestrator.planning.spec.sections import ExecutionSection
from orchestrator.running.ray.executor import RayExecutor
from orchestrator.store.folder import ResultsError
from orchestrator.store.store import Store


def cluster_machine(address: str, workers: int | None, execution: ExecutionSection, store: Store) -> Throughput:
    """The cluster at an address: as many segments at a time as it holds.

    Raises ClusterUnreachable, Infeasible, and ResultsError where workers of one segment would have no folder to meet
    in.
    """
    _check_disk(execution, store)
    executor = RayExecutor(
        workers=this_machine(workers, execution).workers,
        address=address,
        gpus_per_segment=fixed_gpus(execution.gpus_per_segment),
        workers_per_segment=execution.workers_per_segment,
    )
    return machine_of_nodes(executor.nodes(), None, execution)


def _check_disk(execution: ExecutionSection, store: Store) -> None:
    url = store.upstream.address
    if url and execution.workers_per_segment > 1:
        raise ResultsError(
            f"results in {url}: {execution.workers_per_segment} workers of one segment on a cluster meet in the "
            "results folder, and a bucket is none: use a disk that all nodes share, or workers_per_segment = 1"
        )
