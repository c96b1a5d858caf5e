"""Where the time of decoding goes: `python -m bench.decode --host` and `--split`. See bench/README.md.

The device's part of every run is replaced by tables that were drawn beforehand: by place in the memory and position,
which token comes next and whether it goes on. Shapes and transfers stay, so that what is left is the host's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mor_core.config.model import ModelConfig
from mor_core.flops import kv_bytes_per_token
from mor_core.inference.cuda_graphs import Result
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.ragged import COLUMNS, Shape
from mor_core.inference.request import Request
from mor_core.model.transformer import Transformer

DRAWN_TOKENS = 16
"""Different tokens in the tables."""


@dataclass(kw_only=True)
class StandIn:
    """What a device would have answered, and the time that finding it out takes, which is not the host's."""

    tokens_QT: Tensor
    """Next tokens."""
    goes_on_QTR: Tensor
    """Whether a token makes another recursion after this one."""
    runs: list[tuple[Any, Tensor, Sequence[Shape]]] = field(default_factory=list)
    """What the device was asked."""

    def __call__(self, work: Any, numbers: Tensor, shapes: Sequence[Shape]) -> Result:
        self.runs.append((work, numbers, shapes))
        return self.answer(work, numbers, shapes)

    def answer(self, work: Any, numbers: Tensor, shapes: Sequence[Shape]) -> Result:
        """By the tables."""
        count = shapes[0].tokens
        rows, positions = numbers[:count], numbers[count : 2 * count]
        if work.__name__ == "next_tokens":
            return Result(self.tokens_QT[rows, positions] if count else None, None)
        notes = numbers[COLUMNS * count :]
        return Result(self.goes_on_QTR[rows, positions, notes], None)

    @torch.inference_mode()
    def seconds(self) -> np.ndarray:
        """Of the process, for answering each run once more."""
        return np.array([timed(partial(self.answer, *arguments)) for arguments in self.runs])


def timed(do: Callable[[], object]) -> float:
    """Seconds of the process."""
    started = time.process_time()
    do()
    return time.process_time() - started


def stand_in(model: Transformer, sequences: int) -> StandIn:
    """Tables that let the planned share of tokens go on at every recursion."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    tokens_QT = torch.randint(0, DRAWN_TOKENS, (sequences, config.context_length), generator=generator)
    shape = (sequences, config.context_length, config.recursion.count)
    goes_on_QTR = torch.rand(shape, generator=generator)
    for recursion in range(len(config.capacities)):
        share = config.capacities[recursion + 1] / config.capacities[recursion] if recursion + 1 < shape[2] else 0
        goes_on_QTR[..., recursion] += float(share)
    return StandIn(tokens_QT=tokens_QT, goes_on_QTR=goes_on_QTR >= 1)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Of one arm at one batch. Every round has the same runs, so that each counts with its least time: what a busy
    machine adds is not the same run's twice."""

    steps: list[np.ndarray]
    """Seconds of the process for each step of the engine, by round."""
    answers: list[np.ndarray]
    """Of these, what the tables took, for each run."""
    tokens: int
    """That went through the model."""
    batch: int
    """Places."""

    def __add__(self, other: "Rounds") -> "Rounds":
        return replace(self, steps=self.steps + other.steps, answers=self.answers + other.answers)

    @property
    def seconds(self) -> float:
        """Of the host."""
        return float(np.min(self.steps, axis=0).sum() - np.min(self.answers, axis=0).sum())

    @property
    def run_us(self) -> float:
        """Microseconds for a run."""
        return 1e6 * self.seconds / len(self.answers[0])

    @property
    def token_us(self) -> float:
        """Microseconds for a token."""
        return 1e6 * self.seconds / self.tokens

    @property
    def runs_per_batch(self) -> float:
        """Runs that as many tokens take as there are places."""
        return len(self.answers[0]) * self.batch / self.tokens


def host_time(model: Transformer, batch: int, in_flight: float, lengths: Sequence[int], *, stream: bool) -> Rounds:
    """Serve texts of these lengths by the tables, with an event for each token or for each text."""
    engine = _engine(model, batch, in_flight, lengths, stream=stream)
    device = stand_in(model, engine.cache.sequences)
    engine.stages.recorder = device  # pyright: ignore[reportAttributeAccessIssue]
    seconds: list[float] = []
    while engine.num_unfinished:
        seconds.append(timed(engine.step))
    return Rounds(
        steps=[np.array(seconds)],
        answers=[device.seconds()],
        tokens=engine.totals.computed_tokens,
        batch=batch,
    )


def _engine(model: Transformer, batch: int, in_flight: float, lengths: Sequence[int], *, stream: bool) -> Engine:
    """With memory for whatever may come, and the texts submitted."""
    sequences, config = round(batch * in_flight), model.config
    whole = kv_bytes_per_token(config, model.embedding.weight.element_size(), config.recursion.count)
    memory = round(sequences * config.context_length * whole)
    engine = Engine(model, EngineOptions(kv_bytes=memory, max_batch=batch, max_sequences=sequences))
    for number, length in enumerate(lengths):
        engine.submit(Request(prompt=(1 + number % 999,), max_new_tokens=length, stream=stream))
    return engine


def report(
    models: dict[str, Transformer], batches: Sequence[int], lengths: Callable[[int], list[int]], options: Any
) -> None:
    """Print the least of all rounds for every arm and batch; arms take turns."""
    for batch in batches:
        texts, in_flight = lengths(batch), options.in_flight or 2.0
        rounds = [
            {
                (name, stream): host_time(model, batch, in_flight, texts, stream=stream)
                for name, model in models.items()
                for stream in (False, True)
            }
            for _ in range(options.rounds)
        ]
        print(
            f"\nhost alone, batch {batch}: {len(texts)} texts, {sum(texts)} tokens; the least of {len(rounds)} rounds"
        )
        print(f"{'':18}{'us a run':>10}{'us a token':>12}{'runs a batch of tokens':>24}{'streamed: us a run':>20}")
        for name in models:
            whole, streamed = (reduce(add, (times[name, stream] for times in rounds)) for stream in (False, True))
            print(
                f"{name:18}{whole.run_us:10.1f}{whole.token_us:12.2f}{whole.runs_per_batch:24.2f}{streamed.run_us:20.1f}",
                flush=True,
            )


def narrow(config: ModelConfig) -> ModelConfig:
    """The same layers, so few numbers wide that an operation takes no longer than calling it."""
    return replace(config, d_model=8, num_heads=2, num_kv_heads=1, d_head=4, d_ff=8)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Microseconds of the process for a token."""

    host: float
    """Saying what is to be done, and taking note."""
    dispatch: float
    """Calling operations: what the same layers take when they are narrow, less the host."""
    arithmetic: float
    """The rest."""
    flops: float
    """Exact FLOPs of a token, at the depths that came about."""

    @property
    def whole(self) -> float:
        """All of it."""
        return self.host + self.dispatch + self.arithmetic


def split_time(models: tuple[Transformer, Transformer], batch: int, in_flight: float, lengths: Sequence[int]) -> Split:
    """Of a model and its narrow likeness on a CPU, whose thresholds let the planned share of tokens go on."""
    host = host_time(models[0], batch, in_flight, lengths, stream=False).token_us
    (whole, flops), (narrow_whole, _) = (_served(model, batch, in_flight, lengths) for model in models)
    return Split(host=host, dispatch=narrow_whole - host, arithmetic=whole - narrow_whole, flops=flops)


def _served(model: Transformer, batch: int, in_flight: float, lengths: Sequence[int]) -> tuple[float, float]:
    """Microseconds and FLOPs of a token."""
    engine = _engine(model, batch, in_flight, lengths, stream=False)
    started = time.process_time()
    while engine.num_unfinished:
        engine.step()
    tokens = engine.totals.computed_tokens
    return 1e6 * (time.process_time() - started) / tokens, engine.totals.forward_flops / tokens


def report_split(
    models: dict[str, tuple[Transformer, Transformer]], batch: int, lengths: Sequence[int], options: Any
) -> None:
    """Print the least of all rounds for every arm, and the share of what FLOPs predict over the first arm."""
    in_flight = options.in_flight or 2.0
    rounds = [
        {name: split_time(pair, batch, in_flight, lengths) for name, pair in models.items()}
        for _ in range(options.rounds)
    ]
    least = {name: min((splits[name] for splits in rounds), key=lambda split: split.whole) for name in models}
    first = next(iter(least.values()))
    print(f"\nwhere a token's time goes, batch {batch}, us of the process; the least of {len(rounds)} rounds")
    print(f"{'':18}{'whole':>10}{'host':>8}{'dispatch':>10}{'arithmetic':>12}{'by FLOPs':>10}{'reached':>9}")
    for name, split in least.items():
        predicted = first.flops / split.flops
        print(
            f"{name:18}{split.whole:10.1f}{split.host:8.1f}{split.dispatch:10.1f}{split.arithmetic:12.1f}"
            f"{predicted:10.2f}{first.whole / split.whole / predicted:9.0%}",
            flush=True,
        )
