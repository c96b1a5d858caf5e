"""What is asked of an engine, and what it tells."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from mor_core.inference.sampling import Sampling

FinishReason = Literal["stop", "length", "cancelled"]


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
    keep_logits: bool = False
    """Whether events carry the logits that tokens were chosen from."""


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


@dataclass(frozen=True, kw_only=True)
class FinishedEvent:
    """A request is over."""

    request_id: int
    """Which."""
    reason: FinishReason
    """stop: a stop token; length: max_new_tokens; cancelled: by the caller."""
    tokens: tuple[int, ...]
    """All that was generated, without the prompt and the stop token."""


Event = TokenEvent | FinishedEvent
