"""How fast a sweep's arms generate, each against vanilla: tokens per second with everything that serving them takes.

Texts start from nothing and their lengths are drawn around one mean (paper, appendix E: 256 tokens), the same for
every arm. The time covers the embedding, all layers, writing keys and values, the head, sampling and the scheduler.
(The paper times the blocks alone.) Arms take short turns, since machines drift; at the largest batch one after another,
since its memory may be all there is.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from mor_core.config.model import CausalRule
from mor_core.errors import Fix, UserError
from mor_core.flops import kv_bytes_per_token
from mor_core.inference.engine import Engine, EngineOptions, EngineTotals
from mor_core.inference.request import Request, Sampling
from orchestrator.inference.generate import number_bytes, whole_memory
from orchestrator.inference.trained_cell import NotTrained, TrainedCell, cells_of_family
from orchestrator.planning.cells import Cell
from orchestrator.records.revisions import Sweep
from orchestrator.store.store import Store

if TYPE_CHECKING:
    import polars as pl


LENGTH_SPREAD = 0.25
"""Standard deviation of output lengths over their mean; the paper does not give its own."""

TURN_SECONDS = 0.25
"""How long an arm goes on before it is another's turn: short beside a machine's moods, long beside a step."""

IN_FLIGHT = {"cpu": 2.0, "cuda": 3.0}
"""By device, sequences in memory per place that keep every run full. On a GPU, whose host takes note of one run while
the next is computed, the sequences of both are away."""

LARGEST = "max"
"""The batch that the memory for keys and values allows."""


PAPER_LENGTH = 256
"""Mean tokens of a text in the paper's appendix E."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is generated."""

    mean_length: int
    """Mean number of tokens of a text."""
    texts_per_place: int = 8
    """Texts to generate for each place in a batch. Runs empty while the last of them end: with few texts that is most
    of what is timed, and it takes more from arms that need several runs a token."""
    rounds: int = 3
    """Repetitions; figures are medians."""
    in_flight: float | None = None
    """Sequences that hold memory per place in a batch, for every arm alike; None is IN_FLIGHT. Above 1, runs stay full
    while exited tokens gather, as in the paper; with 1, tokens that exit leave their places empty."""
    rule: CausalRule = "threshold"
    """How expert-choice tokens go on."""


def default_mean_length(cells: Sequence[TrainedCell]) -> int:
    """Tokens of a text: the paper's, or half of the shortest context where that is less."""
    context = min(trained.cell.model.context_length for trained in cells)
    return min(PAPER_LENGTH, max(1, context // 2))


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
    lowest: float
    """Of these ratios."""
    highest: float
    """Of these ratios: a wide span tells of a machine that did something else."""
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


def lengths(count: int, mean: int, context_length: int, seed: int = 0) -> list[int]:
    """Output lengths of texts, at least 1 and at most what the context leaves beside one token of prompt."""
    drawn = np.random.default_rng(seed).normal(mean, LENGTH_SPREAD * mean, count)
    return np.clip(drawn.round(), 1, context_length - 1).astype(int).tolist()


def default_kv_budget(vanilla: TrainedCell, load: Load) -> int:
    """Bytes that vanilla needs for 64 texts of mean length: twice the middle batch."""
    return int(64 * _text_bytes(vanilla, load))


def _text_bytes(vanilla: TrainedCell, load: Load) -> float:
    return load.mean_length * kv_bytes_per_token(vanilla.model.config, number_bytes(vanilla))


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
        places = batch or max(1, int(kv_budget / _text_bytes(cells[0], load)))
        context = min(cell.cell.model.context_length for cell in cells)
        texts = lengths(load.texts_per_place * places, load.mean_length, context)
        rounds: list[list[_Round]] = []
        for number in range(load.rounds + 1):
            report(f"batch {batch or LARGEST}: {'warm-up' if number == 0 else f'round {number} of {load.rounds}'}")
            # A budget may be all the memory there is: one arm at a time has it.
            groups = [list(cells)] if batch is not None else [[cell] for cell in cells]
            round_texts = texts if number else texts[:places]
            rounds.append([run for group in groups for run in _round(group, batch, round_texts, load, kv_budget)])
        timed = rounds[1:]
        speeds += [
            _speed(cell, batch, [runs[0] for runs in timed], [runs[i] for runs in timed])
            for i, cell in enumerate(cells)
        ]
    return speeds


def take_turns(tasks: Sequence[Iterator[float]], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """The seconds that each task takes to its end. A task yields the share of it that is done.

    Whoever is furthest behind goes next, so that a machine that slows down for seconds or minutes does so for all.
    """
    seconds, done = [0.0] * len(tasks), [0.0] * len(tasks)
    going = list(range(len(tasks)))
    while going:
        turn = min(going, key=done.__getitem__)
        started = clock()
        while clock() - started < TURN_SECONDS:
            share = next(tasks[turn], None)
            if share is None:
                going.remove(turn)
                break
            done[turn] = share
        seconds[turn] += clock() - started
    return seconds


def served(engine: Engine, requests: Sequence[Request]) -> Iterator[float]:
    """Serve requests of one token whose texts have the lengths they ask for; yields the share of it that is done."""
    total = sum(request.max_new_tokens for request in requests)
    for request in requests:
        engine.submit(request)
    while engine.num_unfinished:
        engine.step()
        # Sequences that start again compute some of their tokens twice.
        yield min(1.0, engine.totals.computed_tokens / total)


@dataclass(frozen=True, kw_only=True)
class _Round:
    """One arm's run over all texts. The engine is let go of, with its memory."""

    seconds: float
    totals: EngineTotals
    kv_bytes: int

    @property
    def tokens_per_second(self) -> float:
        return self.totals.generated_tokens / self.seconds

    @property
    def flops_per_token(self) -> float:
        return self.totals.forward_flops / self.totals.computed_tokens


def _round(
    cells: Sequence[TrainedCell], batch: int | None, texts: Sequence[int], load: Load, kv_budget: int
) -> list[_Round]:
    """Cells generate texts of the same lengths in turns."""
    engines = [_engine(cell, batch, texts, load, kv_budget) for cell in cells]
    for cell, engine in zip(cells, engines, strict=True):
        engine.warm_up(_requests(cell, texts))
    tasks = [served(engine, _requests(cell, texts)) for cell, engine in zip(cells, engines, strict=True)]
    return [
        _Round(seconds=seconds, totals=engine.totals, kv_bytes=engine.cache.num_bytes)
        for seconds, engine in zip(take_turns(tasks), engines, strict=True)
    ]


def _engine(cell: TrainedCell, batch: int | None, texts: Sequence[int], load: Load, kv_budget: int) -> Engine:
    places = batch or max(
        1, kv_budget // int(kv_bytes_per_token(cell.model.config, number_bytes(cell), 1.0) * min(texts))
    )
    places = min(places, len(texts))
    in_flight = load.in_flight or IN_FLIGHT[cell.model.embedding.weight.device.type]
    sequences = min(len(texts), max(places, round(places * in_flight)))
    # Pools are divided by planned depths: twice what the longest texts need holds them all at any depth.
    memory = kv_budget if batch is None else whole_memory(cell, sequences, 2 * max(texts))
    return Engine(cell.model, EngineOptions(kv_bytes=memory, max_batch=places, max_sequences=sequences, rule=load.rule))


def _requests(cell: TrainedCell, texts: Sequence[int]) -> list[Request]:
    return [
        Request(
            prompt=(cell.end_of_text,),
            max_new_tokens=length,
            sampling=Sampling(temperature=1.0, seed=number),
            stream=False,
        )
        for number, length in enumerate(texts)
    ]


def _speed(cell: TrainedCell, batch: int | None, base: list[_Round], runs: list[_Round]) -> Speed:
    last = runs[-1]
    ratios = [run.tokens_per_second / base_run.tokens_per_second for run, base_run in zip(runs, base, strict=True)]
    return Speed(
        arm=cell.cell.arm,
        batch=str(batch or LARGEST),
        sequences=last.totals.peak_sequences,
        tokens_per_second=statistics.median(run.tokens_per_second for run in runs),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        mean_depth=last.totals.mean_depth,
        flops_per_token=runs[-1].flops_per_token,
        flops_ratio=base[-1].flops_per_token / runs[-1].flops_per_token,
        kv_bytes=last.kv_bytes,
        preemptions=last.totals.preemptions,
    )


class BadBatches(UserError):
    """A list of batch sizes that is none."""


def parse_batches(text: str) -> list[int | None]:
    """Such as "1,32,max"; None is the largest that memory allows. Raises BadBatches."""
    batches: list[int | None] = []
    for size in text.split(","):
        if size.strip() != LARGEST and not (size.strip().isdecimal() and int(size) > 0):
            raise BadBatches(
                f"found {size.strip()!r}, expected whole numbers of at least 1, or {LARGEST}",
                fix=Fix(setting="batches"),
            )
        batches.append(None if size.strip() == LARGEST else int(size))
    return batches


def arms_to_measure(store: Store, sweep: Sweep, size: str | None) -> list[Cell]:
    """One finished cell of each arm of our family, vanilla first, of one size and one budget: of those at which all
    these arms of the sweep are finished the largest. Raises NotTrained where there is none."""
    cells = cells_of_family(sweep)
    arms = {cell.arm for cell in cells}
    groups: dict[tuple[str, int], dict[str, Cell]] = {}
    for cell in cells:
        if store.is_done(str(cell.evaluate_segment)) and size in (None, cell.size):
            groups.setdefault((cell.size, cell.budget), {}).setdefault(cell.arm, cell)
    whole = [group for group in groups.values() if group.keys() == arms and "vanilla" in group]
    if not whole:
        at = f" at size {size}" if size else ""
        raise NotTrained(
            f"sweep {sweep.name} has no size and budget{at} at which vanilla and all other arms are finished: finish "
            "it, or name a size that is"
        )
    best = max(whole, key=lambda group: (group["vanilla"].unrolled_params, group["vanilla"].budget))
    return [best["vanilla"], *(cell for arm, cell in best.items() if arm != "vanilla")]


def with_losses(store: Store, cells: Sequence[TrainedCell], speeds: Sequence[Speed]) -> "pl.DataFrame":
    """The speeds as a frame, each with its arm's causal loss."""
    import polars as pl

    losses = {trained.cell.arm: _loss(store, trained.cell) for trained in cells}
    return pl.DataFrame([asdict(speed) | {"loss": losses[speed.arm]} for speed in speeds])


def _loss(store: Store, cell: Cell) -> float | None:
    """A cell's causal loss; None where its weights have not been measured."""
    result = store.result(str(cell.evaluate_segment))
    return result.evaluation.loss if result is not None and result.evaluation is not None else None
