"""Continuous batching by depth: whoever leaves the block, by exit or by the end of its text, makes room at once.

Sequences are in one of three queues: those whose tokens await a pass through the block, those whose tokens are done
with it and await the exit (last layers, sampling, and the first layers of the next token), and those that wait for
memory. A run of the block is filled from the first queue, whatever the depths; where that queue is too short to fill
it, the exit runs first, over all that have gathered there (paper, appendix E). In a model of one pass this is
continuous batching by sequence.

A GPU is asked for the next run before it is done with the one before, as long as there are sequences enough to fill
both: what the host does meanwhile takes no time then.

Memory for keys and values is taken once. A sequence is admitted when what those running and it are expected to need
fits; where tokens then go deeper than expected, the youngest sequence gives its memory back and starts again later from
the tokens that it has, which changes no text.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mor_core.config import CausalRule
from mor_core.flops import RecursionWork, forward_flops, kv_bytes_per_token
from mor_core.inference.in_flight import NOWHERE, Wave
from mor_core.inference.kv_cache import KeyValueCache, SlotPool, pool_sizes
from mor_core.inference.request import Event, FinishedEvent, FinishReason, Request, RequestError, TokenEvent
from mor_core.inference.sampling import choose
from mor_core.inference.stages import Stages
from mor_core.inference.trace import check_depth
from mor_core.model.device import Answer
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


@dataclass(kw_only=True, eq=False)
class _Sequence:
    """A request on its way."""

    request_id: int
    request: Request
    tokens: list[int]
    """Prompt and what was generated."""
    wave: Wave = NOWHERE
    """Tokens under way; nowhere while it waits for memory."""
    made: list[int] = field(default_factory=list)
    """For each depth, how many of its tokens went so deep and no deeper, since it last began."""
    seen: list[int] = field(default_factory=list)
    """The tokens up to these, summed over them: the pairs of an attention that sees the whole prefix."""

    @property
    def longest(self) -> int:
        """Tokens that it may have to keep keys of: the last one generated is not read."""
        return len(self.request.prompt) + self.request.max_new_tokens - 1


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
        self._planned_passes = float(sum(model.config.capacities))
        self._waiting: deque[_Sequence] = deque()
        self._running: dict[int, _Sequence] = {}  # In the order of admission.
        self._entering: list[_Sequence] = []
        self._in_block: deque[_Sequence] = deque()
        self._exiting: deque[_Sequence] = deque()
        self._asked: deque[_Outcome] = deque()
        self._ahead = 1 if weight.device.type == "cuda" else 0
        """Runs that are asked for before the outcome of one is waited for."""
        self._next_id = 0
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
        sequence = _Sequence(request_id=self._next_id, request=request, tokens=list(request.prompt))
        self._waiting.append(sequence)
        return self._next_id

    def cancel(self, request_id: int) -> FinishedEvent | None:
        """End a request now; None where it is over already."""
        sequence = self._running.get(request_id)
        if sequence is None:
            sequence = next((each for each in self._waiting if each.request_id == request_id), None)
            if sequence is None:
                return None
            self._waiting.remove(sequence)
            return _finished(sequence, "cancelled")
        self._stop(sequence)
        return _finished(sequence, "cancelled")

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
        expected, kept = self._expected_passes(), sum(sequence.longest for sequence in self._running.values())
        tokens = sum(sequence.wave.num_tokens for sequence in self._entering)
        while self._waiting and self.cache.num_free_rows and tokens < PROMPT_TOKENS_PER_RUN:
            sequence = self._waiting[0]
            kept += sequence.longest
            fits = kept <= self._unshared_slots and kept * expected <= self.cache.block.num_slots
            if self._running and not fits:
                return
            self._waiting.popleft()
            sequence.wave = Wave(row=self.cache.open(), prefix=sequence.tokens, start=0)
            sequence.made, sequence.seen = ([0] * self.config.recursion.count for _ in range(2))
            self._running[sequence.request_id] = sequence
            self._entering.append(sequence)
            tokens += len(sequence.tokens)
            self.totals.peak_sequences = max(self.totals.peak_sequences, len(self._running))

    def _next_run(self) -> _Outcome | None:
        """Ask for the run that is due. None where the outcome of earlier runs will fill it."""
        self._enter()
        width, others = self.options.max_batch, len(self._asked)
        if len(self._in_block) >= width or (self._in_block and not self._exiting and not others):
            return self._pass_block(_take(self._in_block, width))
        if len(self._exiting) >= width or (self._exiting and not others):
            return self._leave(_take(self._exiting, width))
        return None

    def _enter(self) -> None:
        entering, self._entering = self._entering, []
        if self.cache.has_unshared:
            entering = self._make_room(entering, self.cache.unshared, lambda wave: wave.num_tokens)
        if entering:
            self.stages.enter([sequence.wave for sequence in entering])
            self._in_block.extend(entering)

    def _pass_block(self, batch: list[_Sequence]) -> _Outcome | None:
        """A pass of sequences through the block; the outcome is who goes where."""
        batch = self._make_room(batch, self.cache.block, self.stages.new_block_slots)
        if not batch:
            return None
        waves = [sequence.wave for sequence in batch]
        scores_AR = self.stages.begin_block(waves)
        self.totals.block_runs += 1

        def outcome() -> list[Event]:
            self.stages.end_block(waves, scores_AR)
            for sequence, wave in zip(batch, waves, strict=True):
                if sequence.wave is wave:  # It was not stopped meanwhile.
                    (self._in_block if wave.active else self._exiting).append(sequence)
            return []

        return outcome

    def _leave(self, batch: list[_Sequence]) -> _Outcome:
        """Sample each sequence's next token; the outcome is that it ends there, or that its next wave enters."""
        waves = [sequence.wave for sequence in batch]
        logits_BV = self.stages.leave(waves)
        self.totals.exit_runs += 1
        tokens = Answer(
            choose(
                logits_BV,
                [sequence.request.sampling for sequence in batch],
                [len(sequence.tokens) for sequence in batch],
            )
        )
        kept = [logits_BV[i].clone() if each.request.keep_logits else None for i, each in enumerate(batch)]

        def outcome() -> list[Event]:
            events: list[Event] = []
            for sequence, wave, token, logits_V in zip(batch, waves, tokens.wait(), kept, strict=True):
                if sequence.wave is wave:  # It was not stopped meanwhile.
                    self._continue(sequence, token, logits_V, events)
            return events

        return outcome

    def _continue(self, sequence: _Sequence, token: int, logits_V: Tensor | None, events: list[Event]) -> None:
        """Go on after a token that was sampled."""
        request, wave = sequence.request, sequence.wave
        self._account(sequence)
        if token in request.stop_tokens:
            events.append(self._finish(sequence, "stop"))
            return
        depth = wave.depth[-1] if self.stages.passes > 1 else self.config.recursion.count
        events.append(TokenEvent(request_id=sequence.request_id, token=token, depth=depth, logits_V=logits_V))
        sequence.tokens.append(token)
        if len(sequence.tokens) == len(request.prompt) + request.max_new_tokens:
            events.append(self._finish(sequence, "length"))
            return
        sequence.wave = Wave(row=wave.row, prefix=sequence.tokens, start=len(sequence.tokens) - 1)
        self._entering.append(sequence)

    def _finish(self, sequence: _Sequence, reason: FinishReason) -> FinishedEvent:
        self._stop(sequence)
        self.totals.generated_tokens += len(sequence.tokens) - len(sequence.request.prompt)
        return _finished(sequence, reason)

    def _stop(self, sequence: _Sequence) -> None:
        """Take a sequence out of whatever queue it is in; its memory is free."""
        self.totals.forward_flops += self._flops(sequence)
        del self._running[sequence.request_id]
        for queue in (self._entering, self._in_block, self._exiting):
            if sequence in queue:
                queue.remove(sequence)
        self.stages.forget([sequence.wave])
        self.cache.close(sequence.wave.row)
        sequence.wave = NOWHERE
        self._admission_open = True

    def _make_room(self, batch: list[_Sequence], pool: SlotPool, need: Callable[[Wave], int]) -> list[_Sequence]:
        """Those of a batch that can go on, with slots for all of them: the youngest sequences give theirs back."""
        while sum([need(sequence.wave) for sequence in batch]) > pool.num_free:
            youngest = next(reversed(self._running.values()))
            batch = [sequence for sequence in batch if sequence is not youngest]
            self._stop(youngest)
            self._waiting.appendleft(youngest)
            self._admission_open = False
            self.totals.preemptions += 1
        return batch

    def _account(self, sequence: _Sequence) -> None:
        """Count what the wave that leaves has cost."""
        wave = sequence.wave
        self.totals.computed_tokens += wave.num_tokens
        self.totals.block_passes += sum(wave.depth)
        for position, depth in enumerate(wave.depth, wave.start):
            # One pass of all layers stands for every recursion where they repeat one by one: the last of the list.
            last = depth - 1 if self.stages.passes > 1 else -1
            sequence.made[last] += 1
            sequence.seen[last] += position + 1

    def _flops(self, sequence: _Sequence) -> float:
        """Of the tokens that a sequence has kept keys of since it last began."""
        length = sum(sequence.made)
        if not length:
            return 0.0
        work: list[RecursionWork] = []
        for recursion in range(len(sequence.made)):
            tokens, seen = sum(sequence.made[recursion:]), sum(sequence.seen[recursion:])
            pairs = seen if self.cache.by_position else tokens * (tokens + 1) // 2
            work.append(RecursionWork(tokens=tokens, pairs=pairs))
        unread = (
            2 * self.config.d_model * self.config.vocab_size * max(0, min(length, len(sequence.request.prompt)) - 1)
        )
        return float(forward_flops(self.config, length, work)) - unread


def _finished(sequence: _Sequence, reason: FinishReason) -> FinishedEvent:
    generated = tuple(sequence.tokens[len(sequence.request.prompt) :])
    return FinishedEvent(request_id=sequence.request_id, reason=reason, tokens=generated)


def _take(queue: deque[_Sequence], count: int) -> list[_Sequence]:
    """The first of a queue, at most `count` and no more prompt tokens than a run holds, but at least one."""
    taken: list[_Sequence] = []
    tokens = 0
    while queue and len(taken) < count and (not taken or tokens < PROMPT_TOKENS_PER_RUN):
        taken.append(queue.popleft())
        tokens += taken[-1].wave.num_tokens
    return taken
