"""How fast a sweep's arms generate, each against vanilla: tokens per second with everything that serving them takes.

Texts start from nothing and their lengths are drawn around one mean (paper, appendix E: 256 tokens), the same for
every arm. The time covers the embedding, all layers, writing keys and values, the head, sampling and the scheduler.
(The paper times the blocks alone.) Arms take turns in every round, since machines drift.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mor_core.flops import kv_bytes_per_token
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.request import Request
from mor_core.inference.sampling import Sampling
from mor_core.inference.stages import CausalRule
from orchestrator.generation import number_bytes, whole_memory
from orchestrator.trained_cell import TrainedCell

LENGTH_SPREAD = 0.25
"""Standard deviation of output lengths over their mean; the paper does not give its own."""

LARGEST = "max"
"""The batch that the memory for keys and values allows."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is generated."""

    requests: int
    """Texts."""
    mean_length: int
    """Mean number of tokens of a text."""
    rounds: int = 3
    """Repetitions; figures are medians."""
    in_flight: float = 2.0
    """Sequences that hold memory per place in a batch, for every arm alike. Above 1, runs stay full while exited tokens
    gather, as in the paper; with 1, tokens that exit leave their places empty."""
    rule: CausalRule = "threshold"
    """How expert-choice tokens go on."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One arm at one batch."""

    arm: str
    """Its label."""
    batch: str
    """1, 32, ..., or max."""
    sequences: int
    """Most sequences that ran at once."""
    tokens_per_second: float
    """Generated tokens over wall seconds, median of the rounds."""
    ratio: float
    """To vanilla at the same batch, median over rounds of the ratio within a round."""
    mean_depth: float
    """Recursions per token."""
    flops_per_token: float
    """Exact forward FLOPs per token."""
    flops_ratio: float
    """Vanilla's FLOPs per token over this arm's: the ratio that FLOPs alone would give."""
    kv_bytes: int
    """Memory for keys and values."""
    preemptions: int
    """Times that a sequence had to start again for want of memory, per round."""


def lengths(load: Load, context_length: int, seed: int = 0) -> list[int]:
    """Output lengths, at least 1 and at most what the context leaves beside one token of prompt."""
    drawn = np.random.default_rng(seed).normal(load.mean_length, LENGTH_SPREAD * load.mean_length, load.requests)
    return np.clip(drawn.round(), 1, context_length - 1).astype(int).tolist()


def default_kv_budget(vanilla: TrainedCell, load: Load) -> int:
    """Bytes that vanilla needs for 64 texts of mean length: twice the middle batch."""
    return int(64 * load.mean_length * kv_bytes_per_token(vanilla.cell.model, number_bytes(vanilla)))


def measure(
    cells: Sequence[TrainedCell],
    batches: Sequence[int | None],
    load: Load,
    kv_budget: int,
    report: Callable[[str], None] = lambda _: None,
) -> list[Speed]:
    """The speed of every cell (the first is what others are compared with) at every batch; None is the largest that
    `kv_budget` bytes allow. Other batches have memory enough."""
    speeds: list[Speed] = []
    for batch in batches:
        rounds: list[list[_Round]] = []
        for number in range(load.rounds + 1):
            report(f"batch {batch or LARGEST}: {'warm-up' if number == 0 else f'round {number} of {load.rounds}'}")
            rounds.append([_generate(cell, batch, load, kv_budget, warm_up=number == 0) for cell in cells])
        timed = rounds[1:]
        speeds += [
            _speed(cell, batch, [each[0] for each in timed], [each[i] for each in timed])
            for i, cell in enumerate(cells)
        ]
    return speeds


@dataclass(frozen=True, kw_only=True)
class _Round:
    """One run over all texts."""

    seconds: float
    tokens: int
    engine: Engine

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def flops_per_token(self) -> float:
        return self.engine.totals.forward_flops / self.engine.totals.computed_tokens


def _generate(cell: TrainedCell, batch: int | None, load: Load, kv_budget: int, *, warm_up: bool) -> _Round:
    context = cell.cell.model.context_length
    wanted = lengths(load, context)
    places = batch or max(
        1, kv_budget // int(kv_bytes_per_token(cell.cell.model, number_bytes(cell), 1.0) * min(wanted))
    )
    places = min(places, len(wanted))
    sequences = min(len(wanted), max(places, round(places * load.in_flight)))
    memory = kv_budget if batch is None else whole_memory(cell, sequences)
    engine = Engine(
        cell.model, EngineOptions(kv_bytes=memory, max_batch=places, max_sequences=sequences, rule=load.rule)
    )
    requests = [
        Request(prompt=(cell.end_of_text,), max_new_tokens=length, sampling=Sampling(temperature=1.0, seed=number))
        for number, length in enumerate(wanted[: sequences if warm_up else None])
    ]
    started = time.perf_counter()
    for _ in engine.run(requests):
        pass
    seconds = time.perf_counter() - started
    return _Round(seconds=seconds, tokens=engine.totals.generated_tokens, engine=engine)


def _speed(cell: TrainedCell, batch: int | None, base: list[_Round], mine: list[_Round]) -> Speed:
    last = mine[-1].engine
    return Speed(
        arm=cell.cell.arm,
        batch=str(batch or LARGEST),
        sequences=last.totals.peak_sequences,
        tokens_per_second=statistics.median(each.tokens_per_second for each in mine),
        ratio=statistics.median(
            one.tokens_per_second / other.tokens_per_second for one, other in zip(mine, base, strict=True)
        ),
        mean_depth=last.totals.mean_depth,
        flops_per_token=mine[-1].flops_per_token,
        flops_ratio=base[-1].flops_per_token / mine[-1].flops_per_token,
        kv_bytes=last.cache.num_bytes,
        preemptions=last.totals.preemptions,
    )
