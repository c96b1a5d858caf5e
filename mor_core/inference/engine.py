"""Continuous batching by depth: whoever leaves the block, by exit or by the end of its text, makes room at once.

Sequences are rows of tables, and in one of three queues: rows whose tokens await a pass through the block, rows that
await what lies between two tokens (last layers, sampling, and the first layers of the next token), and sequences that
wait for memory. A run of the block is filled from the first queue, whatever the depths; where that queue is too short
to fill it, the second is served first, over all that have gathered there (paper, appendix E). In a model of one pass
both are one, and this is continuous batching by sequence.

All that the host does for a run is done to arrays, in a number of operations that does not depend on how many tokens
there are. Python looks at single sequences only where they begin or end, or where somebody reads tokens as they come.

A GPU is asked for the next run before it is done with the one before, as long as there are sequences enough to fill
both: what the host does meanwhile takes no time then.

Memory for keys and values is taken once. A sequence is admitted when what those running and it are expected to need
fits, and its prompt at any depth; a prompt is read at once, but for its last token, which goes on as those do that
follow it. Where tokens then go deeper than expected, the youngest sequence gives its memory back and starts again later
from the tokens that it has, which changes no text.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mor_core.config import CausalRule
from mor_core.flops import kv_bytes_per_token
from mor_core.inference.in_flight import NOBODY, InFlight, Pending
from mor_core.inference.kv_cache import NONE, KeyValueCache, SlotPool, pool_sizes
from mor_core.inference.request import Event, FinishedEvent, FinishReason, Request, RequestError, TokenEvent
from mor_core.inference.stages import Stages
from mor_core.inference.trace import check_depth
from mor_core.model.transformer import Transformer

PROMPT_TOKENS_PER_RUN = 4096
"""Tokens of prompts in one run: bounds the memory of hidden states."""

PRIOR_TOKENS = 1000
"""How many tokens of the planned depth the measured mean depth starts from."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How much is done at once, and how deep tokens go."""

    kv_bytes: int
    """Memory for keys and values."""
    max_batch: int = 32
    """Sequences in one run of a stage."""
    max_sequences: int | None = None
    """Sequences that hold memory at once; None is max_batch. More of them keep runs full while others exit, and a GPU
    busy while the host takes note: there three times max_batch fill every run."""
    rule: CausalRule = "threshold"
    """How expert-choice tokens go on."""
    max_depth: int | None = None
    """The deepest recursion of any token; None is the model's."""


@dataclass(kw_only=True)
class EngineTotals:
    """What an engine did so far."""

    generated_tokens: int = 0
    """Tokens of finished requests."""
    computed_tokens: int = 0
    """Tokens that went through the model, prompts included."""
    block_passes: int = 0
    """Passes through the block, over all of them."""
    block_runs: int = 0
    """Runs of the block, each one pass of many tokens."""
    exit_runs: int = 0
    """Runs of the exit."""
    forward_flops: float = 0.0
    """Exact FLOPs of the sequences that are over; a prompt's LM head at its last token only."""
    preemptions: int = 0
    """Times that a sequence gave back its memory to start again."""
    peak_sequences: int = 0
    """Most sequences that held memory at once."""

    @property
    def mean_depth(self) -> float:
        """Passes per token."""
        return self.block_passes / max(1, self.computed_tokens)


_Outcome = Callable[[], list[Event]]
"""Waits for a run that was asked for and takes note of what came out."""


class Engine:
    """Serves requests with one model. Not thread-safe: one caller steps it."""

    def __init__(self, model: Transformer, options: EngineOptions) -> None:
        check_depth(model, options.max_depth)
        self.options, self.config, self.totals = options, model.config, EngineTotals()
        sequences = options.max_sequences or options.max_batch
        weight = model.embedding.weight
        sizes = pool_sizes(model.config, options.kv_bytes, weight.element_size(), sequences)
        self.cache = KeyValueCache(model.config, sizes, sequences, weight.dtype, weight.device)
        self.stages = Stages(model, self.cache, options.rule, options.max_depth)
        self._rows = InFlight(model.config, sequences, self.stages.passes)
        self._planned_passes = float(sum(model.config.capacities))
        self._waiting: deque[Pending] = deque()
        self._running: dict[int, int] = {}
        """Request -> row, in the order of admission."""
        self._promised = 0
        """Tokens that running sequences may have to keep keys of."""
        self._in_block = self._between = NONE
        """Rows that await a pass, and rows that await the next token."""
        self._asked: deque[_Outcome] = deque()
        self._ahead = 1 if weight.device.type == "cuda" else 0
        """Runs that are asked for before the outcome of one is waited for."""
        self._next_id = self._admissions = self._stops = 0
        self._admission_open = True

    def warm_up(self, requests: Sequence[Request]) -> None:
        """Serve enough of these requests to fill and empty all places twice, where runs are recorded: a server records
        once in its life, so whoever times it does this first."""
        if self.stages.recorder is not None:
            deque(self.run(requests[: 2 * self.cache.sequences]), maxlen=0)
            self.totals = EngineTotals()

    def submit(self, request: Request) -> int:
        """Queue a request; returns its id. Raises RequestError where it can never be served."""
        self._check(request)
        self._next_id += 1
        self._waiting.append(Pending(self._next_id, request, request.prompt))
        return self._next_id

    def cancel(self, request_id: int) -> FinishedEvent | None:
        """End a request now; None where it is over already."""
        row = self._running.get(request_id)
        if row is not None:
            (cancelled,) = self._finish(np.array([row]), ["cancelled"])
            self._leave_queues()
            return cancelled
        pending = next((pending for pending in self._waiting if pending.request_id == request_id), None)
        if pending is None:
            return None
        self._waiting.remove(pending)
        return pending.finished("cancelled")

    @property
    def num_unfinished(self) -> int:
        """Requests that run or wait."""
        return len(self._running) + len(self._waiting)

    def run(self, requests: Iterable[Request]) -> Iterator[Event]:
        """Serve requests to their end; events come as they happen. Ids count up from the first request's."""
        for request in requests:
            self.submit(request)
        while self.num_unfinished:
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Ask for one run of a stage, and take note of one."""
        self._admit()
        outcome = self._next_run()
        if outcome is not None:
            self._asked.append(outcome)
        events: list[Event] = []
        if self._asked and (outcome is None or len(self._asked) > self._ahead):
            events = self._asked.popleft()()
            self._admit()
        return events

    def _check(self, request: Request) -> None:
        length, vocabulary = len(request.prompt) + request.max_new_tokens, self.config.vocab_size
        if not request.prompt or request.max_new_tokens < 1:
            raise RequestError(
                f"a prompt of {len(request.prompt)} tokens and {request.max_new_tokens} to generate: "
                "expected at least 1 of each"
            )
        if not all(0 <= token < vocabulary for token in request.prompt):
            raise RequestError(f"the prompt has token ids beyond the model's vocabulary of {vocabulary}")
        if length > self.config.context_length:
            raise RequestError(
                f"{len(request.prompt)} tokens of prompt and {request.max_new_tokens} to generate are {length}: the "
                f"model's context is {self.config.context_length}; shorten the prompt or ask for fewer"
            )
        longest = length - 1
        if longest > self._unshared_slots or longest * self.cache.passes > self.cache.block.num_slots:
            number = self.cache.block.kv_LS2GC.element_size()
            needed = longest * kv_bytes_per_token(self.config, number, self.cache.passes)
            raise RequestError(
                f"{length} tokens may need {needed:.0f} bytes of keys and values, more than the budget of "
                f"{self.options.kv_bytes} holds: raise it (twice as much is certain to do), or ask for fewer tokens"
            )

    @property
    def _unshared_slots(self) -> float:
        return self.cache.unshared.num_slots if self.cache.has_unshared else float("inf")

    def _expected_passes(self) -> float:
        """Slots of the block that a token takes: planned at first, then as measured."""
        if self.cache.passes == 1:
            return 1.0
        prior = self._planned_passes * PRIOR_TOKENS
        return (prior + self.totals.block_passes) / (PRIOR_TOKENS + self.totals.computed_tokens)

    def _admit(self) -> None:
        """Let waiting sequences in, first come first served, while they are expected to fit."""
        if not self._waiting or not self.cache.num_free_rows or not (self._admission_open or not self._running):
            return
        expected, tokens = self._expected_passes(), 0
        admitted: dict[int, Pending] = {}
        free = self.cache.block.num_free // self.cache.passes
        if self.cache.has_unshared:
            free = min(free, self.cache.unshared.num_free)
        while self._waiting and self.cache.num_free_rows and tokens < PROMPT_TOKENS_PER_RUN:
            pending = self._waiting[0]
            promised, tokens = self._promised + pending.longest, tokens + len(pending.tokens) - 1
            fits = promised <= self._unshared_slots and promised * expected <= self.cache.block.num_slots
            # All of a prompt is read before anybody can give memory back.
            if self._running and not (fits and tokens <= free):
                break
            row = self.cache.open()
            admitted[row] = self._waiting.popleft()
            self._running[pending.request_id], self._promised = row, promised
        if admitted:
            rows = np.array([*admitted])
            first, self._admissions = self._admissions + 1, self._admissions + len(admitted)
            self._rows.begin(rows, [*admitted.values()], range(first, self._admissions + 1), self.stages.max_depth - 1)
            self.totals.peak_sequences = max(self.totals.peak_sequences, len(self._running))
            self._read_prompts(rows)
            self._between = np.concatenate((self._between, rows))

    def _read_prompts(self, rows: np.ndarray) -> None:
        """All tokens of new rows but the last."""
        counts = self._rows.length_Q[rows] - 1
        if not counts.any():
            return
        is_read = np.arange(counts.max()) < counts[:, None]
        tokens_N = self._rows.tokens_QT[rows, : counts.max()][is_read]
        depth_N = self.stages.read(rows, counts, tokens_N).depth_N
        self._rows.note_prompts(np.repeat(rows, counts), is_read.nonzero()[1], depth_N)
        self.totals.computed_tokens += len(tokens_N)
        self.totals.block_passes += int(depth_N.sum())
        self.totals.block_runs += int(depth_N.max())
        self.totals.exit_runs += 1

    def _next_run(self) -> _Outcome | None:
        """Ask for the run that is due. None where the outcome of earlier runs will fill it."""
        width, others = self.options.max_batch, len(self._asked)
        if len(self._in_block) >= width or (len(self._in_block) and not len(self._between) and not others):
            rows, self._in_block = self._in_block[:width], self._in_block[width:]
            return self._pass_block(rows)
        if len(self._between) >= width or (len(self._between) and not others):
            rows, self._between = self._between[:width], self._between[width:]
            return self._next_tokens(rows)
        return None

    def _pass_block(self, rows: np.ndarray) -> _Outcome | None:
        """A pass of rows through the block; the outcome is who goes where."""
        table = self._rows
        rows = self._make_room(self.cache.block, rows, self._writes)
        if not len(rows):
            return None
        depth, stays = table.depth_Q[rows], self._still_there(rows)
        wait = self.stages.begin_pass(rows, depth, table.length_Q[rows] - 1)
        self.totals.block_runs += 1

        def outcome() -> list[Event]:
            going, is_there = wait(), stays()
            goes_on = depth < table.last_Q[rows]
            goes_on = (goes_on if going is None else goes_on & going)[is_there]
            stayed = rows[is_there]
            table.depth_Q[stayed] = depth[is_there] + 1
            self._in_block = np.concatenate((self._in_block, stayed[goes_on]))
            self._between = np.concatenate((self._between, stayed[~goes_on]))
            return []

        return outcome

    def _still_there(self, rows: np.ndarray) -> Callable[[], np.ndarray | slice]:
        """What tells, once a run is done, which of its rows have not been stopped meanwhile."""
        stops, admissions = self._stops, self._rows.admission_Q[rows]
        return lambda: slice(None) if stops == self._stops else self._rows.admission_Q[rows] == admissions

    def _writes(self, rows: np.ndarray) -> np.ndarray:
        """Whether the tokens of rows leave keys in their next pass."""
        return (self._rows.depth_Q[rows] == 0) | (self.cache.passes > 1)

    def _next_tokens(self, rows: np.ndarray) -> _Outcome | None:
        """The tokens after those of rows; the outcome is which rows end there. New rows enter."""
        table, cache = self._rows, self.cache
        pools = [cache.unshared] if cache.has_unshared else []
        for pool in [*pools, cache.block] if self.stages.passes == 1 else pools:
            rows = self._make_room(pool, rows, table.enters)
        if not len(rows):
            return None
        is_new, enters = table.is_new_Q[rows], table.enters(rows)
        leaving, entering, is_new = rows[~is_new], rows[enters], is_new[enters]
        positions_M = table.length_Q[entering] - is_new
        wait, logits_EV = self.stages.begin_next_tokens(
            (leaving, table.length_Q[leaving] - 1),
            table.draws(leaving),
            (entering, positions_M),
            np.where(is_new, table.tokens_QT[entering, positions_M], -1),
        )
        table.is_new_Q[entering] = False
        kept: dict[int, Tensor] = {}
        if logits_EV is not None and table.some_keep_logits:
            kept = {row: logits_EV[i].clone() for i, row in enumerate(leaving.tolist()) if table.keeps_logits_Q[row]}
        self.totals.exit_runs += len(leaving) > 0
        self.totals.block_runs += self.stages.passes == 1 and len(entering) > 0
        leaving_stays, entering_stays = self._still_there(leaving), self._still_there(entering)

        def outcome() -> list[Event]:
            tokens, last = wait()
            is_there = leaving_stays()
            events = self._take_note(leaving[is_there], tokens[is_there], kept)
            is_there = entering_stays()
            going = entering[is_there]
            if last is not None:
                table.last_Q[going] = last[is_there]
            table.depth_Q[going] = self.stages.passes == 1
            if self.stages.passes == 1:
                self._between = np.concatenate((self._between, going))
            else:
                self._in_block = np.concatenate((self._in_block, going))
            return events

        return outcome

    def _take_note(self, rows: np.ndarray, tokens: np.ndarray, kept: dict[int, Tensor]) -> list[Event]:
        """Go on after tokens that were chosen for rows."""
        table, depth = self._rows, self._rows.depth_Q[rows]
        length = table.length_Q[rows]
        table.note_work(rows, length, depth)
        self.totals.computed_tokens += len(rows)
        self.totals.block_passes += int(depth.sum())
        table.tokens_QT[rows, length] = tokens
        ends, stops = length + 1 == table.limit_Q[rows], np.zeros(len(rows), np.bool_)
        if table.some_stop:
            stops = (table.stops_QS[rows] == tokens[:, None]).any(axis=1)
            ends |= stops
        table.length_Q[rows] = length + ~stops
        events: list[Event] = []
        if table.some_stream:
            for i in (table.streams_Q[rows] & ~stops).nonzero()[0].tolist():
                recursions = int(depth[i]) if self.stages.passes > 1 else self.config.recursion.count
                row = int(rows[i])
                events.append(TokenEvent(table.request_of(row), int(tokens[i]), recursions, kept.get(row)))
        if ends.any():
            reasons: list[FinishReason] = ["stop" if stop else "length" for stop in stops[ends].tolist()]
            finished = self._finish(rows[ends], reasons)
            self.totals.generated_tokens += sum(len(event.tokens) for event in finished)
            events += finished
        return events

    def _finish(self, rows: np.ndarray, reasons: Sequence[FinishReason]) -> list[FinishedEvent]:
        return [pending.finished(reason) for pending, reason in zip(self._stop(rows), reasons, strict=True)]

    def _stop(self, rows: np.ndarray) -> list[Pending]:
        """End sequences; their memory is free."""
        self.totals.forward_flops += self._rows.flops(rows)
        self.cache.close(rows)
        stopped = self._rows.end(rows)
        for pending in stopped:
            del self._running[pending.request_id]
            self._promised -= pending.longest
        self._admission_open, self._stops = True, self._stops + 1
        return stopped

    def _leave_queues(self) -> None:
        """Forget rows that were stopped before their turn."""
        admission_Q = self._rows.admission_Q
        self._in_block = self._in_block[admission_Q[self._in_block] != NOBODY]
        self._between = self._between[admission_Q[self._between] != NOBODY]

    def _make_room(self, pool: SlotPool, rows: np.ndarray, needs: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Those rows that can go on, with a slot for each that needs one: the youngest sequences give theirs back."""
        while len(rows) > pool.num_free and needs(rows).sum() > pool.num_free:
            youngest = next(reversed(self._running.values()))
            self._waiting.extendleft(self._stop(np.array([youngest])))
            self._leave_queues()
            rows = rows[rows != youngest]
            self._admission_open = False
            self.totals.preemptions += 1
        return rows
