"""Tying, routing as the paper states it, special cases with known answers, losses that do not drift."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mor_core.config.model import ExpertChoice, Recursion, TokenChoice
from mor_core.config.training import TrainConfig
from mor_core.model.router import (
    balancing_loss,
    random_logits,
    select_all,
    select_top_k,
    select_where,
    selection_loss,
)
from mor_core.model.transformer import Transformer, build_model
from mor_core.training.optim import build_optimizer
from tests.helpers.models.losses import training_losses
from tests.helpers.models.variants import EXPERT, ROUTED, VARIANTS, spread_routers, variant


def tokens(batch: int = 2, length: int = 24, seed: int = 5) -> Tensor:
    return torch.randint(0, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_the_vanilla_member_is_a_plain_llama_in_which_every_layer_owns_its_weights():
    assert build_model(variant("vanilla"), seed=0).config.layer_map == tuple(range(8))


@pytest.mark.parametrize("name", ["recursive-2", "recursive-sequence", "mor-2", "mor-3", "token-3", "mor-hybrid-kv"])
def test_a_shared_layer_is_one_module_at_every_depth(name: str):
    model = build_model(variant(name), seed=0)
    calls = dict.fromkeys(range(len(model.layers)), 0)
    for index, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    model(torch.zeros(1, 24, dtype=torch.long))
    assert calls == {index: model.config.layer_map.count(index) for index in calls}


@pytest.mark.parametrize("name", ["recursive-2", "recursive-cycle", "recursive-sequence", "recursive-middle-sequence"])
def test_a_recursive_model_is_the_unrolled_model_with_copied_layers(name: str):
    config = variant(name)
    model = build_model(config, seed=0).double()
    unrolled = build_model(replace(config, recursion=Recursion()), seed=1).double()
    weights = model.state_dict()
    for target, source in enumerate(config.layer_map):
        unrolled.layers[target].load_state_dict(model.layers[source].state_dict())
    for module in ("embedding", "norm"):
        getattr(unrolled, module).weight.data.copy_(weights[f"{module}.weight"])
    assert torch.allclose(model(tokens()).logits_BTV, unrolled(tokens()).logits_BTV, atol=1e-12)


@pytest.mark.parametrize("kv", ["recursion-wise", "hybrid"])
def test_with_every_token_at_every_recursion_and_no_gate_a_routed_model_loops_over_the_block(kv: str):
    """H <- H + f(H): with all capacities 1 and additive gating nothing is left of routing."""
    routing = ExpertChoice(capacities=(Fraction(1),) * 3, gating="additive")
    model = build_model(replace(variant("mor-3"), routing=routing, recursion=Recursion(count=3, kv=kv)), 0).double()
    rotary = model.rotary_prefix(24)
    x_BTD, _ = model.layers[0](model.embedding(tokens()), rotary)
    for _ in range(3):
        y_BTD = x_BTD
        for layer in model.layers[1:-1]:
            y_BTD, _ = layer(y_BTD, rotary)
        x_BTD = x_BTD + y_BTD
    x_BTD, _ = model.layers[-1](x_BTD, rotary)
    expected_BTV = F.linear(model.norm(x_BTD), model.embedding.weight)
    assert torch.allclose(model(tokens()).logits_BTV, expected_BTV, atol=1e-10)


def test_token_choice_with_all_tokens_deep_and_a_gate_of_one_is_the_block_looped_plus_its_input():
    """Equation 2.2 at g = 1: H^{r+1} = f(H^r), and the entry is added at the exit."""
    routing = TokenChoice(activation="sigmoid", balancing="loss-free")
    model = build_model(replace(variant("token-3"), routing=routing), 0).double()
    model.routers[0].score.weight.data.zero_()
    model.routers[0].register_forward_hook(lambda *_: torch.full((2, 24, 3), 40.0, dtype=torch.float64))
    model.selection_bias_R.copy_(torch.tensor([0.0, 0.0, 1.0]))
    rotary = model.rotary_prefix(24)
    entry_BTD, _ = model.layers[0](model.embedding(tokens()), rotary)
    x_BTD = entry_BTD
    for _, layer in itertools.product(range(3), model.layers[1:-1]):
        x_BTD, _ = layer(x_BTD, rotary)
    x_BTD, _ = model.layers[-1](x_BTD + entry_BTD, rotary)
    expected_BTV = F.linear(model.norm(x_BTD), model.embedding.weight)
    assert torch.allclose(model(tokens()).logits_BTV, expected_BTV, atol=1e-10)


def test_routing_keeps_k_tokens_of_those_that_reached_the_recursion_in_ascending_order():
    model = spread_routers(build_model(variant("mor-3"), seed=0))
    selections = model(tokens(4)).routed.selections
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
    assert selection.of(logits_BJ).tolist() == [[2.0, 3.0, 0.5]]
    assert selection.cutoff_B is not None
    assert selection.cutoff_B.tolist() == [0.5]
    target = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0]])
    assert torch.allclose(selection_loss(logits_BJ, selection), F.binary_cross_entropy(logits_BJ.sigmoid(), target))
    everyone = select_all(positions_BJ, None)
    ones = torch.ones_like(logits_BJ)
    assert torch.allclose(selection_loss(logits_BJ, everyone), F.binary_cross_entropy(logits_BJ.sigmoid(), ones))


def test_above_a_threshold_sequences_keep_different_numbers_and_padding_is_marked():
    goes_on_BJ = torch.tensor([[True, False, True, True], [False, False, False, True]])
    selection = select_where(goes_on_BJ, torch.arange(4).expand(2, 4), None)
    assert selection.valid_BK is not None
    assert selection.positions_BK[0].tolist() == [0, 2, 3]
    assert selection.valid_BK.tolist() == [[True, True, True], [True, False, False]]
    assert selection.positions_BK[1, 0] == 3


@pytest.mark.parametrize("name", [name for name in EXPERT if name != "mor-aux-router"])  # which only imitates top-k
def test_at_the_cut_off_of_one_sequence_the_threshold_rule_computes_what_top_k_does(name: str):
    model = spread_routers(build_model(variant(name), seed=2).double()).eval()
    expected = model(tokens(1), "top-k")
    model.threshold_R.copy_(expected.routed.statistics_R)
    assert torch.allclose(model(tokens(1), "threshold").logits_BTV, expected.logits_BTV, atol=1e-10)


def test_the_threshold_is_a_mean_at_first_and_an_exponential_mean_later():
    model = build_model(variant("mor-2"), seed=0)
    for value in (1.0, 2.0, 6.0):
        model.update_router_state(torch.tensor([0.0, value]))
    assert float(model.threshold_R[1]) == pytest.approx(3.0)
    model.threshold_updates.fill_(10_000)
    model.update_router_state(torch.tensor([0.0, 103.0]))
    assert float(model.threshold_R[1]) == pytest.approx(4.0)


def test_loss_free_balancing_moves_the_bias_against_the_load_by_its_rate():
    model = build_model(variant("token-loss-free"), seed=0)
    model.update_router_state(torch.tensor([0.9, 0.1]))
    assert model.selection_bias_R.tolist() == pytest.approx([-0.001, 0.001])
    model.update_router_state(torch.tensor([0.5, 0.5]))
    assert model.selection_bias_R.tolist() == pytest.approx([-0.001, 0.001])


def test_a_selection_bias_changes_the_depths_but_not_the_gates():
    model = spread_routers(build_model(variant("token-loss-free"), seed=0)).double()
    model.selection_bias_R.copy_(torch.tensor([0.0, 10.0]))
    routed = model(tokens()).routed
    assert routed.statistics_R.tolist() == [0.0, 1.0]


def test_the_balancing_loss_is_1_at_an_even_load_and_more_where_loads_and_probabilities_agree():
    even_BTR = torch.full((2, 6, 3), 1 / 3)
    assert float(balancing_loss(even_BTR, torch.arange(6).expand(2, 6) % 3)) == pytest.approx(1.0)
    leaning_BTR = torch.tensor([0.8, 0.1, 0.1]).expand(2, 6, 3)
    assert float(balancing_loss(leaning_BTR, torch.zeros(2, 6, dtype=torch.long))) == pytest.approx(2.4)


def test_the_random_control_is_uniform_differs_by_recursion_and_reads_only_the_past():
    tokens_BT = tokens(64, 256)
    uniform_BTR = random_logits(tokens_BT, 3).sigmoid()
    histogram = torch.histc(uniform_BTR, 10, 0, 1) / uniform_BTR.numel()
    assert (histogram - 0.1).abs().max() < 0.005
    assert torch.corrcoef(uniform_BTR.reshape(-1, 3).T).fill_diagonal_(0).abs().max() < 0.02
    flat = uniform_BTR[..., 0]
    assert abs(float(torch.corrcoef(torch.stack((flat[:, 1:].flatten(), flat[:, :-1].flatten())))[0, 1])) < 0.02
    other_BT = tokens_BT.clone()
    other_BT[:, 100:] = 0
    assert torch.equal(random_logits(other_BT, 3)[:, :100], random_logits(tokens_BT, 3)[:, :100])


def gradients(model: Transformer, loss: Tensor) -> dict[str, bool]:
    """Which parameters a loss moves."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad is not None and bool((p.grad != 0).any()) for name, p in model.named_parameters()}


def test_an_auxiliary_router_learns_from_its_own_loss_alone_and_nothing_else_learns_from_it():
    model = build_model(variant("mor-aux-router"), seed=0).train()
    output = model(tokens())
    by_language = gradients(model, output.logits_BTV.square().mean())
    assert not any(moved for name, moved in by_language.items() if name.startswith("aux_routers"))
    assert all(moved for name, moved in by_language.items() if name.startswith("routers"))
    by_auxiliary = gradients(model, model(tokens()).routed.loss)
    assert all(moved == name.startswith("aux_routers") for name, moved in by_auxiliary.items())


def test_auxiliary_routers_have_ten_times_the_rate_and_are_clipped_apart():
    model = build_model(variant("mor-aux-router"), seed=0)
    optimizer = build_optimizer(model, TrainConfig(batch_size=1, peak_learning_rate=0.1, warmup_steps=0))
    scales = {id(p): group["rate_scale"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert scales[id(parameter)] == (10.0 if name.startswith("aux_routers") else 1.0)


@pytest.mark.parametrize(("decay_on", "embedding_decays"), [("all-matrices", True), ("hidden-matrices", False)])
def test_weight_decay_is_on_matrices_as_asked_and_never_on_norms(decay_on: str, embedding_decays: bool):
    model = build_model(variant("mor-2"), seed=0)
    config = TrainConfig(batch_size=1, peak_learning_rate=0.1, warmup_steps=0, decay_on=decay_on)
    optimizer = build_optimizer(model, config)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    assert (decay[id(model.embedding.weight)] > 0) == embedding_decays
    assert (decay[id(model.routers[0].score.weight)] > 0) == embedding_decays
    assert decay[id(model.layers[0].mlp.down.weight)] == 0.1
    assert decay[id(model.norm.weight)] == decay[id(model.layers[0].mlp_norm.weight)] == 0.0


def test_capacity_warm_up_starts_with_every_token_and_ends_at_the_capacities():
    config = variant("mor-capacities")
    assert [config.tokens_per_recursion(step=step) for step in range(4)] == [
        (24, 24, 24),
        (24, 21, 21),
        (24, 15, 15),
        (24, 12, 12),
    ]
    model = build_model(config, seed=0).train()
    for step in range(4):
        _, routed = model.encode(tokens(), step=step)
        assert tuple(s.positions_BK.shape[1] for s in routed.selections) == config.tokens_per_recursion(step=step)


def test_weights_are_a_function_of_the_seed_alone():
    first, again, other = (build_model(variant("mor-2"), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


@pytest.mark.parametrize("name", ROUTED)
def test_no_weight_is_left_as_it_came_from_memory(name: str):
    for key, value in build_model(variant(name), seed=0).state_dict().items():
        assert torch.isfinite(value.float()).all(), key
        assert value.abs().max() < 2, key


def test_fresh_weights_predict_almost_uniformly():
    model = build_model(variant("mor-2", vocab_size=512), seed=0)
    tokens_BT = torch.randint(0, 512, (4, 25))
    loss = nn.functional.cross_entropy(model(tokens_BT[:, :-1]).logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
    assert loss.item() == pytest.approx(torch.tensor(512.0).log().item(), abs=0.15)


def test_a_sequence_longer_than_the_context_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="25 tokens: the model's context is 24"):
        build_model(variant("vanilla"), seed=0)(torch.zeros(1, 25, dtype=torch.long))


GOLDEN = {
    "vanilla": 4.196945238,
    "recursive-2": 4.172048429,
    "recursive-cycle": 4.190085583,
    "recursive-sequence": 4.181011168,
    "recursive-middle-sequence": 4.237599030,
    "recursive-shared-kv": 4.166222377,
    "recursive-sequence-shared-kv": 4.176824074,
    "mor-2": 4.190241899,
    "mor-3": 4.175365904,
    "mor-cycle": 4.191247338,
    "mor-mlp": 4.191143760,
    "mor-wide-mlp": 4.191206166,
    "mor-additive": 4.171056790,
    "mor-random": 4.169957789,
    "mor-aux-router": 4.171446085,
    "mor-capacities": 4.171485886,
    "mor-shared-kv": 4.168610566,
    "mor-hybrid-kv": 4.169229958,
    "token-3": 4.203199113,
    "token-exit": 4.179531860,
    "token-loss-free": 4.185277407,
    "token-random": 4.189471203,
    "token-shared-kv": 4.166343600,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_after_five_steps_is_the_recorded_one_or_numerics_version_must_be_raised(name: str):
    """In fp64, where kernels of different machines agree far below the tolerance.

    What machines and versions of libraries make of fp32: tests/mor_core/training/test_other_machines.py."""
    model = build_model(variant(name), seed=0).double()
    config = TrainConfig(batch_size=4, peak_learning_rate=0.01, warmup_steps=2)
    generator = torch.Generator().manual_seed(0)
    batches = torch.randint(0, 64, (6, 4, 25), generator=generator).numpy()
    loss = training_losses(model, config, batches.__getitem__, 6, cooldown=(4, 6))[-1]
    message = "the losses of a given configuration changed: raise NUMERICS_VERSION in mor_core/config/training.py"
    assert loss == pytest.approx(GOLDEN[name], abs=1e-6), message


def test_depth_scaled_outputs_are_the_constant_ones_less_by_the_root_of_twice_the_unrolled_layers():
    config = variant("mor-3")
    constant = build_model(config, seed=0).state_dict()
    scaled = build_model(replace(config, output_init="depth-scaled"), seed=0).state_dict()
    outputs = {name for name in constant if name.endswith(("attention.out.weight", "mlp.down.weight"))}
    assert len(outputs) == 2 * config.num_unique_layers
    for name, weight in constant.items():
        expected = weight / math.sqrt(2 * config.num_layers) if name in outputs else weight
        assert torch.allclose(scaled[name], expected, rtol=1e-6, atol=0)
