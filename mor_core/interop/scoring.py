"""How likely a model finds given tokens: texts of any length in padded batches, under a causal rule.

Padding stands behind a text. Under a causal rule each token's way through the model depends on the tokens before it
alone, so padding never takes a recursion away from a token, as it does where a sequence keeps its top k: a text has
the same score in every batch, to rounding.

Shapes: B spans of a batch, T tokens of the longest, N scored tokens, D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mor_core.config.model import CausalRule, Precision
from mor_core.model.transformer import Transformer

BATCH_TOKENS = 8192
"""Tokens of one batch, padding included."""

PIECE_ENTRIES = 2**23
"""Logits that exist at once."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of text of which the last tokens are scored, each given all before it."""

    tokens: tuple[int, ...]
    """Token ids, at most one more than the model's context holds."""
    scored: int
    """How many of the last ones are scored: at least one, and never the first."""

    @property
    def length(self) -> int:
        """Tokens that the model reads: the last one is only predicted."""
        return len(self.tokens) - 1


@dataclass(frozen=True, kw_only=True)
class SpanScore:
    """What the model says of the scored tokens."""

    log_likelihood: float
    """Sum of their log-probabilities, nats."""
    is_greedy: bool
    """Whether each of them is the most likely token at its place."""

    def __add__(self, other: "SpanScore") -> "SpanScore":
        """The score of both stretches."""
        return SpanScore(
            log_likelihood=self.log_likelihood + other.log_likelihood, is_greedy=self.is_greedy and other.is_greedy
        )


NOTHING = SpanScore(log_likelihood=0.0, is_greedy=True)
"""The score of no tokens."""


def continuation_spans(context: Sequence[int], continuation: Sequence[int], context_length: int) -> list[Span]:
    """Spans that together score each token of a continuation once.

    One span, whose context loses its first tokens where both do not fit; several where the continuation alone is
    longer than the model's context, of which each but the first begins with the last token of the one before. `context`
    holds at least one token.
    """
    whole, first = [*context, *continuation], len(context)
    spans: list[Span] = []
    while first < len(whole):
        end = min(first + context_length, len(whole))
        spans.append(Span(tokens=tuple(whole[max(0, end - context_length - 1) : end]), scored=end - first))
        first = end
    return spans


def length_batches(spans: Sequence[Span], batch_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices of the spans in batches of similar lengths, the longest first.

    A batch holds at most `batch_tokens` tokens with its padding, or one span. The batches depend on the lengths and
    the order alone, so that whoever goes on with them later forms the same ones.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(spans)), key=lambda index: (-spans[index].length, index)):
        if batches and (len(batches[-1]) + 1) * spans[batches[-1][0]].length <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@torch.inference_mode()
def score_batch(
    model: Transformer, spans: Sequence[Span], rule: CausalRule = "threshold", precision: Precision = "fp32"
) -> list[SpanScore]:
    """The scores of spans that go through the model together; `precision` is that of matrix products."""
    device = model.embedding.weight.device
    longest = max(span.length for span in spans)
    padded = [[*span.tokens[:-1], *[0] * (longest - span.length)] for span in spans]
    rows = [row for row, span in enumerate(spans) for _ in range(span.scored)]
    places = [place for span in spans for place in range(span.length - span.scored, span.length)]
    targets = [token for span in spans for token in span.tokens[-span.scored :]]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        x_BTD, _ = model.encode(torch.tensor(padded, device=device), rule)
        index_2N = torch.tensor([rows, places], device=device)
        scored = _scored(x_BTD[index_2N[0], index_2N[1]], model.embedding.weight, torch.tensor(targets, device=device))
    counts = [span.scored for span in spans]
    log_likelihoods_N, greedy_N = (torch.cat(parts).cpu() for parts in zip(*scored, strict=True))
    return [
        SpanScore(log_likelihood=float(own_N.sum()), is_greedy=bool(own_greedy_N.all()))
        for own_N, own_greedy_N in zip(log_likelihoods_N.split(counts), greedy_N.split(counts), strict=True)
    ]


def _scored(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Log-probability of each target in fp64, and whether it is the most likely token, a piece at a time."""
    tokens = max(1, PIECE_ENTRIES // weight_VD.shape[0])
    for x_PD, targets_P in zip(x_ND.split(tokens), targets_N.split(tokens), strict=True):
        logits_PV = F.linear(x_PD, weight_VD)
        logits_PV = logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32))
        of_target_P = logits_PV.gather(1, targets_P.unsqueeze(1)).squeeze(1)
        yield (of_target_P - logits_PV.logsumexp(dim=1)).double(), logits_PV.argmax(dim=1) == targets_P
