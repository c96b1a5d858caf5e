"""Continuous batching by depth: whoever leaves the block, by exit or by the end of its text, makes room at once.

Sequences are rows of tables, and in one of three queues: rows whose tokens await a pass through the block, rows that
await what lies between two tokens (last layers, sampling, and the first layers of the next token), and sequences that
wait for memory. A run of the block is filled from the first queue, whatever the depths; where that queue is too short
to fill it, the second is served first, over all that have gathered there (paper, appendix E). In a model of one pass
both are one, and this is continuous batching by sequence.

All that the host does for a run is done to arrays, in a number of operations that does not depend on how many tokens
there are. Python looks at single sequences only where they begin or end, or where somebody reads tokens as they come.

A GPU is asked for the next run before it is done with the one before, as long as there are sequences enough to fill
both: what the host does meanwhile takes no time then. It takes note of all such runs before it stops a sequence.

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

from mor_core.config.model import CausalRule, ModelConfig
from mor_core.flops import kv_bytes_per_token
from mor_core.inference.in_flight import InFlight, Pending
from mor_core.inference.kv_cache import KeyValueCache, SlotPool, pool_sizes
from mor_core.inference.request import Event, FinishedEvent, Request, RequestError, TokenEvent
from mor_core.inference.stages import NONE, Stages, check_depth
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
    """Exact FLOPs of all runs until a sequence last ended; a prompt's LM head at its last token only."""
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
        check_depth(model.config, options.max_depth)
        self.options, self.config, self.totals = options, model.config, EngineTotals()
        sequences, weight = options.max_sequences or options.max_batch, model.embedding.weight
        sizes = pool_sizes(model.config, options.kv_bytes, weight.element_size(), sequences)
        self.cache = KeyValueCache(model.config, sizes, sequences, weight.dtype, weight.device)
        context_length = model.config.context_length
        most = min(PROMPT_TOKENS_PER_RUN + context_length, sequences * context_length)
        self.stages = Stages(model, self.cache, options.rule, options.max_depth, prompt_tokens=most)
        self._rows = InFlight(sequences, context_length)
        self._planned_passes = float(sum(model.config.capacities))
        self._waiting: deque[Pending] = deque()
        self._running: dict[int, Pending] = {}
        """Row -> request, in the order of admission."""
        self._promised = 0
        """Tokens that running sequences may have to keep keys of."""
        self._in_block = self._between = NONE
        """Rows that await a pass, and rows that await the next token."""
        self._asked: deque[_Outcome] = deque()
        self._ahead = 1 if weight.device.type == "cuda" else 0
        """Runs that are asked for before the outcome of one is waited for."""
        self._events: list[Event] = []
        """Still to be told."""
        self._next_id = 0
        self._admission_open = True

    def warm_up(self, requests: Sequence[Request]) -> None:
        """Serve enough of these requests to fill and empty all places twice, where runs are recorded: a server records
        once in its life, so whoever times it does this first."""
        if self.stages.recorder is not None:
            deque(self.run(requests[: 2 * self.cache.sequences]), maxlen=0)
            self.totals, self.stages.forward_flops = EngineTotals(), 0

    def submit(self, request: Request) -> int:
        """Queue a request; returns its id. Raises RequestError where it can never be served."""
        check_request(request, self.config, self.cache, self.options.kv_bytes)
        self._next_id += 1
        self._waiting.append(Pending(self._next_id, request, np.array(request.prompt)))
        return self._next_id

    def cancel(self, request_id: int) -> FinishedEvent | None:
        """End a request now; None where it is over already."""
        self._catch_up()
        row = next((row for row, pending in self._running.items() if pending.request_id == request_id), None)
        if row is not None:
            return self._stop_queued(row).finished("cancelled")
        pending = next((pending for pending in self._waiting if pending.request_id == request_id), None)
        if pending is None:
            return None
        self._waiting.remove(pending)
        return pending.finished("cancelled")

    @property
    def num_unfinished(self) -> int:
        """Requests that run or wait, and events that are still to be told."""
        return len(self._running) + len(self._waiting) + len(self._events)

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
        if self._asked and (outcome is None or len(self._asked) > self._ahead):
            self._events += self._asked.popleft()()
            self._admit()
        events, self._events = self._events, []
        return events

    def _catch_up(self) -> None:
        """Take note of all runs that were asked for: nobody is stopped in the middle of one."""
        while self._asked:
            self._events += self._asked.popleft()()

    def _expected_passes(self) -> float:
        """Passes of a token: planned at first, then as measured."""
        passes = self._planned_passes * PRIOR_TOKENS + self.totals.block_passes
        return passes / (PRIOR_TOKENS + self.totals.computed_tokens)

    def _admit(self) -> None:
        """Let waiting sequences in, first come first served, while they are expected to fit."""
        if not self._waiting or not self.cache.num_free_rows or not (self._admission_open or not self._running):
            return
        unshared, block, passes = self.cache.unshared, self.cache.block, self.cache.passes
        expected, tokens = min(self._expected_passes(), passes), 0
        admitted: dict[int, Pending] = {}
        while self._waiting and self.cache.num_free_rows and tokens < PROMPT_TOKENS_PER_RUN:
            pending = self._waiting[0]
            promised, tokens = self._promised + pending.longest, tokens + len(pending.tokens) - 1
            fits = promised <= unshared.num_slots and promised * expected <= block.num_slots
            # All of a prompt is read before anybody can give memory back.
            fits = fits and tokens <= unshared.num_free and tokens * passes <= block.num_free
            if self._running and not fits:
                break
            row = self.cache.open()
            admitted[row] = self._waiting.popleft()
            self._running[row], self._promised = pending, promised
        if admitted:
            rows = np.array([*admitted])
            self._rows.begin(rows, [*admitted.values()])
            self.totals.peak_sequences = max(self.totals.peak_sequences, len(self._running))
            self._prefill(rows)
            self._between = np.concatenate((self._between, rows))

    def _prefill(self, rows: np.ndarray) -> None:
        """All tokens of new rows but the last."""
        counts = self._rows.next_Q[rows]
        if not counts.any():
            return
        prompts = [self._rows.tokens_QT[row, :count] for row, count in zip(rows, counts, strict=True)]
        depth_N = self.stages.prefill(rows, counts, np.concatenate(prompts)).depth_N
        self.totals.computed_tokens += len(depth_N)
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
        rows = self._make_room(
            self.cache.block, rows, lambda rows: (table.depth_Q[rows] == 0) | (self.cache.passes > 1)
        )
        if not len(rows):
            return None
        depth = table.depth_Q[rows]
        wait = self.stages.begin_pass(rows, depth, table.next_Q[rows] - 1)
        self.totals.block_runs += 1

        def outcome() -> list[Event]:
            going = wait()
            table.depth_Q[rows] = num_passes = depth + 1
            goes_on = num_passes < self.stages.max_depth
            if going is not None:
                goes_on &= going[: len(rows)]
            self._in_block = np.concatenate((self._in_block, rows[goes_on]))
            self._between = np.concatenate((self._between, rows[~goes_on]))
            return []

        return outcome

    def _next_tokens(self, rows: np.ndarray) -> _Outcome | None:
        """The tokens after those of rows; the outcome is which rows end there. New rows enter."""
        table = self._rows
        rows = self._make_room(self.cache.unshared, rows, lambda rows: table.next_Q[rows] < table.last_Q[rows])
        if not len(rows):
            return None
        next_N, given_N = table.next_Q[rows], table.given_Q[rows]
        leaves_N, enters_N = given_N < 0, next_N < table.last_Q[rows]  # A text's last token has not to be read.
        leaving, entering, places_E, ends_E = rows[leaves_N], rows[enters_N], next_N[leaves_N], ~enters_N[leaves_N]
        wait, logits_EV = self.stages.begin_next_tokens(
            (leaving, places_E - 1), table.draws(leaving), (entering, next_N[enters_N]), given_N[enters_N]
        )
        table.next_Q[rows], table.given_Q[rows] = next_N + 1, -1
        kept: dict[int, Tensor] = {}
        if logits_EV is not None and np.count_nonzero(table.keeps_logits_Q):
            kept = {row: logits_EV[i].clone() for i, row in enumerate(leaving.tolist()) if table.keeps_logits_Q[row]}
        has_block = self.cache.passes > 0
        self.totals.exit_runs += len(leaving) > 0
        self.totals.block_runs += not has_block and len(entering) > 0

        def outcome() -> list[Event]:
            tokens = wait()
            events = (
                [] if tokens is None else self._take_note((leaving, places_E, ends_E), tokens[: len(leaving)], kept)
            )
            going = entering[table.last_Q[entering] >= 0]  # Those whose texts have not ended.
            # All layers of a model of one pass are first ones.
            table.depth_Q[going] = not has_block
            if has_block:
                self._in_block = np.concatenate((self._in_block, going))
            else:
                self._between = np.concatenate((self._between, going))
            return events

        return outcome

    def _take_note(
        self, places: tuple[np.ndarray, np.ndarray, np.ndarray], tokens: np.ndarray, kept: dict[int, Tensor]
    ) -> list[Event]:
        """Go on after tokens that were chosen, given their rows, where they go in the texts, and whether these end."""
        (rows, positions, ends), table, depth = places, self._rows, self._rows.depth_Q[places[0]]
        stops = table.append(rows, positions, tokens)
        ends = ends | stops
        self.totals.computed_tokens += len(rows)
        self.totals.block_passes += int(np.add.reduce(depth))
        events: list[Event] = []
        if np.count_nonzero(table.streams_Q):
            for i in (table.streams_Q[rows] > stops).nonzero()[0].tolist():
                recursions = int(depth[i]) if self.cache.passes else self.config.recursion.count
                row = int(rows[i])
                events.append(TokenEvent(self._running[row].request_id, int(tokens[i]), recursions, kept.get(row)))
        if np.count_nonzero(ends):
            stopped = zip(self._stop(rows[ends]), stops[ends].tolist(), strict=True)
            finished = [pending.finished("stop" if by_token else "length") for pending, by_token in stopped]
            self.totals.generated_tokens += sum([len(event.tokens) for event in finished])
            events += finished
        return events

    def _stop(self, rows: np.ndarray) -> list[Pending]:
        """End sequences; their memory is free."""
        table = self._rows
        # A stop token is no part of a text, but it was brought to the block before it was seen to be one.
        self.cache.close(rows, longest=int(table.next_Q[rows].max()) + 1)
        self._promised -= int(table.last_Q[rows].sum())
        stopped = [self._running.pop(row)._replace(tokens=table.text(row)) for row in rows.tolist()]
        table.last_Q[rows] = -1
        self._admission_open = True
        self.totals.forward_flops = float(self.stages.forward_flops)
        return stopped

    def _stop_queued(self, row: int) -> Pending:
        """End a sequence that is in a queue."""
        (stopped,) = self._stop(np.array([row]))
        self._in_block, self._between = self._in_block[self._in_block != row], self._between[self._between != row]
        return stopped

    def _make_room(self, pool: SlotPool, rows: np.ndarray, needs: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Those rows that can go on, with a slot for each that needs one: the youngest sequences give theirs back."""
        while len(rows) > pool.num_free and np.count_nonzero(needs(rows)) > pool.num_free:
            if self._asked:
                self._catch_up()
                continue
            youngest = next(reversed(self._running))
            self._waiting.appendleft(self._stop_queued(youngest))
            rows = rows[rows != youngest]
            self._admission_open = False
            self.totals.preemptions += 1
        return rows


def check_request(request: Request, config: ModelConfig, cache: KeyValueCache, kv_bytes: int) -> None:
    """Raises RequestError where an engine can never serve a request."""
    length = len(request.prompt) + request.max_new_tokens
    if not request.prompt or request.max_new_tokens < 1:
        raise RequestError(
            f"a prompt of {len(request.prompt)} tokens and {request.max_new_tokens} to generate: "
            "expected at least 1 of each"
        )
    if not all(0 <= token < config.vocab_size for token in request.prompt):
        raise RequestError(f"the prompt has token ids beyond the model's vocabulary of {config.vocab_size}")
    if length > config.context_length:
        raise RequestError(
            f"{len(request.prompt)} tokens of prompt and {request.max_new_tokens} to generate are {length}: the "
            f"model's context is {config.context_length}; shorten the prompt or ask for fewer"
        )
    longest = length - 1
    if longest > cache.unshared.num_slots or longest * cache.passes > cache.block.num_slots:
        needed = longest * kv_bytes_per_token(config, cache.block.kv_LS2GC.element_size(), max(1, cache.passes))
        raise RequestError(
            f"{length} tokens may need {needed:.0f} bytes of keys and values, more than the budget of "
            f"{kv_bytes} holds: raise it (twice as much is certain to do), or ask for fewer tokens"
        )
