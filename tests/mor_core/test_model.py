"""Invariants of the model family: causality, tying, routing as the paper states it, losses that do not drift."""

import itertools

import pytest
import torch
from torch import Tensor

from mor_core.config import ModelConfig, Recursion, Routing, TrainConfig
from mor_core.model.router import select_above, select_top_k
from mor_core.model.transformer import Transformer, build_model
from mor_core.sizes import SIZES, model_config
from mor_core.training.loop import token_loss, train_steps
from mor_core.training.optim import build_optimizer

ARMS = {
    "vanilla": (Recursion(), None),
    "recursive-2": (Recursion(count=2), None),
    "mor-2": (Recursion(count=2), Routing()),
    "mor-3": (Recursion(count=3), Routing()),
}


def arm(name: str, vocab_size: int = 64, context_length: int = 24) -> ModelConfig:
    recursion, routing = ARMS[name]
    return model_config(
        SIZES["35k"], vocab_size=vocab_size, context_length=context_length, recursion=recursion, routing=routing
    )


def spread_router(model: Transformer, scale: float = 30.0) -> None:
    """Give fresh routers scores that differ clearly, and thresholds in the middle of them."""
    if model.config.routing:
        for router in model.routers:
            router.score.weight.data *= scale


def influence(model: Transformer, rule: str, position: int) -> Tensor:
    """For each token: how strongly its embedding moves the logits at `position`, [T]."""
    torch.manual_seed(3)
    tokens_BT = torch.randint(0, model.config.vocab_size, (2, model.config.context_length))
    embedded = model.embedding(tokens_BT).detach().requires_grad_()
    handle = model.embedding.register_forward_hook(lambda *_: embedded)
    model(tokens_BT, rule).logits_BTV[:, position].square().sum().backward()
    handle.remove()
    assert embedded.grad is not None
    return embedded.grad.abs().sum(dim=(0, 2))


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("position", [0, 7, 23])
def test_no_later_token_influences_a_position_under_causal_routing(name: str, position: int):
    model = build_model(arm(name), seed=1).double()
    spread_router(model)
    moved_T = influence(model, "threshold", position)
    assert (moved_T[: position + 1] > 0).any()
    assert (moved_T[position + 1 :] == 0).all()


def test_changing_a_later_token_changes_what_top_k_selects_earlier_which_is_why_it_cannot_generate():
    model = build_model(arm("mor-2"), seed=1).double()
    spread_router(model)
    generator = torch.Generator().manual_seed(0)
    changed = 0
    for _ in range(20):
        tokens_BT = torch.randint(0, 64, (1, 24), generator=generator)
        other_BT = tokens_BT.clone()
        other_BT[:, 12:] = torch.randint(0, 64, (1, 12), generator=generator)
        top_k = [model(t, "top-k").logits_BTV[:, :12] for t in (tokens_BT, other_BT)]
        causal = [model(t, "threshold").logits_BTV[:, :12] for t in (tokens_BT, other_BT)]
        assert torch.allclose(*causal, atol=1e-12)
        changed += not torch.allclose(*top_k, atol=1e-6)
    assert changed > 0


def test_the_vanilla_member_is_a_plain_llama_in_which_every_layer_owns_its_weights():
    assert build_model(arm("vanilla"), seed=0).config.layer_map == tuple(range(8))


@pytest.mark.parametrize("name", ["recursive-2", "mor-2", "mor-3"])
def test_a_shared_layer_is_one_module_at_every_depth(name: str):
    model = build_model(arm(name), seed=0)
    calls = dict.fromkeys(range(len(model.layers)), 0)
    for index, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    model(torch.zeros(1, 24, dtype=torch.long))
    assert calls == {index: model.config.layer_map.count(index) for index in calls}


def test_routing_keeps_k_tokens_of_those_that_reached_the_recursion_in_ascending_order():
    model = build_model(arm("mor-3"), seed=0)
    spread_router(model)
    selections = model(torch.randint(0, 64, (4, 24))).selections
    assert [selection.positions_BK.shape[1] for selection in selections] == [24, 16, 8]
    for outer, inner in itertools.pairwise(selections):
        assert (inner.positions_BK.diff(dim=1) > 0).all()
        for outer_K, inner_K in zip(outer.positions_BK, inner.positions_BK, strict=True):
            assert set(inner_K.tolist()) <= set(outer_K.tolist())


def test_top_k_takes_the_highest_scores_and_reports_the_lowest_it_took():
    logits_BJ = torch.tensor([[0.1, 2.0, -1.0, 3.0, 0.5]])
    positions_BJ = torch.tensor([[2, 5, 7, 11, 13]])
    selection = select_top_k(logits_BJ, positions_BJ, 3)
    assert selection.positions_BK.tolist() == [[5, 11, 13]]
    assert selection.logits_BK.tolist() == [[2.0, 3.0, 0.5]]
    assert selection.cutoff_B is not None
    assert selection.cutoff_B.tolist() == [0.5]
    target = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0]])
    expected = torch.nn.functional.binary_cross_entropy(logits_BJ.sigmoid(), target)
    assert torch.allclose(selection.aux_loss, expected)


def test_above_a_threshold_sequences_keep_different_numbers_and_padding_is_marked():
    logits_BJ = torch.tensor([[1.0, -1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, 1.0]])
    positions_BJ = torch.arange(4).expand(2, 4)
    selection = select_above(logits_BJ, positions_BJ, None, torch.tensor(0.0))
    assert selection.valid_BK is not None
    assert selection.positions_BK[0].tolist() == [0, 2, 3]
    assert selection.valid_BK.tolist() == [[True, True, True], [True, False, False]]
    assert selection.positions_BK[1, 0] == 3


def test_at_the_top_k_cut_off_of_one_sequence_the_threshold_rule_computes_the_same_logits():
    """Packing, padding and scattering are right if both rules agree wherever they select the same tokens."""
    model = build_model(arm("mor-3"), seed=2).double()
    spread_router(model)
    tokens_BT = torch.randint(0, 64, (1, 24), generator=torch.Generator().manual_seed(5))
    expected = model(tokens_BT, "top-k")
    cutoffs = [s.cutoff_B.item() for s in expected.selections if s.cutoff_B is not None]
    model.threshold_R.copy_(torch.tensor([0.0, *cutoffs], dtype=torch.float64))
    assert torch.allclose(model(tokens_BT, "threshold").logits_BTV, expected.logits_BTV, atol=1e-10)


def test_a_sequence_computes_the_same_alone_and_in_a_batch_of_others_under_causal_routing():
    model = build_model(arm("mor-3"), seed=2).double()
    spread_router(model)
    tokens_BT = torch.randint(0, 64, (6, 24), generator=torch.Generator().manual_seed(6))
    together = model(tokens_BT, "threshold").logits_BTV
    alone = torch.cat([model(tokens_T[None], "threshold").logits_BTV for tokens_T in tokens_BT])
    assert torch.allclose(together, alone, atol=1e-10)


def test_an_unselected_token_keeps_its_state_and_a_selected_one_is_gated():
    """Equation 2.1 with a gate of almost 0 changes nothing; the block's whole output is what is gated."""
    config = arm("mor-2")
    model = build_model(config, seed=0).double()
    x_BTD = torch.randn(2, 24, config.d_model, dtype=torch.float64)
    selection = select_top_k(torch.full((2, 24), -1e6, dtype=torch.float64), torch.arange(24).expand(2, 24), 12)
    assert torch.equal(model._recur(x_BTD, selection), x_BTD)
    selection = select_top_k(torch.full((2, 24), 1e6, dtype=torch.float64), torch.arange(24).expand(2, 24), 24)
    y_BTD = x_BTD
    for layer in model.layers[1:4]:
        y_BTD = layer(y_BTD, model._rotary_prefix(24))
    assert torch.allclose(model._recur(x_BTD, selection), x_BTD + 0.1 * y_BTD)


def test_the_threshold_is_a_mean_at_first_and_an_exponential_mean_later():
    config = arm("mor-2")
    model = build_model(config, seed=0)
    for value in (1.0, 2.0, 6.0):
        model.update_thresholds(torch.tensor([0.0, value]))
    assert float(model.threshold_R[1]) == pytest.approx(3.0)
    model.threshold_updates.fill_(10_000)
    model.update_thresholds(torch.tensor([0.0, 103.0]))
    assert float(model.threshold_R[1]) == pytest.approx(4.0)


def test_weights_are_a_function_of_the_seed_alone():
    first, again, other = (build_model(arm("mor-2"), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_fresh_weights_predict_almost_uniformly():
    model = build_model(arm("mor-2", vocab_size=512), seed=0)
    tokens_BT = torch.randint(0, 512, (4, 25))
    loss = token_loss(model(tokens_BT[:, :-1]), tokens_BT[:, 1:]).mean()
    assert loss.item() == pytest.approx(torch.tensor(512.0).log().item(), abs=0.15)


def test_a_sequence_longer_than_the_context_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="25 tokens: the model's context is 24"):
        build_model(arm("vanilla"), seed=0)(torch.zeros(1, 25, dtype=torch.long))


GOLDEN = {
    "vanilla": 4.196945238,
    "recursive-2": 4.172048430,
    "mor-2": 4.190241899,
    "mor-3": 4.175365904,
}


@pytest.mark.parametrize("name", ARMS)
def test_the_loss_after_five_steps_is_the_recorded_one_or_numerics_version_must_be_raised(name: str):
    """In fp64, where kernels of different machines agree far below the tolerance."""
    model = build_model(arm(name), seed=0).double()
    config = TrainConfig(batch_size=4, peak_learning_rate=0.01, warmup_steps=2)
    generator = torch.Generator().manual_seed(0)
    batches = torch.randint(0, 64, (6, 4, 25), generator=generator).numpy()
    steps = train_steps(
        model, build_optimizer(model, config), config, batches.__getitem__, start_step=0, stop_step=6, cooldown=(4, 6)
    )
    loss = [metrics.to_floats()["loss"] for metrics in steps][-1]
    message = "the losses of a given configuration changed: raise NUMERICS_VERSION in mor_core/config.py"
    assert loss == pytest.approx(GOLDEN[name], abs=1e-6), message
