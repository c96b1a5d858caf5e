"""The host's tables of sequences under way, a row each, read and changed for all rows of a run at once.

Shapes: Q rows, T tokens of a context, S stop tokens of a request at most, R recursions, N rows of a run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mor_core.config import ModelConfig
from mor_core.flops import RecursionWork, forward_flops
from mor_core.inference.request import FinishedEvent, FinishReason, Request
from mor_core.inference.sampling import draw_settings, starts_of_draws, uniforms

NOBODY = 0
"""The admission of a row that is free."""


class Pending(NamedTuple):
    """A request that waits for memory, or that has a row."""

    request_id: int
    request: Request
    tokens: Sequence[int]
    """Prompt and what was generated until it last waited."""

    @property
    def longest(self) -> int:
        """Tokens that it may have to keep keys of: the last one generated is not read."""
        return len(self.request.prompt) + self.request.max_new_tokens - 1

    def finished(self, reason: FinishReason) -> FinishedEvent:
        """The end of a request with these tokens."""
        generated = tuple(self.tokens[len(self.request.prompt) :])
        return FinishedEvent(request_id=self.request_id, reason=reason, tokens=generated)


class InFlight:
    """The tables. A token is under way in each row: the last of its sequence."""

    def __init__(self, config: ModelConfig, sequences: int, passes: int) -> None:
        recursions = config.recursion.count
        self._pairs_by_position = config.recursion.kv != "recursion-wise"
        self._has_passes, self._flops = passes > 1, _FlopsOf(config)
        self.pending: list[Pending | None] = [None] * sequences
        self.admission_Q = np.full(sequences, NOBODY, np.int64)
        """Counts up with every sequence that gets a row: what is known of a row is known of one of them."""
        self.tokens_QT = np.zeros((sequences, config.context_length), np.int64)
        """Prompt and what was generated."""
        self.length_Q, self.limit_Q, self.prompt_Q = (np.zeros(sequences, np.int64) for _ in range(3))
        """Tokens that are there, tokens at most, tokens of the prompt."""
        self.depth_Q, self.last_Q = (np.zeros(sequences, np.int64) for _ in range(2))
        """Recursions that the token under way has made, and the last one (from 0) that it may make."""
        self.is_new_Q, self.streams_Q, self.keeps_logits_Q, self.is_drawn_Q = (
            np.zeros(sequences, np.bool_) for _ in range(4)
        )
        """Whether a row's token has yet to enter the model; what the request asks for."""
        self.settings_Q3, self.start_Q = np.zeros((sequences, 3)), np.zeros(sequences, np.uint64)
        """How tokens are drawn (`sampling`)."""
        self.stops_QS = np.zeros((sequences, 0), np.int64)
        """Tokens that end a row's text; below 0 there is none."""
        self.made_QR, self.seen_QR = (np.zeros((sequences, recursions), np.int64) for _ in range(2))
        """For each depth, how many tokens went so deep and no deeper since the sequence got its row; and the tokens up
        to these, summed over them: the pairs of an attention that sees the whole prefix."""
        self._look()

    def begin(self, rows_N: np.ndarray, pendings: Sequence[Pending], admissions: range, last: int) -> None:
        """Give rows to sequences."""
        most_stops = max(len(pending.request.stop_tokens) for pending in pendings)
        if most_stops > self.stops_QS.shape[1]:
            missing = most_stops - self.stops_QS.shape[1]
            self.stops_QS = np.pad(self.stops_QS, ((0, 0), (0, missing)), constant_values=-1)
        for row, pending in zip(rows_N.tolist(), pendings, strict=True):
            self.pending[row] = pending
            self.tokens_QT[row, : len(pending.tokens)] = pending.tokens
            if pending.request.stop_tokens:
                self.stops_QS[row, : len(pending.request.stop_tokens)] = list(pending.request.stop_tokens)
        requests = [(len(pending.tokens), len(pending.request.prompt), pending.request) for pending in pendings]
        self.length_Q[rows_N] = [length for length, *_ in requests]
        self.prompt_Q[rows_N] = [prompt for _, prompt, _ in requests]
        self.limit_Q[rows_N] = [prompt + request.max_new_tokens for _, prompt, request in requests]
        self.streams_Q[rows_N] = [request.stream for *_, request in requests]
        self.keeps_logits_Q[rows_N] = [request.keep_logits for *_, request in requests]
        self.is_drawn_Q[rows_N] = [request.sampling.temperature > 0 for *_, request in requests]
        self.settings_Q3[rows_N] = [draw_settings(request.sampling) for *_, request in requests]
        self.start_Q[rows_N] = starts_of_draws([request.sampling.seed for *_, request in requests])
        self.admission_Q[rows_N], self.last_Q[rows_N], self.is_new_Q[rows_N] = admissions, last, True
        self.made_QR[rows_N] = self.seen_QR[rows_N] = 0
        self._look()

    def end(self, rows_N: np.ndarray) -> list[Pending]:
        """Take rows back; what their sequences have."""
        stopped: list[Pending] = []
        for row, length in zip(rows_N.tolist(), self.length_Q[rows_N].tolist(), strict=True):
            pending = self.pending[row]
            assert pending is not None
            stopped.append(Pending(pending.request_id, pending.request, self.tokens_QT[row, :length].tolist()))
        self.admission_Q[rows_N], self.stops_QS[rows_N] = NOBODY, -1
        self.is_drawn_Q[rows_N] = self.streams_Q[rows_N] = self.keeps_logits_Q[rows_N] = False
        self._look()
        return stopped

    def _look(self) -> None:
        """Where no row asks for something out of the ordinary, no run has to look for it."""
        self.some_drawn, self.some_stop = bool(self.is_drawn_Q.any()), bool((self.stops_QS >= 0).any())
        self.some_stream, self.some_keep_logits = bool(self.streams_Q.any()), bool(self.keeps_logits_Q.any())

    def request_of(self, row: int) -> int:
        """The id of the request that has a row."""
        pending = self.pending[row]
        assert pending is not None
        return pending.request_id

    def enters(self, rows_N: np.ndarray) -> np.ndarray:
        """Whether the next token of rows has to be read: the last one of a text has not."""
        return self.is_new_Q[rows_N] | (self.length_Q[rows_N] + 1 < self.limit_Q[rows_N])

    def draws(self, rows_N: np.ndarray) -> np.ndarray:
        """How the next tokens of rows are drawn, [N, 4]; empty where each is the most likely one."""
        if not self.some_drawn or not self.is_drawn_Q[rows_N].any():
            return np.empty((0, 4))
        draws_N4 = np.empty((len(rows_N), 4))
        draws_N4[:, :3] = self.settings_Q3[rows_N]
        draws_N4[:, 3] = uniforms(self.start_Q[rows_N], self.length_Q[rows_N])
        return draws_N4

    def note_work(self, rows_N: np.ndarray, length_N: np.ndarray, depth_N: np.ndarray) -> None:
        """Count tokens that are through, the last of these lengths, at most one of a row."""
        # One pass of all layers stands for every recursion where they repeat one by one.
        last_N = depth_N - 1 if self._has_passes else self.made_QR.shape[1] - 1
        self.made_QR[rows_N, last_N] += 1
        self.seen_QR[rows_N, last_N] += length_N

    def note_prompts(self, rows_N: np.ndarray, positions_N: np.ndarray, depth_N: np.ndarray) -> None:
        """The same for any tokens."""
        last_N = depth_N - 1 if self._has_passes else np.full(len(rows_N), self.made_QR.shape[1] - 1)
        np.add.at(self.made_QR, (rows_N, last_N), 1)
        np.add.at(self.seen_QR, (rows_N, last_N), positions_N + 1)

    def flops(self, rows_N: np.ndarray) -> int:
        """Exact forward FLOPs of the tokens of rows that are through, the LM head at the last token of a prompt
        alone."""
        tokens_NR = self.made_QR[rows_N][:, ::-1].cumsum(1)[:, ::-1]
        pairs_NR = tokens_NR * (tokens_NR + 1) // 2
        if self._pairs_by_position:
            pairs_NR = self.seen_QR[rows_N][:, ::-1].cumsum(1)[:, ::-1]
        length_N = tokens_NR[:, 0]
        unread_N = (np.minimum(length_N, self.prompt_Q[rows_N]) - 1).clip(min=0)
        return self._flops.of(length_N, tokens_NR, pairs_NR) - self._flops.head * int(unread_N.sum())


class _FlopsOf:
    """`forward_flops` is a sum of multiples of what is done: how much of each, asked for once."""

    def __init__(self, config: ModelConfig) -> None:
        recursions = range(config.recursion.count)

        def asked(length: int, tokens_at: int | None = None, pairs_at: int | None = None) -> int:
            work = [RecursionWork(tokens=int(i == tokens_at), pairs=int(i == pairs_at)) for i in recursions]
            return int(forward_flops(config, length, work))

        one, two = asked(1), asked(2)  # One token and one pair; two tokens and three pairs.
        self._token, self._pair = 3 * one - two, two - 2 * one
        self._token_R = np.array([asked(0, tokens_at=i) for i in recursions])
        self._pair_R = np.array([asked(0, pairs_at=i) for i in recursions])
        self.head = 2 * config.d_model * config.vocab_size

    def of(self, length_N: np.ndarray, tokens_NR: np.ndarray, pairs_NR: np.ndarray) -> int:
        """Of sequences, given their work at each recursion."""
        pairs = length_N @ (length_N + 1) // 2
        recursions = self._token_R @ tokens_NR.sum(0) + self._pair_R @ pairs_NR.sum(0)
        return int(self._token * length_N.sum() + self._pair * pairs + recursions)
