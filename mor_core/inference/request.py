"""Requests to an engine, how their tokens are drawn, and the events that it answers with.

A draw is a function of the request's seed and the position alone, so that a request's text does not depend on what
else is in the batch. Shapes: B requests, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from mor_core.errors import UserError

FinishReason = Literal["stop", "length", "cancelled"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request's tokens are chosen: after temperature, top-k and top-p, in that order."""

    temperature: float = 0.0
    """Logits are divided by it; 0 takes the most likely token."""
    top_k: int | None = None
    """Draw among the k most likely tokens; None among all."""
    top_p: float = 1.0
    """Draw among the fewest most likely tokens that together have at least this probability."""
    seed: int = 0
    """Of the draws; any whole number."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise RequestError(f"temperature {self.temperature}: expected 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise RequestError(f"top_k {self.top_k}: expected 1 or more tokens")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p {self.top_p}: expected a number above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A text to go on with."""

    prompt: tuple[int, ...]
    """Token ids, at least one."""
    max_new_tokens: int
    """Tokens to generate at most."""
    sampling: Sampling = field(default_factory=Sampling)
    """How they are chosen."""
    stop_tokens: frozenset[int] = frozenset()
    """Token ids that end the text and are not part of it."""
    stream: bool = True
    """Whether there is an event for each token as it comes, or only one at the end of the text."""
    keep_logits: bool = False
    """Whether tokens' events carry the logits that tokens were chosen from."""


class TokenEvent(NamedTuple):
    """A token was generated. (Made for every token, for which a dataclass takes three times as long.)"""

    request_id: int
    """Whose."""
    token: int
    """Its id."""
    depth: int
    """Recursions that the token before it, which predicted it, went through."""
    logits_V: Tensor | None = None
    """What it was chosen from, if the request keeps logits."""


class FinishedEvent(NamedTuple):
    """A request is over."""

    request_id: int
    """Which."""
    reason: FinishReason
    """stop: a stop token; length: max_new_tokens; cancelled: by the caller."""
    tokens: tuple[int, ...]
    """All that was generated, without the prompt and the stop token."""


Event = TokenEvent | FinishedEvent


class RequestError(UserError):
    """Something that the engine cannot do; the message says what was found, what is expected and what to change."""


def draw_settings(sampling: Sampling) -> tuple[float, float, float]:
    """Temperature, top-p and top-k of a draw. The most likely token is what is drawn among one."""
    if sampling.temperature == 0:
        return 1.0, 1.0, 1.0
    return sampling.temperature, sampling.top_p, float(sampling.top_k or np.inf)


def starts_of_draws(seeds: Sequence[int]) -> np.ndarray:
    """What `uniforms` needs to know of seeds, which are any whole numbers."""
    return _mixed(np.array([seed & _MASK for seed in seeds], np.uint64))


def uniforms(starts_B: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
    """Pseudo-random numbers in [0, 1), each for one position of one seed: SplitMix64 (Steele et al. 2014), applied
    twice. Starts are `starts_of_draws`."""
    bits_B = _mixed(starts_B + (positions_B.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))
    return (bits_B >> np.uint64(11)) / float(1 << 53)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Of unsigned 64-bit integers, which wrap around."""
    bits = bits + np.uint64(_GOLDEN)
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))
