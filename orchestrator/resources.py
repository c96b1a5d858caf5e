"""What a segment asks of a cluster, and how many of them it holds. Pure; a cluster is a list of what nodes have."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mor_core.errors import Refused

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


def fixed_gpus(said: float | Literal["auto"] | None) -> float | None:
    """GPUs of every worker as `execution.gpus_per_segment` says; None where each shape gets a share of its own, or
    nothing is said: a whole one then, for what has no share."""
    return None if said == "auto" else said


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
    each = _amount(CPUS_PER_WORKER, "CPU") + (f" and {_amount(request.gpus, 'GPU')}" if request.gpus else "")
    return each if request.workers == 1 else f"{request.workers} workers with {each} each"


def _remedy(request: Request) -> str:
    keys = ["execution.workers_per_segment"] if request.workers > 1 else []
    keys += ["execution.gpus_per_segment"] if request.gpus else []
    return f"lower {' or '.join(keys)}, or add nodes" if keys else "add nodes"


def _amount(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
