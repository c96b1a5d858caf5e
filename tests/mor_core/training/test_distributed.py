"""Several processes that train one model, over gloo on this machine: what one process gives, to rounding."""

import multiprocessing
import os
import socket
import time
from multiprocessing.connection import Connection

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mor_core.config.model import ExpertChoice, ModelConfig, Recursion, TokenChoice
from mor_core.config.sizes import SIZES, model_config
from mor_core.config.training import TrainConfig
from mor_core.model.transformer import Transformer, build_model
from mor_core.training import distributed
from mor_core.training.distributed import PeerLost, World, current_world, leave_world
from mor_core.training.loop import train_steps
from mor_core.training.optim import build_optimizer

TRAIN = TrainConfig(batch_size=8, peak_learning_rate=0.01, warmup_steps=4)
STEPS = 16
CONFIGS = {
    "vanilla": model_config(SIZES["13k"], vocab_size=64, context_length=16),
    "mor-2": model_config(
        SIZES["13k"], vocab_size=64, context_length=16, recursion=Recursion(count=2), routing=ExpertChoice()
    ),
    "token-choice": model_config(
        SIZES["13k"],
        vocab_size=64,
        context_length=16,
        recursion=Recursion(count=2),
        routing=TokenChoice(balancing="loss-free"),
    ),
}


def batch_of_step(step: int) -> np.ndarray:
    """Sequences that count upwards from a random start: something that can be learnt."""
    starts = np.random.default_rng(step).integers(0, 64, size=(8, 1))
    return (starts + np.arange(17)) % 64


def trained(config: ModelConfig, world: World, micro_batch: int | None = None) -> tuple[Transformer, list[float]]:
    model = build_model(config, seed=world.rank)  # Every rank starts from the weights of rank 0.
    optimizer = build_optimizer(model, TRAIN)
    start = world.share_state(model, optimizer, 0)
    steps = train_steps(
        model,
        optimizer,
        TRAIN,
        batch_of_step,
        steps=range(start, STEPS),
        cooldown=None,
        micro_batch=micro_batch,
        world=world,
    )
    return model, [metrics.to_floats()["loss"] for metrics in steps]


def join(rank: int, size: int, port: int) -> World:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    return current_world()


def train_all(rank: int, size: int, port: int, pipe: Connection) -> None:
    """Train each configuration in turn; send the losses and the weights."""
    world = join(rank, size, port)
    for config in CONFIGS.values():
        model, losses = trained(config, world, micro_batch=2)
        pipe.send((losses, {name: value.numpy() for name, value in model.state_dict().items()}))
    leave_world()


def resume(rank: int, size: int, port: int, pipe: Connection) -> None:
    """Rank 0 has taken 10 steps by itself; the group takes the others."""
    world = join(rank, size, port)
    config = CONFIGS["mor-2"]
    model = build_model(config, seed=rank)
    optimizer = build_optimizer(model, TRAIN)
    start = 0
    if rank == 0:
        for metrics in train_steps(model, optimizer, TRAIN, batch_of_step, steps=range(10), cooldown=None):
            start = metrics.step
    start = world.share_state(model, optimizer, start)
    steps = train_steps(model, optimizer, TRAIN, batch_of_step, steps=range(start, STEPS), cooldown=None, world=world)
    pipe.send([metrics.to_floats()["loss"] for metrics in steps])
    leave_world()


def lose_a_peer(rank: int, size: int, port: int, pipe: Connection) -> None:
    """Rank 1 leaves in one way or another after a few steps; rank 0 says what became of it."""
    world = join(rank, size, port)
    model = build_model(CONFIGS["vanilla"], seed=0)
    optimizer = build_optimizer(model, TRAIN)
    steps = train_steps(model, optimizer, TRAIN, batch_of_step, steps=range(10**6), cooldown=None, world=world)
    leave = pipe.recv()
    try:
        for metrics in steps:
            if rank == 1 and metrics.step == 3:
                leave_world() if leave == "leaves" else os._exit(1)
    except PeerLost as error:
        pipe.send(str(error))
        if rank == 0:
            leave_world()


class Group:
    """Processes that run one of the functions above, and what they send."""

    def __init__(self, target, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(size)]
        self.pipes = [ours for ours, _ in pipes]
        port = free_port()
        self.processes = [
            context.Process(target=target, args=(rank, size, port, theirs)) for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()

    def receive(self, rank: int, seconds: float = 120):
        deadline = time.monotonic() + seconds
        while not self.pipes[rank].poll(0.2):
            assert self.processes[rank].is_alive() or self.pipes[rank].poll(0.2), "the process ended without a word"
            assert time.monotonic() < deadline, "waited too long"
        return self.pipes[rank].recv()

    def end(self) -> None:
        for process in self.processes:
            process.join(30)
            process.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def alone() -> dict[str, list[float]]:
    torch.set_num_threads(1)
    return {name: trained(config, World())[1] for name, config in CONFIGS.items()}


@pytest.mark.slow
def test_two_workers_have_the_losses_of_one_and_end_with_equal_weights(alone):
    group = Group(train_all, 2)
    try:
        for name in CONFIGS:
            (losses, weights), (others_losses, others_weights) = group.receive(0), group.receive(1)
            assert losses == pytest.approx(alone[name], abs=1e-5)
            assert alone[name][-1] < alone[name][0] - 0.1, "there was something to learn"
            assert others_losses == losses
            assert weights.keys() == others_weights.keys()
            for tensor in weights:
                assert np.array_equal(weights[tensor], others_weights[tensor]), f"{name}: {tensor} differs"
    finally:
        group.end()


@pytest.mark.slow
def test_a_group_goes_on_from_the_state_of_rank_0(alone):
    group = Group(resume, 2)
    try:
        assert group.receive(0) == pytest.approx(alone["mor-2"][10:], abs=1e-5)
        assert group.receive(1) == pytest.approx(alone["mor-2"][10:], abs=1e-5)
    finally:
        group.end()


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["leaves", "dies"])
def test_the_loss_of_a_rank_is_told_to_the_others_at_once(leave: str):
    group = Group(lose_a_peer, 2)
    try:
        for pipe in group.pipes:
            pipe.send(leave)
        assert group.receive(0, seconds=60)
    finally:
        group.end()


def test_gradients_are_sent_in_buckets_that_keep_their_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "BUCKET_ENTRIES", 10)
    tensors = [torch.zeros(entries) for entries in (4, 6, 1, 25, 3)]
    buckets = list(distributed._buckets(tensors))
    assert [[each.numel() for each in bucket] for bucket in buckets] == [[4, 6], [1], [25], [3]]


def test_ranks_take_all_rows_of_a_batch_once_and_in_order():
    batch = np.arange(12).reshape(12, 1)
    parts = [World(rank=rank, size=3).rows(batch) for rank in range(3)]
    assert np.array_equal(np.concatenate(parts), batch)
    assert {len(part) for part in parts} == {4}


def test_a_batch_that_the_workers_cannot_share_evenly_is_refused():
    model = build_model(CONFIGS["vanilla"], seed=0)
    steps = train_steps(
        model,
        build_optimizer(model, TRAIN),
        TRAIN,
        batch_of_step,
        steps=range(1),
        cooldown=None,
        world=World(size=3),
    )
    with pytest.raises(ValueError, match="3 workers does not divide the batch of 8"):
        next(steps)
