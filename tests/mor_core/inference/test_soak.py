"""Many requests, arriving and leaving at random: nothing is lost, nothing leaks, and no text is another's."""

import random
import resource
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from mor_core.config.model import ExpertChoice, TokenChoice
from mor_core.flops import kv_bytes_per_token
from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.request import FinishedEvent, Request, Sampling
from mor_core.inference.stages import trace
from mor_core.model.transformer import Transformer
from tests.mor_core.inference.test_causal_routing import model_of, random_tokens
from tests.mor_core.inference.test_engine import PLENTY

REQUESTS = 2000


def resident_bytes() -> int:
    """Memory of this process now."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    pytest.skip("how much memory a process has now is read from /proc")


def random_request(generator: random.Random, number: int) -> Request:
    prompt = tuple(generator.randrange(64) for _ in range(generator.randint(1, 12)))
    sampling = Sampling(
        temperature=generator.choice([0.0, 0.7, 1.3]),
        top_k=generator.choice([None, 5]),
        top_p=generator.choice([1.0, 0.9]),
        seed=number,
    )
    stop = frozenset({generator.randrange(64)}) if generator.random() < 0.3 else frozenset()
    return Request(prompt=prompt, max_new_tokens=generator.randint(1, 12), sampling=sampling, stop_tokens=stop)


@dataclass(kw_only=True)
class Soak:
    """What came of the requests."""

    asked: dict[int, Request] = field(default_factory=dict)
    streamed: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    finished: dict[int, FinishedEvent] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)
    """Resident bytes by how many requests were over; the last look at each number."""


class Optimist(Engine):
    """Expects one pass of every token, and so takes on more than fits: sequences often have to start again."""

    def _expected_passes(self) -> float:
        return 1.0


def deep(model: Transformer) -> Transformer:
    """Let more tokens go on than is planned for: memory then runs out on the way."""
    if isinstance(model.config.routing, TokenChoice):
        # Nobody stops at the first of three recursions.
        with torch.no_grad():
            weight_RD = model.routers[0].score.weight
            weight_RD[0].zero_()
            weight_RD[1] = -weight_RD[2]
    if isinstance(model.config.routing, ExpertChoice):
        model.threshold_R.fill_(-torch.inf)
        scores = [each for text in trace(model, random_tokens(9, 8, 24).tolist()) for each in text.scores]
        model.threshold_R.copy_(torch.tensor(scores, dtype=model.threshold_R.dtype).quantile(0.1, dim=0))
    return model


def soak(model: Transformer, budget: int) -> Soak:
    generator = random.Random(0)
    engine = Optimist(model, EngineOptions(kv_bytes=budget, max_batch=8, max_sequences=24))
    result = Soak()
    while len(result.finished) < REQUESTS:
        for _ in range(generator.choice([0, 0, 0, 1, 2])):
            if len(result.asked) < REQUESTS:
                request = random_request(generator, len(result.asked))
                result.asked[engine.submit(request)] = request
        running = [number for number in result.asked if number not in result.finished]
        if running and generator.random() < 0.02:
            cancelled = engine.cancel(generator.choice(running))
            assert cancelled is not None
            result.finished[cancelled.request_id] = cancelled
        for event in engine.step():
            assert event.request_id not in result.finished
            if isinstance(event, FinishedEvent):
                result.finished[event.request_id] = event
            else:
                result.streamed[event.request_id].append(event.token)
        if len(result.finished) % 50 == 0:
            result.memory[len(result.finished)] = resident_bytes()
    assert engine.num_unfinished == 0
    assert engine.cache.block.num_free == engine.cache.block.num_slots
    assert engine.totals.peak_sequences < 24  # Memory was what they waited for.
    assert (engine.totals.preemptions > 0) == (engine.cache.passes > 1)
    return result


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["vanilla", "mor-3", "mor-hybrid-kv", "mor-shared-kv", "token-3"])
def test_thousands_of_requests_leave_no_memory_and_get_what_they_get_alone(name: str):
    # In fp64 no rounding can decide between two tokens, so texts are compared whole.
    model = deep(model_of(name))
    result = soak(model, budget=int(3 * 24 * kv_bytes_per_token(model.config, 8)))
    assert result.finished.keys() == result.asked.keys()
    reasons = Counter(event.reason for event in result.finished.values())
    assert min(reasons[reason] for reason in ("stop", "length", "cancelled")) > 20
    assert len(result.asked) == REQUESTS
    after_a_fifth = [held for over, held in sorted(result.memory.items()) if over >= REQUESTS // 5]
    assert len(after_a_fifth) > 20
    assert max(after_a_fifth) <= 1.02 * after_a_fifth[0]
    for number, request in result.asked.items():
        events = list(Engine(model, EngineOptions(kv_bytes=PLENTY, max_batch=1, max_sequences=1)).run([request]))
        assert isinstance(events[-1], FinishedEvent)
        text = result.finished[number].tokens
        assert tuple(result.streamed[number]) == text
        whole = result.finished[number].reason != "cancelled"
        assert text == (events[-1].tokens if whole else events[-1].tokens[: len(text)])
