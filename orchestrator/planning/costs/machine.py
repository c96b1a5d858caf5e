"""How many segments a machine or cluster trains at a time, and the speed assumed of each.

It counts what a segment asks for against what the nodes have and what the driver says of the GPUs. Without torch.
"""

import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mor_core.errors import Refused
from mor_core.training.memory import Device

if TYPE_CHECKING:
    from orchestrator.planning.spec.sections import ExecutionSection


MEBIBYTE = 2**20


def asked_of_driver(field: str) -> list[str]:
    """A field of `nvidia-smi --query-gpu`, one line a GPU; none where there is no such program, driver or answer."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in listed.stdout.splitlines()] if listed.returncode == 0 else []


def driver_memories() -> list[int]:
    """Bytes of each GPU that has memory of its own."""
    return [int(line) * MEBIBYTE for line in asked_of_driver("memory.total") if line.isdigit()]


def machine_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


CPUS_PER_WORKER = 1
ROUNDING = 1e-9


class Infeasible(Refused):
    """No node will ever hold what a segment asks for; the message says what was asked and what there is."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one machine of a cluster offers to tasks."""

    cpus: float
    """CPUs, as the scheduler counts them."""
    gpus: float
    """GPUs."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one segment asks for while it trains. Each worker is a process with one CPU."""

    workers: int = 1
    """Processes that share a segment's batch."""
    gpus: float = 0.0
    """GPUs of each worker: 0, a share of one, or 1."""

    def workers_on(self, node: Node) -> int:
        """How many workers a node holds at a time; a share of a GPU is never spread over two."""
        by_cpus = math.floor(node.cpus / CPUS_PER_WORKER)
        if self.gpus == 0:
            return by_cpus
        return min(by_cpus, math.floor(node.gpus) * math.floor(1 / self.gpus))


def fixed_gpus(setting: float | Literal["auto"] | None) -> float | None:
    """GPUs of every worker as `execution.gpus_per_segment` says; None where each shape gets a share of its own, or
    nothing is said: a whole one then, for what has no share."""
    return None if setting == "auto" else setting


def default_gpus(nodes: Sequence[Node]) -> float:
    """GPUs of a worker where nothing is said: a whole one if the cluster has any."""
    return 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0


def parallel_segments(request: Request, nodes: Sequence[Node]) -> int:
    """How many segments the nodes hold at the same time. Workers of one segment may be on different nodes."""
    return sum(request.workers_on(node) for node in nodes) // request.workers


def has_room(gpus: float, running: Sequence[float], nodes: Sequence[Node]) -> bool:
    """Whether one worker more fits beside those that run, each with a share of one GPU; the largest is placed first."""
    free = [[1.0] * math.floor(node.gpus) for node in nodes]
    slots = [math.floor(node.cpus / CPUS_PER_WORKER) for node in nodes]
    for share in sorted((*running, gpus), reverse=True):
        places = [
            (number, card)
            for number, cards in enumerate(free)
            for card, left in enumerate(cards)
            if slots[number] > 0 and left > share - ROUNDING
        ]
        if not places:
            return False
        number, card = places[0]
        free[number][card] -= share
        slots[number] -= 1
    return True


def check_feasible(request: Request, nodes: Sequence[Node], where: str) -> None:
    """Raise Infeasible where not even one segment fits; `where` names the cluster. Nothing would ever start."""
    if parallel_segments(request, nodes) >= 1:
        return
    cpus, gpus = (sum(amounts) for amounts in ([node.cpus for node in nodes], [node.gpus for node in nodes]))
    raise Infeasible(
        f"each segment asks for {_asked(request)}, and {where} has {_amount(cpus, 'CPU')} and "
        f"{_amount(gpus, 'GPU')} on {_amount(len(nodes), 'node')}: {_remedy(request)}"
    )


def _asked(request: Request) -> str:
    per_worker = _amount(CPUS_PER_WORKER, "CPU") + (f" and {_amount(request.gpus, 'GPU')}" if request.gpus else "")
    return per_worker if request.workers == 1 else f"{request.workers} workers with {per_worker} each"


def _remedy(request: Request) -> str:
    keys = ["execution.workers_per_segment"] if request.workers > 1 else []
    keys += ["execution.gpus_per_segment"] if request.gpus else []
    return f"lower {' or '.join(keys)}, or add nodes" if keys else "add nodes"


def _amount(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


def this_machine(workers: int | None, execution: "ExecutionSection") -> "Throughput":
    """Segments at a time as asked for, else as many as the GPUs or, without any, the cores hold; and how fast one is
    assumed to be."""

    return machine_of_nodes([Node(cpus=os.cpu_count() or 1, gpus=len(asked_of_driver("name")))], workers, execution)


def machine_of_nodes(nodes: "Sequence[Node]", workers: int | None, execution: "ExecutionSection") -> "Throughput":
    """What the nodes hold of segments at a time, and how fast one is assumed to be. Where each shape gets a share of a
    GPU, the speed of whole ones, and how many there are to share."""

    fixed = fixed_gpus(execution.gpus_per_segment)
    gpus = default_gpus(nodes) if fixed is None else fixed
    at_a_time = parallel_segments(Request(workers=execution.workers_per_segment, gpus=gpus), nodes)
    machine = assumed_throughput("cuda" if gpus else "cpu", workers or max(1, at_a_time))
    machine = replace(machine, devices_per_segment=(gpus or CPUS_PER_WORKER) * execution.workers_per_segment)
    if execution.gpus_per_segment != "auto" or not gpus or execution.workers_per_segment > 1:
        return machine
    return replace(machine, devices=sum(node.gpus for node in nodes), slots=workers or int(sum(n.cpus for n in nodes)))


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """How fast work is done, and how we know."""

    device: Device
    """What trains."""
    flops_per_second: float
    """Exact training FLOPs per second of one worker."""
    workers: int
    """Segments that run at the same time."""
    basis: str
    """Measured or assumed, in words."""
    devices_per_segment: float = 1.0
    """GPUs, or CPU cores, that a segment holds while it runs, where shapes have no shares of their own."""
    devices: float | None = None
    """GPUs in all, which bound the work where shapes have shares of their own; None where only `workers` does."""
    slots: int | None = None
    """Segments at a time however small their shares of a GPU: as asked for, else a core each; None: `workers`."""

    @property
    def hours_unit(self) -> str:
        """What an hour of one device is called. A worker without a GPU computes on one core."""
        return "GPU-hours" if self.device == "cuda" else "core-hours"


def assumed_throughput(device: Device, workers: int) -> Throughput:
    """A stated assumption, for when nothing has been measured."""
    flops_per_second, basis = ASSUMED_FLOPS_PER_SECOND[device]
    return Throughput(device=device, flops_per_second=flops_per_second, workers=workers, basis=basis)


ASSUMED_FLOPS_PER_SECOND: dict[Device, tuple[float, str]] = {
    "cuda": (0.4 * 989e12, "assumed: 40 % of an H100's 989 TFLOP/s in bf16"),
    "cpu": (10e9, "assumed: 10 GFLOP/s for a CPU core on small models"),
}
"""Per worker, with the sentence that is shown beside it."""
