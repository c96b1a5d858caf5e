"""The host's table of sequences under way, a row each, read and changed for all rows of a run at once.

Shapes: Q rows, T tokens of a context, S stop tokens of a request at most, N rows of a run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mor_core.inference.request import (
    FinishedEvent,
    FinishReason,
    Request,
    Sampling,
    draw_settings,
    starts_of_draws,
    uniforms,
)


class Pending(NamedTuple):
    """A request that waits for memory, or that has a row."""

    request_id: int
    request: Request
    tokens: np.ndarray
    """Prompt and what was generated until it last waited."""

    @property
    def longest(self) -> int:
        """Tokens that it may have to keep keys of: the last one generated is not read."""
        return len(self.request.prompt) + self.request.max_new_tokens - 1

    def finished(self, reason: FinishReason) -> FinishedEvent:
        """The end of a request with these tokens."""
        generated = self.tokens[len(self.request.prompt) :].tolist()
        return FinishedEvent(request_id=self.request_id, reason=reason, tokens=tuple(generated))


class InFlight:
    """The table, by columns, and beside it what is not one number a row. Columns lie in memory one after another: numpy
    reads single fields of records at a quarter of the speed."""

    def __init__(self, sequences: int, context_length: int) -> None:
        self._table = np.zeros((7, sequences), np.int64)
        self.next_Q, self.last_Q, self.given_Q, self.depth_Q, self.streams_Q, self.keeps_logits_Q, self._is_drawn_Q = (
            self._table
        )
        """Where the next token goes; where the last one will, below 0 once a text is over; the next one's id where it
        is the last of a prompt, else below 0; recursions that the one under way has made; and what a request asks for:
        an event for each token, with the logits that it was chosen from, and that it is drawn."""
        self.tokens_QT = np.zeros((sequences, context_length), np.int64)
        self._settings_Q3 = np.ones((sequences, 3))
        """Of the draws (`draw_settings`)."""
        self._start_Q = np.zeros(sequences, np.uint64)
        """Of the draws (`uniforms`)."""
        self._stops_QS = np.zeros((sequences, 0), np.int64)
        """Tokens that end a row's text; below 0 there is none."""

    def begin(self, rows_N: np.ndarray, pendings: Sequence[Pending]) -> None:
        """Give rows to sequences."""
        columns = [
            (
                len(pending.tokens) - 1,
                pending.longest,
                pending.tokens[-1],
                0,
                pending.request.stream,
                pending.request.keep_logits,
                pending.request.sampling.temperature > 0,
            )
            for pending in pendings
        ]
        self._table[:, rows_N] = np.array(columns, np.int64).T
        for row, pending in zip(rows_N.tolist(), pendings, strict=True):
            self.tokens_QT[row, : len(pending.tokens)] = pending.tokens
        requests = [pending.request for pending in pendings]
        if np.count_nonzero(self._is_drawn_Q[rows_N]):
            self._settings_Q3[rows_N] = [draw_settings(request.sampling) for request in requests]
            self._start_Q[rows_N] = starts_of_draws([request.sampling.seed for request in requests])
        stops = [[*request.stop_tokens] for request in requests]
        width = max(self._stops_QS.shape[1], *map(len, stops))
        if missing := width - self._stops_QS.shape[1]:
            self._stops_QS = np.pad(self._stops_QS, ((0, 0), (0, missing)), constant_values=-1)
        if width:
            self._stops_QS[rows_N] = [tokens + [-1] * (width - len(tokens)) for tokens in stops]

    def text(self, row: int) -> np.ndarray:
        """The tokens that a row's sequence has."""
        return self.tokens_QT[row, : self.next_Q[row] + (self.given_Q[row] >= 0)].copy()

    def draws(self, rows_N: np.ndarray) -> np.ndarray:
        """How the next tokens of rows are drawn: settings and a number in [0, 1), the bits of which are [4, N] whole
        numbers; [0, N] where each is the most likely one."""
        if not np.count_nonzero(self._is_drawn_Q) or not np.count_nonzero(self._is_drawn_Q[rows_N]):
            return np.empty((0, len(rows_N)), np.int64)
        # A row that is not drawn may have the settings of whoever had it before.
        settings_N3 = np.where(self._is_drawn_Q[rows_N, None], self._settings_Q3[rows_N], draw_settings(Sampling()))
        return np.vstack((settings_N3.T, uniforms(self._start_Q[rows_N], self.next_Q[rows_N]))).view(np.int64)

    def append(self, rows_N: np.ndarray, places_N: np.ndarray, tokens_N: np.ndarray) -> np.ndarray:
        """Note the tokens that rows have at these places now, which are the last ones before the next. Returns which of
        them are stop tokens, which are no part of a text."""
        self.tokens_QT[rows_N, places_N] = tokens_N
        if not self._stops_QS.size:
            return np.zeros(len(rows_N), np.bool_)
        stops_N = (self._stops_QS[rows_N] == tokens_N[:, None]).any(axis=1)
        self.next_Q[rows_N] -= stops_N
        return stops_N
