"""Tokens of one sequence on their way through the model: a prompt at first, then one token at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field


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
