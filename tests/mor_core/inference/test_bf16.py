"""Inference in bf16: the same as the whole forward pass in bf16, to bf16's own rounding."""

import pytest
import torch
from torch import Tensor

from mor_core.inference.engine import Engine, EngineOptions
from mor_core.inference.request import FinishedEvent, Request, Sampling
from mor_core.inference.stages import inference_model, trace
from tests.helpers.models.variants import VARIANTS
from tests.mor_core.inference.test_causal_routing import model_of, random_tokens, rules

TOLERANCE = 0.08
"""Of the logits' standard deviation: a number of bf16 has 8 bits, so rounding one costs up to 0.004 of it."""


def depths(output) -> Tensor:
    """Recursions that each token went through in a forward pass, [B, T]; zeros without routing."""
    if output.routed is None:
        return torch.zeros(output.logits_BTV.shape[:2], dtype=torch.int64)
    depth_BT = torch.zeros(output.logits_BTV.shape[:2], dtype=torch.int64)
    for selection in output.routed.selections:
        valid = torch.ones_like(selection.positions_BK) if selection.valid_BK is None else selection.valid_BK.long()
        depth_BT.scatter_add_(1, selection.positions_BK, valid)
    return depth_BT


@pytest.mark.parametrize("name", VARIANTS)
def test_piecewise_bf16_is_the_whole_bf16_pass_and_as_near_to_fp32(name: str):
    exact = model_of(name, dtype=torch.float32)
    model = inference_model(exact, "bf16")
    assert model.embedding.weight.dtype == torch.bfloat16
    tokens_BT = random_tokens(1, 4, 24)
    for rule in rules(name):
        with torch.inference_mode():
            whole, wanted = model(tokens_BT, rule), exact(tokens_BT, rule)
        traces = trace(model, tokens_BT.tolist(), rule)
        pieces_BTV = torch.stack([each.logits_TV for each in traces]).float()
        depth_BT = torch.tensor([each.depth for each in traces])
        routed = whole.routed is not None
        same_BT = (depth_BT == depths(whole)) & (depth_BT == depths(wanted)) if routed else torch.ones(4, 24).bool()
        # A score within rounding of its threshold may fall on either side, and then later tokens attend to others.
        clean_BT = same_BT.cummin(dim=1).values
        assert clean_BT.float().mean() > 0.5
        spread = wanted.logits_BTV[clean_BT].std()
        error = (pieces_BTV - whole.logits_BTV.float())[clean_BT].abs().max() / spread
        assert error < TOLERANCE
        ours, theirs = (
            (each - wanted.logits_BTV)[clean_BT].square().mean().sqrt()
            for each in (pieces_BTV, whole.logits_BTV.float())
        )
        assert 0 < ours < 1.5 * theirs


@pytest.mark.parametrize("name", ["vanilla", "mor-3", "token-3"])
def test_the_engine_generates_in_bf16_with_half_the_memory_for_keys(name: str):
    exact = model_of(name, dtype=torch.float32)
    prompts = random_tokens(2, 6, 8).tolist()
    requests = [
        Request(prompt=tuple(prompt), max_new_tokens=8, sampling=Sampling(temperature=1.0, seed=seed))
        for seed, prompt in enumerate(prompts)
    ]
    slots = {}
    for precision in ("fp32", "bf16"):
        engine = Engine(inference_model(exact, precision), EngineOptions(kv_bytes=200_000, max_batch=4))
        ended = [event for event in engine.run(requests) if isinstance(event, FinishedEvent)]
        assert [len(event.tokens) for event in ended] == [8] * 6
        slots[precision] = engine.cache.block.kv_LS2GC.element_size()
    assert slots == {"fp32": 4, "bf16": 2}
