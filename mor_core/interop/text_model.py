"""A model that is asked in text: how likely continuations and whole texts are, and what comes after a prompt.

Texts become tokens as in lm-eval's harness 0.4 (`TemplateLM._encode_pair`), so that scores compare with published
ones: context and continuation are encoded together and cut where the context alone ends, spaces at the end of a context
belong to the continuation, and an empty context is the end of a document.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mor_core.config.model import CausalRule, Precision
from mor_core.flops import kv_bytes_per_token
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.request import FinishedEvent, Request, Sampling, TokenEvent
from mor_core.inference.stages import inference_model
from mor_core.interop.scoring import NOTHING, Span, SpanScore, continuation_spans, length_batches, score_batch
from mor_core.model.transformer import Transformer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Pair = tuple[str, str]
"""(context, continuation)."""

GENERATED_AT_ONCE = 32
"""Texts that share the engine's batches."""


@dataclass(frozen=True, kw_only=True)
class SpansOfPair:
    """A pair in tokens."""

    spans: tuple[Span, ...]
    """That score its continuation; none where that is empty."""
    is_cut: bool
    """Whether the model's context was too short for the whole pair."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text to go on with."""

    text: str
    """It; a new document where it is empty."""
    stops: tuple[str, ...]
    """Texts that end the continuation and are not part of it."""
    max_new_tokens: int
    """Tokens at most."""
    sampling: Sampling
    """How they are chosen."""


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """A trained model with its tokenizer."""

    model: Transformer
    """In evaluation mode, with fp32 weights."""
    tokenizer: "Tokenizer"
    """Text to token ids and back."""
    end_of_text: int
    """The id that ends a document."""
    rule: CausalRule = "threshold"
    """How expert-choice tokens go on."""
    precision: Precision = "fp32"
    """Of matrix products where texts are scored, of weights where they are generated."""

    @property
    def context_length(self) -> int:
        """Tokens that the model reads at once."""
        return self.model.config.context_length

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def spans_of(self, pairs: Sequence[Pair]) -> list[SpansOfPair]:
        """What is to be scored for each pair."""
        moved = [_spaces_moved(*pair) for pair in pairs]
        wholes = self.encode([context + continuation for context, continuation in moved])
        contexts = self.encode([context for context, _ in moved])
        return [
            self._spans(context, whole[len(context) :], text)
            for context, whole, (_, text) in zip(contexts, wholes, moved, strict=True)
        ]

    def _spans(self, context: list[int], continuation: list[int], text: str) -> SpansOfPair:
        if text and not continuation:
            # Together they have no more tokens than the context alone, where the harness gives up.
            continuation = self.encode([text])[0]
        if not context:
            # A continuation that starts with the end of a document is its own context.
            first = 1 if continuation[:1] == [self.end_of_text] else 0
            context, continuation = [self.end_of_text], continuation[first:]
        spans = continuation_spans(context, continuation, self.context_length)
        return SpansOfPair(spans=tuple(spans), is_cut=len(context) + len(continuation) > self.context_length + 1)

    def log_likelihoods(self, pairs: Sequence[Pair]) -> list[SpanScore]:
        """Of each continuation, given its context."""
        return self._scores([pair_spans.spans for pair_spans in self.spans_of(pairs)])

    def rolling_log_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """Of each whole text from the start of a document, in windows of the model's context."""
        spans = [
            tuple(continuation_spans([self.end_of_text], tokens, self.context_length)) for tokens in self.encode(texts)
        ]
        return [score.log_likelihood for score in self._scores(spans)]

    def _scores(self, spans_of: Sequence[Sequence[Span]]) -> list[SpanScore]:
        """The sum of each owner's spans."""
        spans = [span for owner_spans in spans_of for span in owner_spans]
        owners = [owner for owner, owner_spans in enumerate(spans_of) for _ in owner_spans]
        scores = [NOTHING] * len(spans_of)
        for batch in length_batches(spans):
            batch_scores = score_batch(self.model, [spans[i] for i in batch], self.rule, self.precision)
            for index, score in zip(batch, batch_scores, strict=True):
                scores[owners[index]] += score
        return scores

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        """What comes after each prompt, up to the first of its stops, the end of a document or its most tokens.

        Where the model's context is too short for both, prompts lose their first tokens, and at least half of the
        context is left for new ones. Raises RequestError for settings that cannot be.
        """
        config = self.model.config
        model = inference_model(self.model, self.precision)
        per_token = kv_bytes_per_token(config, model.embedding.weight.element_size(), config.recursion.count)
        engine = Engine(
            model,
            EngineOptions(
                kv_bytes=round(per_token * config.context_length * GENERATED_AT_ONCE),
                max_batch=GENERATED_AT_ONCE,
                rule=self.rule,
            ),
        )
        for prompt, ids in zip(prompts, self.encode([prompt.text for prompt in prompts]), strict=True):
            tokens = ids or [self.end_of_text]
            room = min(prompt.max_new_tokens, max(self.context_length - len(tokens), self.context_length // 2))
            engine.submit(
                Request(
                    prompt=tuple(tokens[-(self.context_length - room) :]),
                    max_new_tokens=room,
                    sampling=prompt.sampling,
                    stop_tokens=frozenset({self.end_of_text}),
                )
            )
        texts = dict(self._texts(engine, [prompt.stops for prompt in prompts]))
        return [texts[number] for number in range(len(prompts))]

    def _texts(self, engine: Engine, stops: Sequence[Sequence[str]]) -> Iterator[tuple[int, str]]:
        """(number of the prompt, its continuation), as they end. A text ends where one of its stops is there."""
        tokens: dict[int, list[int]] = defaultdict(list)
        while engine.num_unfinished:
            for event in engine.step():
                number = event.request_id - 1
                if isinstance(event, TokenEvent):
                    tokens[number].append(event.token)
                text = self._decoded(tokens[number])
                kept = cut_at(text, stops[number])
                if isinstance(event, FinishedEvent) or (kept != text and engine.cancel(event.request_id)):
                    yield number, kept

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops, all of it where there is none."""
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _spaces_moved(context: str, continuation: str) -> Pair:
    """Spaces at the end of a context belong to the first word of the continuation, as most tokenizers have it."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation
