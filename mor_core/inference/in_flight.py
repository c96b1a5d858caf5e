"""The host's table of sequences under way, a row each, read and changed for all rows of a run at once.

Shapes: Q rows, T tokens of a context, S stop tokens of a request at most, N rows of a run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mor_core.inference.request import FinishedEvent, FinishReason, Request, draw_settings, starts_of_draws, uniforms

ROW = np.dtype(
    [
        ("length", np.int64),  # Tokens: the prompt's and those generated.
        ("limit", np.int64),  # Tokens at most.
        ("depth", np.int64),  # Recursions that the last token, which is under way, has made.
        ("is_new", np.bool_),  # Whether it has yet to enter the model.
        ("streams", np.bool_),  # What the request asks for: an event for each token,
        ("keeps_logits", np.bool_),  # with the logits that it was chosen from,
        ("is_drawn", np.bool_),  # and whether it is drawn, and how (`draw_settings`).
        ("settings", np.float64, 3),
    ]
)


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
    """The table, and beside it what is not one number a row."""

    def __init__(self, sequences: int, context_length: int) -> None:
        self._table = np.zeros(sequences, ROW)
        self.length_Q, self._limit_Q, self.depth_Q = (self._table[name] for name in ("length", "limit", "depth"))
        self.is_new_Q, self.streams_Q, self.keeps_logits_Q, self._is_drawn_Q = (
            self._table[name] for name in ("is_new", "streams", "keeps_logits", "is_drawn")
        )
        self.tokens_QT = np.zeros((sequences, context_length), np.int64)
        self._start_Q = np.zeros(sequences, np.uint64)
        """Of the draws (`uniforms`)."""
        self._stops_QS = np.zeros((sequences, 0), np.int64)
        """Tokens that end a row's text; below 0 there is none."""

    def begin(self, rows_N: np.ndarray, pendings: Sequence[Pending]) -> None:
        """Give rows to sequences."""
        requests = [pending.request for pending in pendings]
        self._table[rows_N] = [
            (
                len(pending.tokens),
                len(request.prompt) + request.max_new_tokens,
                0,
                True,
                request.stream,
                request.keep_logits,
                request.sampling.temperature > 0,
                draw_settings(request.sampling),
            )
            for pending, request in zip(pendings, requests, strict=True)
        ]
        if any(request.sampling.temperature > 0 for request in requests):
            self._start_Q[rows_N] = starts_of_draws([request.sampling.seed for request in requests])
        missing = max(len(request.stop_tokens) for request in requests) - self._stops_QS.shape[1]
        if missing > 0:
            self._stops_QS = np.pad(self._stops_QS, ((0, 0), (0, missing)), constant_values=-1)
        self._stops_QS[rows_N] = -1
        for row, pending in zip(rows_N.tolist(), pendings, strict=True):
            self.tokens_QT[row, : len(pending.tokens)] = pending.tokens
            self._stops_QS[row, : len(pending.request.stop_tokens)] = list(pending.request.stop_tokens)

    def text(self, row: int) -> list[int]:
        """The tokens that a row's sequence has."""
        return self.tokens_QT[row, : self.length_Q[row]].tolist()

    def enters(self, rows_N: np.ndarray) -> np.ndarray:
        """Whether the next token of rows has to be read: the last one of a text has not."""
        return self.is_new_Q[rows_N] | (self.length_Q[rows_N] + 1 < self._limit_Q[rows_N])

    def draws(self, rows_N: np.ndarray) -> np.ndarray:
        """How the next tokens of rows are drawn: settings and a number in [0, 1), the bits of which are [4, N] whole
        numbers; [0, N] where each is the most likely one."""
        if not np.count_nonzero(self._is_drawn_Q[rows_N]):
            return np.empty((0, len(rows_N)), np.int64)
        numbers_N = uniforms(self._start_Q[rows_N], self.length_Q[rows_N])
        return np.vstack((self._table["settings"][rows_N].T, numbers_N)).view(np.int64)

    def append(self, rows_N: np.ndarray, tokens_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Note the next tokens of rows. Returns which texts end, and which of them by a stop token, which is no part of
        the text."""
        length_N = self.length_Q[rows_N]
        self.tokens_QT[rows_N, length_N] = tokens_N
        stops_N = np.zeros(len(rows_N), np.bool_)
        if self._stops_QS.size:
            stops_N = (self._stops_QS[rows_N] == tokens_N[:, None]).any(axis=1)
        self.length_Q[rows_N] = length_N + ~stops_N
        return stops_N | (length_N + 1 == self._limit_Q[rows_N]), stops_N
