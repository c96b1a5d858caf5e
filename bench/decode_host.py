"""How long the engine's host takes for a run and for a token: `python -m bench.decode --host`. See bench/README.md.

The device's part of every run is replaced by tables that were drawn beforehand: by place in the memory and position,
which token comes next and whether it goes on. Shapes and transfers stay, so that what is left is the host's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mor_core.config import ExpertChoice
from mor_core.flops import kv_bytes_per_token
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.ragged import columns
from mor_core.inference.request import Request
from mor_core.model.transformer import Transformer

DRAWN_TOKENS = 16
"""Different tokens in the tables."""


@dataclass(kw_only=True)
class StandIn:
    """What a device would have answered, and the time that finding it out takes, which is not the host's."""

    tokens_QT: Tensor
    """Next tokens."""
    scores_QTR: Tensor
    """Routers' logits; a token goes on where one is above 0."""
    seconds: float = 0.0
    """Of the process, in here."""
    runs: int = 0
    """Times that the device was asked."""
    one_hot_KK: Tensor = field(default_factory=lambda: torch.eye(DRAWN_TOKENS))

    def __call__(self, work: Any, numbers: Tensor, shape: Any) -> Tensor | None:
        started = time.process_time()
        told = columns(numbers, shape)
        # Without layers outside the block a stage is not told positions.
        positions = told.positions if len(told.positions) else torch.zeros_like(told.rows)
        match work.__name__:
            case "_leave":
                result = self.one_hot_KK[self.tokens_QT[told.rows, positions]]
            case "_enter":
                result = self.scores_QTR[told.rows, 0]
            case _:
                result = self.scores_QTR[told.rows, positions]
        self.seconds += time.process_time() - started
        self.runs += 1
        return result


def stand_in(model: Transformer, sequences: int) -> StandIn:
    """Tables that let the planned share of tokens go on at every recursion."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    tokens_QT = torch.randint(0, DRAWN_TOKENS, (sequences, config.context_length), generator=generator)
    shape = (sequences, config.context_length, config.recursion.count)
    scores_QTR = torch.rand(shape, generator=generator)
    if isinstance(config.routing, ExpertChoice):
        capacities = config.capacities
        for recursion in range(1, len(capacities)):
            share = float(capacities[recursion] / capacities[recursion - 1])
            scores_QTR[..., recursion] -= 1 - share
            model.threshold_R[recursion] = 0.0
    return StandIn(tokens_QT=tokens_QT, scores_QTR=scores_QTR)


@dataclass(frozen=True, kw_only=True)
class HostTime:
    """Of one arm at one batch."""

    run_us: float
    """Microseconds of the process for a run."""
    token_us: float
    """For a token."""
    runs_per_token: float
    """Runs that a batch of tokens takes, over the batch."""


def host_time(model: Transformer, batch: int, in_flight: float, lengths: Sequence[int]) -> HostTime:
    """Serve texts of these lengths by the tables."""
    sequences = round(batch * in_flight)
    config = model.config
    whole = kv_bytes_per_token(config, model.embedding.weight.element_size(), config.recursion.count)
    memory = round(sequences * config.context_length * whole)
    engine = Engine(model, EngineOptions(kv_bytes=memory, max_batch=batch, max_sequences=sequences))
    device = stand_in(model, sequences)
    engine.stages.recorder = device  # pyright: ignore[reportAttributeAccessIssue]
    for number, length in enumerate(lengths):
        engine.submit(Request(prompt=(1 + number % 999,), max_new_tokens=length))
    started = time.process_time()
    while engine.num_unfinished:
        engine.step()
    seconds = time.process_time() - started - device.seconds
    tokens = engine.totals.computed_tokens
    return HostTime(
        run_us=1e6 * seconds / device.runs,
        token_us=1e6 * seconds / tokens,
        runs_per_token=device.runs * batch / tokens,
    )


def report(
    models: dict[str, Transformer], batches: Sequence[int], lengths: Callable[[int], list[int]], options: Any
) -> None:
    """Print the least of all rounds for every arm and batch; arms take turns."""
    for batch in batches:
        texts = lengths(batch)
        rounds = [
            {name: host_time(model, batch, options.in_flight or 2.0, texts) for name, model in models.items()}
            for _ in range(options.rounds)
        ]
        print(
            f"\nhost alone, batch {batch}: {len(texts)} texts, {sum(texts)} tokens; the least of {len(rounds)} rounds"
        )
        print(f"{'':18}{'us a run':>10}{'us a token':>12}{'runs a batch of tokens':>24}")
        for name in models:
            least = min((each[name] for each in rounds), key=lambda each: each.run_us)
            print(f"{name:18}{least.run_us:10.1f}{least.token_us:12.2f}{least.runs_per_token:24.2f}", flush=True)
