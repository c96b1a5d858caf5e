"""Where a trained cell spends its recursions: the depth of every token of a text, and what it goes with.

The paper reads in such colours that depth follows how hard the next token is to predict (section 5.2, Table 17).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F

from mor_core.config.model import CausalRule, ExpertChoice, TokenChoice
from mor_core.data.prepare import open_tokens
from mor_core.errors import UserError
from mor_core.inference.stages import Trace, trace
from orchestrator.inference.trained_cell import TrainedCell

TokenClass = Literal[
    "end of text", "space", "number", "opening", "punctuation", "word start", "word continuation", "bytes"
]

HISTOGRAM_BINS = 40
POSITION_BINS = 16
UNDECODED = "\ufffd"


class NoText(UserError):
    """A text without tokens."""


@dataclass(frozen=True, kw_only=True)
class SeenToken:
    """One token and how it was computed."""

    text: str
    """What it stands for."""
    position: int
    """In its window of at most the context length."""
    token_class: TokenClass
    """What kind of text it is."""
    depth: int
    """Recursions that it went through."""
    probabilities: tuple[float, ...]
    """Expert choice: the sigmoid of the logit that decided, at each recursion that judged it. Token choice: of each
    depth, in the router's activation. Empty without routing."""
    next_loss: float | None
    """Cross-entropy of the token after it, nats; None for the last."""


def seen_text(cell: TrainedCell, text: str, rule: CausalRule = "threshold") -> list[SeenToken]:
    """The tokens of a text, in windows of the context length that each start afresh. Raises NoText for an empty one."""
    tokens = cell.tokenizer.encode(text).ids
    if not tokens:
        raise NoText("the text is empty: expected at least one character")
    return list(_seen(cell, [tokens[i : i + _window(cell)] for i in range(0, len(tokens), _window(cell))], rule))


def seen_validation(
    cell: TrainedCell,
    sequences: int,
    rule: CausalRule = "threshold",
    report: Callable[[str], None] = lambda _: None,
) -> list[SeenToken]:
    """The tokens of validation sequences of the whole context."""
    seen: list[SeenToken] = []
    for i, batch in enumerate(open_tokens(cell.data).valid_batches(sequences, _window(cell), 8)):
        report(f"validation sequence {8 * i} of {sequences}")
        seen += _seen(cell, batch[:, :-1].tolist(), rule)
    return seen


def _window(cell: TrainedCell) -> int:
    return cell.cell.model.context_length


@torch.inference_mode()
def _seen(cell: TrainedCell, windows: Sequence[Sequence[int]], rule: CausalRule) -> Iterator[SeenToken]:
    for tokens in windows:
        traced = trace(cell.model, [tokens], rule)[0]
        targets_T = torch.tensor(tokens[1:], dtype=torch.int64, device=traced.logits_TV.device)
        losses: list[float | None] = F.cross_entropy(
            traced.logits_TV[:-1].float(), targets_T, reduction="none"
        ).tolist()
        # Byte-level tokens may hold part of a character, which has no text of its own.
        pieces = [cell.tokenizer.decode([token], skip_special_tokens=False) for token in tokens]
        before = ""
        for i, (token, piece, loss) in enumerate(zip(tokens, pieces, [*losses, None], strict=True)):
            yield SeenToken(
                text=piece,
                position=i,
                token_class="end of text" if token == cell.end_of_text else token_class(piece, before),
                depth=_depth(cell, traced, i),
                probabilities=_probabilities(cell, traced.scores[i]),
                next_loss=loss,
            )
            before = piece


def _depth(cell: TrainedCell, traced: Trace, i: int) -> int:
    recursion = cell.cell.model.recursion
    return traced.depth[i] if recursion.sharing.endswith("cycle") else recursion.count


def _probabilities(cell: TrainedCell, scores: tuple[float, ...]) -> tuple[float, ...]:
    match cell.cell.model.routing:
        case ExpertChoice():
            return tuple(torch.tensor(scores).sigmoid().tolist())
        case TokenChoice():
            return scores
        case None:
            return ()


def token_class(piece: str, before: str) -> TokenClass:
    """What kind of text a token is, given the piece of text before it."""
    word = piece.strip()
    if UNDECODED in piece:
        return "bytes"
    if not word:
        return "space"
    if word.isdigit():
        return "number"
    if not re.search(r"\w", word):
        return "opening" if set(word) <= set("([{<\"'`“‘«") else "punctuation"
    continues = not piece[0].isspace() and bool(re.search(r"\w$", before))
    return "word continuation" if continues else "word start"


def frame_of(seen: Sequence[SeenToken]) -> pl.DataFrame:
    """One row a token."""
    return pl.DataFrame(
        {
            "position": [token.position for token in seen],
            "token_class": [token.token_class for token in seen],
            "depth": [token.depth for token in seen],
            "next_loss": [token.next_loss for token in seen],
        },
        schema={"position": pl.Int64, "token_class": pl.Utf8, "depth": pl.Int64, "next_loss": pl.Float64},
    )


def by_class(frame: pl.DataFrame) -> pl.DataFrame:
    """Tokens, mean depth and the mean loss of the token after, for each class; the deepest first."""
    return _means(frame, "token_class").sort("mean_depth", "token_class", descending=[True, False])


def by_depth(frame: pl.DataFrame) -> pl.DataFrame:
    """Tokens and the mean loss of the token after, for each depth."""
    return _means(frame, "depth").drop("mean_depth").sort("depth")


def by_position(frame: pl.DataFrame) -> pl.DataFrame:
    """Mean depth in equal stretches of the window; `position` is a stretch's first."""
    width = max(1, -(-(int(frame["position"].to_numpy().max()) + 1) // POSITION_BINS))
    return _means(frame.with_columns(pl.col("position") // width * width), "position").sort("position")


def _means(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    return frame.group_by(key).agg(
        pl.len().alias("tokens"),
        pl.col("depth").mean().alias("mean_depth"),
        pl.col("next_loss").mean().alias("next_loss"),
    )


def histograms(seen: Sequence[SeenToken]) -> list[list[float]]:
    """For each recursion (expert choice) or depth (token choice): the share of tokens in each of 40 bins of [0, 1]."""
    count = max((len(token.probabilities) for token in seen), default=0)
    shares: list[list[float]] = []
    for index in range(count):
        values = [token.probabilities[index] for token in seen if len(token.probabilities) > index]
        shares.append((np.histogram(values, HISTOGRAM_BINS, (0.0, 1.0))[0] / len(values)).tolist())
    return shares
