"""Scores of given tokens: those of the full forward pass, whatever else is in the batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mor_core.interop.scoring import Span, continuation_spans, length_batches, score_batch
from mor_core.model.transformer import Transformer
from tests.helpers.models.variants import EXPERT, family
from tests.mor_core.inference.test_causal_routing import model_of, random_tokens, rules

LENGTHS = (25, 2, 7, 13, 20, 3)


def spans_of(seed: int = 1) -> list[Span]:
    """Spans of many lengths; the tokens of one are no prefix of another's."""
    texts = random_tokens(seed, len(LENGTHS), 25).tolist()
    return [
        Span(tokens=tuple(text[:length]), scored=max(1, length // 2))
        for text, length in zip(texts, LENGTHS, strict=True)
    ]


def alone(model: Transformer, span: Span, rule: str) -> tuple[float, bool]:
    """Written out: log-softmax of the logits of this text and nothing else."""
    logits_TV = model(torch.tensor([span.tokens[:-1]]), rule).logits_BTV[0].detach()
    log_probabilities_TV = logits_TV.log_softmax(dim=-1)
    places = range(len(span.tokens) - 1 - span.scored, len(span.tokens) - 1)
    greedy = all(int(logits_TV[place].argmax()) == span.tokens[place + 1] for place in places)
    return sum(float(log_probabilities_TV[place, span.tokens[place + 1]]) for place in places), greedy


@pytest.mark.parametrize("name", family())
def test_padding_and_neighbours_change_no_score_under_a_causal_rule(name: str):
    model = model_of(name)
    spans = spans_of()
    for rule in rules(name):
        for order in (spans, spans[::-1], spans[2:4]):
            scores = score_batch(model, order, rule)
            for span, score in zip(order, scores, strict=True):
                expected, greedy = alone(model, span, rule)
                assert score.log_likelihood == pytest.approx(expected, abs=1e-10)
                assert score.is_greedy == greedy


def test_padding_does_compete_where_a_sequence_keeps_its_top_k():
    """What the causal rules are asked for above can fail: the paper's evaluation does."""
    model, text = model_of("mor-3"), random_tokens(3, 1, 12)
    padded = torch.cat([text, torch.zeros(1, 12, dtype=torch.int64)], dim=1)
    plain, beside_padding = model(text, "top-k").logits_BTV, model(padded, "top-k").logits_BTV[:, :12]
    assert (plain - beside_padding).abs().max() > 1e-3
    causal, padded_causal = model(text, "threshold").logits_BTV, model(padded, "threshold").logits_BTV[:, :12]
    assert (causal - padded_causal).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["vanilla", "mor-3"])
def test_what_greedy_decoding_says_is_greedy_and_nothing_else(name: str):
    model, tokens = model_of(name), [5, 9]
    for _ in range(6):
        tokens.append(int(model(torch.tensor([tokens]), "threshold").logits_BTV[0, -1].argmax()))
    other = [*tokens[:-1], (tokens[-1] + 1) % 64]
    said, changed = score_batch(
        model, [Span(tokens=tuple(tokens), scored=6), Span(tokens=tuple(other), scored=6)], "threshold"
    )
    assert said.is_greedy
    assert not changed.is_greedy
    assert said.log_likelihood > changed.log_likelihood


def test_the_rule_matters_to_expert_choice():
    model, spans = model_of(EXPERT[0]), spans_of()
    by_threshold, by_half = score_batch(model, spans, "threshold"), score_batch(model, spans, "half")
    assert any(abs(a.log_likelihood - b.log_likelihood) > 1e-6 for a, b in zip(by_threshold, by_half, strict=True))


@given(st.integers(1, 30), st.integers(0, 60), st.integers(2, 12))
def test_every_token_of_a_continuation_is_scored_once_with_as_much_before_it_as_fits(
    context: int, continuation: int, context_length: int
):
    whole = list(range(context + continuation))
    spans = continuation_spans(whole[:context], whole[context:], context_length)
    scored = [token for span in spans for token in span.tokens[len(span.tokens) - span.scored :]]
    assert scored == whole[context:]
    for span in spans:
        assert 1 <= span.length <= context_length
        assert 1 <= span.scored <= span.length
        assert list(span.tokens) == list(range(span.tokens[0], span.tokens[-1] + 1))
        assert span.length == context_length or span.tokens[0] == 0


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 200))
def test_batches_hold_every_span_once_and_no_more_tokens_than_they_may(lengths: list[int], budget: int):
    spans = [Span(tokens=(0,) * (length + 1), scored=1) for length in lengths]
    batches = length_batches(spans, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(spans)))
    for batch in batches:
        padded = len(batch) * max(spans[index].length for index in batch)
        assert padded <= budget or len(batch) == 1
    starts = [spans[batch[0]].length for batch in batches]
    assert starts == sorted(starts, reverse=True)
