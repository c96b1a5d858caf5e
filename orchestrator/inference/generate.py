"""Text from a trained cell, as it is generated."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mor_core.config.model import CausalRule
from mor_core.flops import kv_bytes_per_token
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.request import Request, Sampling, TokenEvent
from orchestrator.inference.trained_cell import TrainedCell

UNFINISHED = "\ufffd"
"""What a decoder shows for bytes that do not make a character yet."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of text that one more token completed."""

    text: str
    """It; empty while a character lacks bytes."""
    depth: int
    """Recursions that the token before it went through."""


@dataclass(kw_only=True)
class Generation:
    """Pieces of a text as they came, and how fast."""

    started: float = field(default_factory=time.perf_counter)
    """time.perf_counter() before the first."""
    pieces: list[Piece] = field(default_factory=list)
    """One a token."""
    seconds: float = 0.0
    """Until the last."""

    def of(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The same pieces, kept."""
        for piece in pieces:
            self.pieces.append(piece)
            yield piece
        self.seconds = time.perf_counter() - self.started

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def depths(self) -> list[int]:
        """Recursions, by token."""
        return [piece.depth for piece in self.pieces]

    @property
    def speed_text(self) -> str:
        """Such as "12 tokens, 340 a second, mean depth 1.52"; empty without a token."""
        count = len(self.pieces)
        if not count:
            return ""
        return f"{count} tokens, {count / self.seconds:.0f} a second, mean depth {sum(self.depths) / count:.2f}"


def whole_memory(cell: TrainedCell, sequences: int, length: int | None = None) -> int:
    """Bytes that hold the keys and values of that many sequences of `length` tokens, or the whole context, at full
    depth."""
    model = cell.model.config
    tokens = sequences * min(length or model.context_length, model.context_length)
    return round(kv_bytes_per_token(model, number_bytes(cell), model.recursion.count) * tokens)


def number_bytes(cell: TrainedCell) -> int:
    """Bytes of one number in keys and values: those of the weights."""
    return cell.model.embedding.weight.element_size()


def generate_text(
    cell: TrainedCell,
    prompt: str,
    sampling: Sampling,
    max_new_tokens: int | None = None,
    rule: CausalRule = "threshold",
    max_depth: int | None = None,
) -> Iterator[Piece]:
    """Go on with a prompt until a document ends, the context is full or `max_new_tokens` are there.

    An empty prompt starts a document. Raises RequestError for a prompt that fills the context.
    """
    prompt_ids = tuple(cell.tokenizer.encode(prompt).ids) or (cell.end_of_text,)
    room = max(1, cell.cell.model.context_length - len(prompt_ids))
    request = Request(
        prompt=prompt_ids,
        max_new_tokens=room if max_new_tokens is None else max_new_tokens,
        sampling=sampling,
        stop_tokens=frozenset({cell.end_of_text}),
    )
    options = EngineOptions(kv_bytes=whole_memory(cell, 1), max_batch=1, rule=rule, max_depth=max_depth)
    generated: list[int] = []
    shown = ""
    for event in Engine(cell.model, options).run([request]):
        if isinstance(event, TokenEvent):
            generated.append(event.token)
            text = cell.tokenizer.decode(generated, skip_special_tokens=False).rstrip(UNFINISHED)
            yield Piece(text=text[len(shown) :], depth=event.depth)
            shown = text
