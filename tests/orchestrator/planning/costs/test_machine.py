"""How many segments a cluster holds, and which requests no node will ever grant."""

import pytest

from orchestrator.cli.main import exit_code_of
from orchestrator.planning.costs.machine import (
    Infeasible,
    Node,
    Request,
    check_feasible,
    default_gpus,
    has_room,
    parallel_segments,
)

TWO_NODES = [Node(cpus=16, gpus=2), Node(cpus=3, gpus=8)]


@pytest.mark.parametrize(
    ("request_", "held"),
    [
        (Request(), 19),
        (Request(gpus=1), 2 + 3),
        (Request(gpus=0.25), 8 + 3),
        (Request(gpus=0.3), 6 + 3),
        (Request(gpus=0.6), 2 + 3),
        (Request(workers=2, gpus=1), 2),
        (Request(workers=5, gpus=1), 1),
        (Request(workers=4), 4),
    ],
    ids=str,
)
def test_how_many_segments_fit_at_a_time(request_: Request, held: int):
    assert parallel_segments(request_, TWO_NODES) == held


def test_a_worker_takes_a_whole_gpu_where_there_are_any():
    assert default_gpus(TWO_NODES) == 1
    assert default_gpus([Node(cpus=8, gpus=0)]) == 0


@pytest.mark.parametrize(
    ("gpus", "running", "fits"),
    [
        (1.0, [], True),
        (1.0, [0.125], True),
        (1.0, [0.125, 1.0], False),
        (0.5, [0.5, 1.0], True),
        (0.3333, [0.3333, 0.3333, 1.0], True),
        (0.3333, [0.3333] * 6, False),
        (0.125, [0.2] * 9, True),
        (0.125, [0.125] * 12, False),
        (0.5, [0.3333] * 4, True),
        (0.5, [0.3333] * 5, False),
    ],
)
def test_unequal_shares_are_filled_card_by_card_and_never_spread_over_two(
    gpus: float, running: list[float], fits: bool
):
    """One node of two cards, with 12 CPUs."""
    assert has_room(gpus, running, [Node(cpus=12, gpus=2)]) is fits
    assert not has_room(gpus, running, [Node(cpus=12, gpus=0)])


def test_a_request_that_fits_is_let_through():
    check_feasible(Request(workers=5, gpus=1), TWO_NODES, "the cluster")


@pytest.mark.parametrize(
    ("request_", "nodes", "said"),
    [
        (
            Request(gpus=0.25),
            [Node(cpus=8, gpus=0)],
            "each segment asks for 1 CPU and 0.25 GPUs, and the cluster has 8 CPUs and 0 GPUs on 1 node: "
            "lower execution.gpus_per_segment, or add nodes",
        ),
        (
            Request(workers=6, gpus=1),
            TWO_NODES,
            "each segment asks for 6 workers with 1 CPU and 1 GPU each, and the cluster has 19 CPUs and 10 GPUs on "
            "2 nodes: lower execution.workers_per_segment or execution.gpus_per_segment, or add nodes",
        ),
        (Request(), [], "each segment asks for 1 CPU, and the cluster has 0 CPUs and 0 GPUs on 0 nodes: add nodes"),
    ],
    ids=["no GPU", "too many workers", "no node"],
)
def test_what_can_never_start_is_refused_with_what_was_asked_and_what_there_is(
    request_: Request, nodes: list[Node], said: str
):
    with pytest.raises(Infeasible) as refused:
        check_feasible(request_, nodes, "the cluster")
    assert str(refused.value) == said
    assert exit_code_of(refused.value) == 4
