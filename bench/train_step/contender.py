"""A model that trains in a process of its own and takes a step when it is told to, so that contenders can alternate."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bench.train_step.live_memory import LiveMemory, training_state
from mor_core.config.model import ModelConfig
from mor_core.config.training import TrainConfig
from mor_core.model.device import keep_freed_memory
from mor_core.model.transformer import build_model
from mor_core.training.loop import train_steps
from mor_core.training.optim import build_adamw

BUSY_LOAD = 0.5
"""One-minute load average from which timings mean little."""

Library = Literal["mor-sweep", "transformers"]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What trains, and how it is executed."""

    name: str
    """What the table shows."""
    model: ModelConfig
    """Its shape."""
    train: TrainConfig
    """Batch and precision."""
    library: Library = "mor-sweep"
    """transformers builds its LlamaForCausalLM of the model's shape."""
    compiled: bool = False
    """Whether torch.compile is used: on a GPU layer by layer here, else for the whole model."""
    threads: int = 1
    """torch threads."""
    device: str = "cpu"
    """Where it trains."""

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.train.batch_size * self.model.context_length


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One step, or the mean of several."""

    wall: float
    """Seconds."""
    cpu: float
    """Processor seconds over all threads."""


class Runner:
    """A contender's process."""

    def __init__(self, contender: Contender) -> None:
        context = multiprocessing.get_context("spawn")
        self.contender = contender
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(contender, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def step(self, count: int = 1) -> Timing:
        """Take so many optimiser steps in a row."""
        return self._ask("step", count)

    def peak_bytes(self) -> int:
        """Most bytes in live tensors during one step."""
        return self._ask("memory")

    def profile(self) -> dict[str, float]:
        """Operation -> its share of a step's processor time (a GPU's kernels: of its time there), largest first."""
        return self._ask("profile")

    def close(self) -> None:
        self._pipe.close()
        self._process.join()

    def _ask(self, *request: object) -> ...:
        self._pipe.send(request)
        return self._pipe.recv()


def _serve(contender: Contender, pipe: Connection) -> None:
    torch.set_num_threads(contender.threads)
    take_step, state = _trainer(contender)
    answers: dict[str, Callable[..., object]] = {
        "step": lambda steps: _timed(take_step, steps),
        "memory": lambda: _peak_bytes(take_step, state),
        "profile": lambda: _profile(take_step, contender.device),
    }
    while True:
        try:
            request, *arguments = pipe.recv()
        except EOFError:  # The other side has closed: that is how a contender is dismissed.
            return
        pipe.send(answers[request](*arguments))


def _trainer(contender: Contender) -> tuple[Callable[[], object], Callable[[], list[Tensor]]]:
    """A function that takes a step, and one that lists what it keeps between steps."""
    if contender.library == "transformers":
        return _transformers_trainer(contender)
    keep_freed_memory()
    model = build_model(contender.model, seed=0, device=torch.device(contender.device))
    optimizer = build_adamw(model, contender.train)
    if contender.compiled:
        model.compile_for_training()
    batches = _batches(contender)
    steps = train_steps(
        model,
        optimizer,
        contender.train,
        lambda step: next(batches),
        steps=range(1_000_000),
        cooldown=None,
    )
    return lambda: next(steps), lambda: training_state(model, optimizer)


def _transformers_trainer(contender: Contender) -> tuple[Callable[[], object], Callable[[], list[Tensor]]]:
    # Imported here: it is no dependency of this project.
    from transformers import LlamaConfig, LlamaForCausalLM

    shape, train = contender.model, contender.train
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.d_model,
            intermediate_size=shape.d_ff,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            head_dim=shape.d_head,
            max_position_embeddings=shape.context_length,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )
    model.to(device=torch.device(contender.device))  # pyright: ignore
    model.set_attn_implementation("sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model, dynamic=False) if contender.compiled else model
    batches = _batches(contender)

    def step() -> None:
        tokens = torch.from_numpy(next(batches)[:, :-1]).to(contender.device)
        with torch.autocast(contender.device, dtype=torch.bfloat16, enabled=train.precision == "bf16"):
            loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, lambda: training_state(model, optimizer)


def _batches(contender: Contender) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    shape = contender.train.batch_size, contender.model.context_length + 1
    while True:
        yield generator.integers(0, contender.model.vocab_size, shape)


def _timed(take_step: Callable[[], object], steps: int) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        take_step()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return Timing(wall=(time.perf_counter() - wall) / steps, cpu=(time.process_time() - cpu) / steps)


def _peak_bytes(take_step: Callable[[], object], state: Callable[[], list[Tensor]]) -> int:
    """Of the second step: the first makes the optimiser's state. A GPU's allocator counts by itself."""
    take_step()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        take_step()
        return torch.cuda.max_memory_allocated()
    with LiveMemory(state()) as memory:
        take_step()
    return memory.peak_bytes


def _profile(take_step: Callable[[], object], device: str) -> dict[str, float]:
    kinds = torch.profiler.ProfilerActivity
    on_gpu = device != "cpu"
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA] if on_gpu else [kinds.CPU]) as recorded:
        take_step()
    times: dict[str, float] = {}
    for event in recorded.key_averages():
        if on_gpu and event.device_type.name == "CPU":
            continue  # Kernels are listed by themselves.
        times[event.key] = event.self_device_time_total if on_gpu else event.self_cpu_time_total
    total = sum(times.values())
    shares = {name: seconds / total for name, seconds in times.items()}
    return dict(sorted(shares.items(), key=lambda entry: -entry[1]))
