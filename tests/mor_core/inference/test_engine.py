"""The engine: any batch, any order, any memory, and each request's text is its own."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mor_core.flops import RecursionWork, forward_flops, kv_bytes_per_token, planned_work
from mor_core.inference.cuda_graphs import Recorder
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.request import Event, FinishedEvent, Request, RequestError, Sampling, TokenEvent
from mor_core.model.transformer import Transformer
from tests.helpers.models.tapes import Tapes
from tests.helpers.models.variants import family, in_slow_tests
from tests.mor_core.inference.test_causal_routing import model_of, random_tokens, rules

PLENTY = 10_000_000


def requests(count: int, seed: int = 0, **settings: object) -> list[Request]:
    """Prompts of 1 to 12 tokens, 1 to 12 tokens to generate, drawn so that texts do not fall into a rut."""
    lengths = torch.randint(1, 13, (count, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    return [
        Request(
            prompt=tuple(random_tokens(100 * seed + i, prompt).tolist()),
            max_new_tokens=new,
            sampling=Sampling(temperature=1.0, seed=i),
            **settings,
        )
        for i, (prompt, new) in enumerate(lengths)
    ]


def texts(events: list[Event]) -> dict[int, tuple[int, ...]]:
    return {event.request_id: event.tokens for event in events if isinstance(event, FinishedEvent)}


def alone(model: Transformer, request: Request, **options: object) -> tuple[int, ...]:
    """What the request gives with nothing beside it."""
    events = list(Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=1, **options)).run([request]))
    return texts(events)[1]


@pytest.mark.parametrize("name", family())
def test_generated_logits_are_those_of_the_full_forward_pass(name: str):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        model = model_of(name, dtype=dtype)
        asked = requests(9, keep_logits=True)
        for rule in rules(name):
            engine = Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=3, max_sequences=5, rule=rule))
            events = list(engine.run(asked))
            for i, request in enumerate(asked, 1):
                mine = [event for event in events if isinstance(event, TokenEvent) and event.request_id == i]
                text = [*request.prompt, *(event.token for event in mine)]
                logits_TV = model(torch.tensor([text]), rule).logits_BTV[0, len(request.prompt) - 1 : -1]
                assert len(mine) == request.max_new_tokens
                generated_TV = torch.stack([event.logits_V for event in mine])
                assert torch.allclose(generated_TV, logits_TV, atol=tolerance)


@pytest.mark.parametrize("name", family())
def test_recorded_runs_give_what_runs_give_as_they_are(name: str):
    """As a GPU has it: runs of few shapes, each recorded once and repeated with other numbers in the same memory."""
    model, asked = model_of(name, dtype=torch.float64), requests(30, keep_logits=True)
    asked += [dataclasses.replace(request, sampling=Sampling()) for request in requests(8, seed=1, keep_logits=True)]
    plain, recorded = (Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=7, max_sequences=11)) for _ in range(2))
    tapes = Tapes()
    recorded.stages.recorder = Recorder(torch.device("cpu"), tapes)
    expected, found = list(plain.run(asked)), list(recorded.run(asked))
    assert texts(found) == texts(expected)
    for one, other in zip(expected, found, strict=True):
        if isinstance(one, TokenEvent):
            assert (one.request_id, one.depth) == (other.request_id, other.depth)
            assert torch.allclose(one.logits_V, other.logits_V, atol=1e-10)
    assert plain.totals == recorded.totals
    assert tapes.repetitions > 3 * tapes.recordings > 0
    # Runs of one shape are the rule, and nothing on the way asks the host.
    assert not {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"} & tapes.operations


@pytest.mark.parametrize("name", ["vanilla", "recursive-sequence-shared-kv", "mor-3", "mor-hybrid-kv", "token-3"])
def test_a_text_does_not_depend_on_what_else_is_in_the_batch(name: str):
    model = model_of(name)
    asked = requests(20)
    asked += [dataclasses.replace(request, sampling=Sampling()) for request in requests(10, seed=1)]
    engine = Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=7, max_sequences=11))
    together = texts(list(engine.run(asked)))
    assert together == {i: alone(model, request) for i, request in enumerate(asked, 1)}
    assert engine.totals.preemptions == 0


@pytest.mark.parametrize("name", ["mor-3", "mor-hybrid-kv", "token-3", *in_slow_tests("mor-2", "mor-cycle")])
def test_scarce_memory_delays_texts_and_changes_none(name: str):
    model = model_of(name)
    asked = requests(20)
    budget = int(3 * 24 * kv_bytes_per_token(model.config, 8, model.config.recursion.count))
    engine = Engine(model, EngineOptions(kv_bytes=budget, max_batch=16))
    assert engine.cache.num_bytes <= budget
    together = texts(list(engine.run(asked)))
    assert together == {i: alone(model, request) for i, request in enumerate(asked, 1)}
    assert 1 < engine.totals.peak_sequences < 16


@pytest.mark.parametrize("name", ["mor-3", "token-3", *in_slow_tests("vanilla", "mor-shared-kv", "mor-random")])
def test_asking_for_a_run_before_the_one_before_is_done_changes_no_text(name: str):
    """As a GPU has it; with memory so scarce that sequences under way give theirs back, and one that is cancelled."""
    model = model_of(name)
    if "mor" in name:
        model.threshold_R.fill_(-1e9)
    asked = [dataclasses.replace(request, max_new_tokens=12) for request in requests(24)]
    budget = int(9 * 24 * kv_bytes_per_token(model.config, 8))
    engine = Engine(model, EngineOptions(kv_bytes=budget, max_batch=3, max_sequences=16))
    engine._ahead = 1
    numbers = [engine.submit(request) for request in asked]
    events: list[Event] = []
    in_flight, cancelled = 0, None
    while engine.num_unfinished:
        events += engine.step()
        in_flight = max(in_flight, len(engine._asked))
        if len(events) >= 30 and cancelled is None:
            cancelled = engine.cancel(numbers[5])
            assert cancelled is not None
    assert in_flight == 1
    assert engine.totals.preemptions > 0 or name not in ("mor-3", "mor-random")
    assert texts(events) == {i: alone(model, asked[i - 1]) for i in numbers if i != numbers[5]}
    assert engine.cache.num_free_rows == 16
    assert engine.cache.block.num_free == engine.cache.block.num_slots


def test_a_sequence_that_goes_deeper_than_planned_gives_its_memory_back_and_starts_again():
    model = model_of("mor-3")
    model.threshold_R.fill_(-1e9)  # Every token goes all the way: half as much again as planned.
    asked = [dataclasses.replace(request, max_new_tokens=12) for request in requests(12)]
    budget = int(3 * 24 * kv_bytes_per_token(model.config, 8))
    engine = Engine(model, EngineOptions(kv_bytes=budget, max_batch=12))
    together = texts(list(engine.run(asked)))
    assert engine.totals.preemptions > 0
    assert together == {i: alone(model, request) for i, request in enumerate(asked, 1)}


@pytest.mark.parametrize("name", family())
def test_all_memory_is_free_again_when_nothing_runs(name: str):
    engine = Engine(model_of(name), EngineOptions(kv_bytes=PLENTY, max_batch=4))
    for i, request in enumerate(requests(8)):
        number = engine.submit(request)
        engine.step()
        if i % 3 == 0:
            engine.cancel(number)
    while engine.num_unfinished:
        engine.step()
    cache = engine.cache
    assert cache.block.num_free == cache.block.num_slots
    assert cache.unshared.num_free == cache.unshared.num_slots
    assert cache.num_free_rows == 4


def test_a_cancelled_request_ends_at_once_and_disturbs_no_other():
    model = model_of("mor-3")
    asked = [dataclasses.replace(request, max_new_tokens=12) for request in requests(6)]
    engine = Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=3))
    numbers = [engine.submit(request) for request in asked]
    events: list[Event] = []
    for _ in range(20):
        events += engine.step()
    running, waiting = engine.cancel(numbers[1]), engine.cancel(numbers[5])
    assert running.reason == waiting.reason == "cancelled"
    assert waiting.tokens == ()
    assert 0 < len(running.tokens) < 12
    assert engine.cancel(numbers[1]) is None
    while engine.num_unfinished:
        events += engine.step()
    kept = [1, 3, 4, 5]
    assert texts(events) == {i: alone(model, asked[i - 1]) for i in kept}
    assert running.tokens == alone(model, asked[1])[: len(running.tokens)]


def test_a_freed_place_is_taken_in_the_same_step():
    engine = Engine(model_of("mor-3"), EngineOptions(kv_bytes=PLENTY, max_batch=2))
    for request in requests(8):
        engine.submit(request)
    while engine.num_unfinished > 2:
        engine.step()
        assert len(engine._running) == 2


def test_tokens_of_different_depths_share_a_run():
    model = model_of("mor-3")
    engine = Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=8))
    seen: list[set[int]] = []
    begin_pass = engine.stages.begin_pass

    def watched(rows: np.ndarray, recursions: np.ndarray, positions: np.ndarray) -> Callable:
        seen.append(set(recursions.tolist()))
        return begin_pass(rows, recursions, positions)

    engine.stages.begin_pass = watched
    list(engine.run(requests(16)))
    assert {0, 1, 2} in seen


def test_a_text_ends_at_a_stop_token_which_is_not_part_of_it():
    model = model_of("mor-2")
    request = dataclasses.replace(requests(1)[0], max_new_tokens=12)
    whole = alone(model, request)
    stop = whole[5]
    stopped = alone(model, dataclasses.replace(request, stop_tokens=frozenset({stop})))
    assert stopped == whole[: whole.index(stop)]


@pytest.mark.parametrize("name", ["vanilla", "mor-3", "mor-shared-kv"])
def test_a_stop_token_gives_back_the_memory_that_it_took_before_it_was_seen(name: str):
    model = model_of(name)
    engine = Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=2))
    asked = [
        dataclasses.replace(each, max_new_tokens=12, stop_tokens=frozenset(range(0, 64, 3))) for each in requests(6)
    ]
    events = list(engine.run(asked))
    assert any(event.reason == "stop" for event in events if isinstance(event, FinishedEvent))
    assert engine.cache.unshared.num_free == engine.cache.unshared.num_slots
    assert engine.cache.block.num_free == engine.cache.block.num_slots


def test_a_lower_depth_is_what_no_token_exceeds_and_costs_less():
    model = model_of("mor-3")
    engines = [Engine(model, EngineOptions(kv_bytes=PLENTY, max_depth=depth)) for depth in (1, 2, 3)]
    for depth, engine in enumerate(engines, 1):
        events = list(engine.run(requests(6)))
        assert max(event.depth for event in events if isinstance(event, TokenEvent)) <= depth
    assert engines[0].totals.mean_depth == 1.0
    per_token = [engine.totals.forward_flops / engine.totals.computed_tokens for engine in engines]
    assert per_token[0] < per_token[1] < per_token[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": ()}, "prompt of 0 tokens"),
        ({"max_new_tokens": 0}, "0 to generate"),
        ({"prompt": (1, 64)}, "vocabulary of 64"),
        ({"max_new_tokens": 24}, "context is 24"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_a_reason(change: dict, said: str):
    engine = Engine(model_of("vanilla"), EngineOptions(kv_bytes=PLENTY))
    with pytest.raises(RequestError, match=said):
        engine.submit(dataclasses.replace(Request(prompt=(1,), max_new_tokens=2), **change))


def test_a_request_larger_than_all_memory_is_refused():
    engine = Engine(model_of("mor-3"), EngineOptions(kv_bytes=4096))
    with pytest.raises(RequestError, match="budget of 4096"):
        engine.submit(Request(prompt=(1,), max_new_tokens=23))


@pytest.mark.parametrize("name", family())
def test_keys_and_values_take_the_memory_that_is_predicted(name: str):
    model = model_of(name)
    engine = Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=1))
    engine.submit(Request(prompt=tuple(random_tokens(3, 12).tolist()), max_new_tokens=12, sampling=Sampling(seed=1)))
    cache = engine.cache
    used = 0
    while engine.num_unfinished:
        pools = (cache.unshared, cache.block)
        slots = [pool.num_slots - pool.num_free for pool in pools]
        used = max(
            used, sum(n * pool.num_bytes // max(1, pool.num_slots) for n, pool in zip(slots, pools, strict=True))
        )
        engine.step()
    tokens = engine.totals.computed_tokens
    assert tokens == 23
    assert used <= tokens * kv_bytes_per_token(model.config, 8, engine.totals.mean_depth) + 1e-6
    # The last token's slots are given back in the step that takes the last of them.
    assert used >= (tokens - 1) * kv_bytes_per_token(model.config, 8, 1.0) - 1e-6


@pytest.mark.parametrize("name", ["vanilla", "recursive-2", "recursive-sequence", "mor-3", "mor-shared-kv", "token-3"])
def test_flops_are_those_of_the_recursions_that_tokens_went_through(name: str):
    model = model_of(name)
    engine = Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=1))
    events = list(engine.run([Request(prompt=(5,), max_new_tokens=20, sampling=Sampling(temperature=1.0))]))
    text = [5, *(event.token for event in events if isinstance(event, TokenEvent))][:-1]
    routed = model(torch.tensor([text]), "threshold").routed
    work = list(planned_work(model.config, 20, [20] * model.config.recursion.count))
    for i, selection in enumerate(routed.selections if routed else ()):
        valid = slice(None) if selection.valid_BK is None else selection.valid_BK[0]
        positions = selection.positions_BK[0][valid]
        n = len(positions)
        whole_prefix = i > 0 and model.config.recursion.kv == "shared"
        pairs = int((positions + 1).sum()) if whole_prefix else n * (n + 1) // 2
        work[i] = RecursionWork(tokens=n, pairs=pairs)
    assert engine.totals.forward_flops == float(forward_flops(model.config, 20, work))


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_router_logits_that_are_no_numbers_keep_depths_within_the_model(weight: float):
    model = model_of("mor-3")
    with torch.no_grad():
        for router in model.routers:
            router.score.weight.fill_(weight)
    asked = [dataclasses.replace(each, sampling=Sampling()) for each in requests(4)]
    events = list(Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=2)).run(asked))
    depths = {event.depth for event in events if isinstance(event, TokenEvent)}
    assert depths <= set(range(1, model.config.recursion.count + 1))
    assert [len(text) for _, text in sorted(texts(events).items())] == [each.max_new_tokens for each in asked]
