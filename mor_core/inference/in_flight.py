"""Tokens on their way through the model, and what they carry from stage to stage: the residual stream, and what routing
needs again later.

A wave is tokens of one sequence: a prompt at first, then one token at a time. Most waves are one token. Those have a
row of one table, so that a run reads and writes all of them in one operation each; a prompt's rows are a tensor of
their own. Methods are told the waves of a run only where there are prompts among them, `ragged`: of single tokens
`rows_W`, the rows on the device, says all.

Shapes: Q sequences at most, W waves of one run, N their tokens, A the active ones of those, D width of what is carried.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True, slots=True, eq=False)
class Wave:
    """State that changes as the tokens go on; `Stages` moves it, and holds their vectors by `row`."""

    row: int
    """The sequence's row in the cache."""
    prefix: list[int]
    """All token ids of the sequence so far; the wave's are its last ones."""
    start: int
    """Position of the wave's first token."""
    num_tokens: int = field(init=False)
    """Tokens of the wave: counted once, since every run asks several times, and `prefix` grows for the next wave."""
    active: list[int] = field(init=False)
    """Tokens that go through the block next, as indices into the wave, ascending."""
    recursion: int = 0
    """Recursion (from 0) that they enter next."""
    depth: list[int] = field(init=False)
    """Recursions that each token went through so far."""
    chosen: Sequence[int] = ()
    """Token choice: the last recursion (from 0) of each token."""
    scores: Sequence[list[float]] = ()
    """What routers said of each token, where that is kept: expert choice, the logit that decided at each recursion it
    was judged for; token choice, the probability of each depth."""

    def __post_init__(self) -> None:
        self.num_tokens = len(self.prefix) - self.start
        self.active = list(range(self.num_tokens))
        self.depth = [0] * self.num_tokens

    @property
    def positions(self) -> range:
        """Of all its tokens."""
        return range(self.start, self.start + self.num_tokens)


NOWHERE = Wave(row=-1, prefix=[], start=0)
"""The wave of a sequence that has none."""


class Carried:
    """One vector for each token under way."""

    def __init__(self, sequences: int) -> None:
        self._sequences = sequences
        self._table_QD: Tensor | None = None
        self._row_of: Sequence[Tensor] = ()
        self._prompts: dict[int, Tensor] = {}

    def begin(self, rows_W: Tensor, values_ND: Tensor, ragged: Sequence[Wave]) -> None:
        """Take up the vectors of all tokens of waves, one wave after another."""
        if self._table_QD is None:
            # Its width and precision are those of the first that come.
            self._table_QD = values_ND.new_zeros(self._sequences, values_ND.shape[1])
            self._row_of = self._table_QD.split(1)
        if not ragged:
            self._table_QD.index_copy_(0, rows_W, values_ND)
            return
        for wave, own_ND in zip(ragged, values_ND.split([wave.num_tokens for wave in ragged]), strict=True):
            if wave.num_tokens == 1:
                self._row_of[wave.row].copy_(own_ND)
            else:
                # Changed in place while its tokens part.
                self._prompts[wave.row] = own_ND.clone()

    def all(self, rows_W: Tensor, ragged: Sequence[Wave]) -> Tensor:
        """The vectors of all tokens of waves, [N, D]."""
        if not ragged:
            return self._table().index_select(0, rows_W)
        return torch.cat([self._of(wave) for wave in ragged])

    def active(self, rows_W: Tensor, ragged: Sequence[Wave]) -> Tensor:
        """Those of the tokens that go through the block, [A, D]. Each wave has one at least."""
        if not ragged:
            return self._table().index_select(0, rows_W)
        return torch.cat([_active_rows(wave, self._of(wave)) for wave in ragged])

    def entry_of_active(self, rows_W: Tensor, column_A: Tensor, ragged: Sequence[Wave]) -> Tensor:
        """One entry of each of these vectors, [A, 1]."""
        if not ragged:
            return self._table()[rows_W, column_A].unsqueeze(1)
        return self.active(rows_W, ragged).gather(1, column_A.unsqueeze(1))

    def put_active(self, rows_W: Tensor, values_AD: Tensor, ragged: Sequence[Wave]) -> None:
        """Replace the vectors of the tokens that go through the block."""
        if not ragged:
            self._table().index_copy_(0, rows_W, values_AD)
            return
        for wave, own_AD in zip(ragged, values_AD.split([len(wave.active) for wave in ragged]), strict=True):
            if len(wave.active) == wave.num_tokens:
                self._of(wave).copy_(own_AD)
            else:
                self._of(wave)[torch.tensor(wave.active, device=own_AD.device)] = own_AD

    def end(self, waves: Sequence[Wave]) -> None:
        """Forget waves that leave."""
        for wave in waves:
            self._prompts.pop(wave.row, None)

    def _table(self) -> Tensor:
        assert self._table_QD is not None, "no wave has begun"
        return self._table_QD

    def _of(self, wave: Wave) -> Tensor:
        return self._row_of[wave.row] if wave.num_tokens == 1 else self._prompts[wave.row]


def with_prompts(waves: Sequence[Wave]) -> Sequence[Wave]:
    """The waves, or none where each is a single token."""
    return () if all(wave.num_tokens == 1 for wave in waves) else waves


def _active_rows(wave: Wave, values_ND: Tensor) -> Tensor:
    if len(wave.active) == wave.num_tokens:
        return values_ND
    return values_ND[torch.tensor(wave.active, device=values_ND.device)]
