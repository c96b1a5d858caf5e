"""Whatever is computed piece by piece at inference is what the full forward pass computes under causal routing."""

import pytest
import torch
from torch import Tensor

from mor_core.inference.stages import trace
from mor_core.model.transformer import Transformer, build_model
from tests.helpers.models.variants import EXPERT, ROUTED, VARIANTS, spread_routers, variant


def rules(name: str) -> tuple[str, ...]:
    return ("threshold", "half") if name in EXPERT else ("threshold",)


def model_of(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Transformer:
    """A model whose tokens go to every depth: about half of those that reach a recursion go on."""
    model = spread_routers(build_model(variant(name), seed).to(dtype)).eval()
    if name in EXPERT:
        model.threshold_R.fill_(-torch.inf)
        scores = [each for text in trace(model, random_tokens(9, 8, 24).tolist()) for each in text.scores]
        model.threshold_R.copy_(torch.tensor(scores).median(dim=0).values)
    if name == "token-loss-free":
        model.selection_bias_R *= 0.01
    return model


def random_tokens(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_prompt_gives_the_logits_and_depths_of_the_full_forward_pass(name: str):
    model = model_of(name)
    tokens_BT = random_tokens(1, 3, 24)
    for rule in rules(name):
        output = model(tokens_BT, rule)
        traces = trace(model, [row[: 24 - i].tolist() for i, row in enumerate(tokens_BT)], rule)
        for i, each in enumerate(traces):
            assert torch.allclose(each.logits_TV, output.logits_BTV[i, : 24 - i], atol=1e-10)
        if name in ROUTED:
            depth_T = torch.zeros(24, dtype=torch.int64)
            for selection in output.routed.selections:
                valid = slice(None) if selection.valid_BK is None else selection.valid_BK[0]
                depth_T[selection.positions_BK[0][valid]] += 1
            assert list(traces[0].depth) == depth_T.tolist()
            assert len(set(depth_T.tolist())) > 1
