"""Any schedule gives each request what the whole forward pass, asked token by token, gives it alone."""

from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mor_core.flops import kv_bytes_per_token
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.request import Event, FinishedEvent, Request
from mor_core.model.transformer import Transformer
from tests.mor_core.inference.test_causal_routing import model_of

CONTEXT = 24
model = cache(model_of)

prompts = st.lists(st.integers(0, 63), min_size=1, max_size=8).map(tuple)
"""Few, so that the reference is computed once for many examples."""


@cache
def greedy(name: str, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The most likely tokens after a prompt: the whole text goes through the model for each of them."""
    text = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            text.append(int(_forward(model(name), text)[-1].argmax()))
    return tuple(text[len(prompt) :])


def _forward(transformer: Transformer, text: list[int]) -> torch.Tensor:
    return transformer(torch.tensor([text]), "threshold").logits_BTV[0]


requests = st.lists(st.tuples(prompts, st.integers(1, 6), st.integers(0, 3), st.booleans()), min_size=1, max_size=7)
"""Prompt, tokens to generate, steps until the next request comes, and whether this one is cancelled then."""


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["vanilla", "mor-3", "mor-shared-kv", "mor-hybrid-kv", "token-3"]),
    asked=requests,
    places=st.integers(1, 4),
    in_flight=st.integers(1, 3),
    contexts=st.floats(1.0, 4.0),
    ahead=st.integers(0, 1),
)
def test_any_schedule_gives_each_request_what_it_is_given_alone(
    name: str, asked: list, places: int, in_flight: int, contexts: float, ahead: int
):
    config = model(name).config
    memory = int(contexts * CONTEXT * kv_bytes_per_token(config, 8, config.recursion.count) * 1.7)
    options = EngineOptions(kv_bytes=memory, max_batch=places, max_sequences=places * in_flight)
    engine = Engine(model(name), options)
    engine._ahead = ahead
    events: list[Event] = []
    for prompt, count, steps, is_cancelled in asked:
        number = engine.submit(Request(prompt=prompt, max_new_tokens=count, stream=False))
        for _ in range(steps):
            events += engine.step()
        if is_cancelled and (cancelled := engine.cancel(number)) is not None:
            events.append(cancelled)
    while engine.num_unfinished:
        events += engine.step()
    ended = {event.request_id: event for event in events if isinstance(event, FinishedEvent)}
    assert len(ended) == len(events) == len(asked)
    for number, (prompt, count, *_) in enumerate(asked, 1):
        expected = greedy(name, prompt, count)
        text = ended[number].tokens
        assert text == (expected[: len(text)] if ended[number].reason == "cancelled" else expected)
    assert engine.cache.num_free_rows == options.max_sequences
    for pool in (engine.cache.block, engine.cache.unshared):
        assert pool.num_free == pool.num_slots
