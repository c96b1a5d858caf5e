"""Tokens of one sequence on their way through the model: a prompt at first, then one token at a time.

Shapes: N tokens of the wave, A of them still going through the block, D model width, R recursions.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Wave:
    """State that changes as the tokens go on; `Stages` moves it."""

    row: int
    """The sequence's row in the cache's tables."""
    prefix: list[int]
    """All token ids of the sequence so far; the wave's are its last ones."""
    start: int
    """Position of the wave's first token."""
    num_tokens: int = field(init=False)
    """Tokens of the wave: counted once, since every run asks several times, and `prefix` grows for the next wave."""
    x_ND: Tensor = field(default_factory=lambda: torch.empty(0))
    """Residual stream of all its tokens."""
    active: list[int] = field(default_factory=list)
    """Tokens that go through the block next, as indices into the wave, ascending."""
    recursion: int = 0
    """Recursion (from 0) that they enter next."""
    depth: list[int] = field(default_factory=list)
    """Recursions that each token went through so far."""
    logits: list[float] = field(default_factory=list)
    """Expert choice: the router's logits of the active tokens at that recursion. Most waves have one token, and the
    host reads the logits in any case: numbers cost less there than tensors of one."""
    entry_ND: Tensor | None = None
    """Token choice: the block's input at recursion 0."""
    gate_NR: Tensor | None = None
    """Token choice: what each application is scaled by."""
    noise_NR: Tensor | None = None
    """Expert choice by a random router: the logits of all recursions."""
    chosen: list[int] = field(default_factory=list)
    """Token choice: the last recursion (from 0) of each token."""
    scores: list[list[float]] = field(default_factory=list)
    """What routers said of each token, where that is kept: expert choice, the logit that decided at each recursion it
    was judged for; token choice, the probability of each depth."""

    def __post_init__(self) -> None:
        self.num_tokens = len(self.prefix) - self.start

    @property
    def positions(self) -> range:
        """Of all its tokens."""
        return range(self.start, self.start + self.num_tokens)

    def active_rows(self, values_N: Tensor) -> Tensor:
        """The active tokens' entries."""
        if len(self.active) == self.num_tokens:
            return values_N
        return values_N[torch.tensor(self.active, device=values_N.device)]

    def put_active_rows(self, rows: Tensor) -> None:
        """Replace the active tokens' residual stream."""
        if len(self.active) == self.num_tokens:
            self.x_ND = rows
        else:
            self.x_ND[torch.tensor(self.active, device=rows.device)] = rows
