"""What holds for every variant: it is the equations, causal where it says so, and its bits are its own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mor_core.config.model import ExpertChoice, ModelConfig
from mor_core.config.training import TrainConfig
from mor_core.flops import FORWARD_AND_BACKWARD, RecursionWork, forward_flops, planned_work, total_params
from mor_core.model.transformer import Transformer, build_model
from mor_core.training.checkpoint import load_checkpoint, save_checkpoint
from mor_core.training.evaluate import evaluate
from mor_core.training.loop import train_steps
from mor_core.training.optim import build_optimizer
from tests.helpers.models.dense_reference import Dense
from tests.helpers.models.variants import EXPERT, ROUTED, VARIANTS, family, spread_routers, variant

TRAIN = TrainConfig(batch_size=4, peak_learning_rate=0.01, warmup_steps=2)


def rules(name: str) -> tuple[str, ...]:
    return ("top-k", "threshold", "half") if name in EXPERT else ("top-k",)


@pytest.mark.parametrize("name", family())
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(3, 24), batch=st.integers(1, 3))
def test_packed_computation_is_the_dense_masked_formula(name: str, seed: int, length: int, batch: int):
    model = spread_routers(build_model(variant(name), seed).double()).eval()
    # No token twice: a text that begins with one token repeated gives equal scores, and rounding chooses between them.
    generator = torch.Generator().manual_seed(seed)
    tokens_BT = torch.stack([torch.randperm(64, generator=generator)[:length] for _ in range(batch)])
    for rule in rules(name):
        logits_BTV = model(tokens_BT, rule).logits_BTV
        for tokens_T, logits_TV in zip(tokens_BT, logits_BTV, strict=True):
            assert torch.allclose(logits_TV, Dense(model).logits(tokens_T, rule), atol=1e-6)


@pytest.mark.parametrize("name", ROUTED)
def test_recursions_compute_the_tokens_that_the_equations_choose(name: str):
    model = spread_routers(build_model(variant(name), seed=3).double()).eval()
    tokens_BT = torch.randint(0, 64, (3, 24), generator=torch.Generator().manual_seed(8))
    for rule in rules(name):
        routed = model(tokens_BT, rule).routed
        for row, tokens_T in enumerate(tokens_BT):
            dense = Dense(model)
            dense.logits(tokens_T, rule)
            for selection, chosen in zip(routed.selections, dense.chosen, strict=True):
                valid_K = slice(None) if selection.valid_BK is None else selection.valid_BK[row]
                assert selection.positions_BK[row][valid_K].tolist() == sorted(chosen)


def influence(model: Transformer, rule: str, position: int) -> Tensor:
    """For each token: how strongly its embedding moves the logits at `position`, [T]."""
    tokens_BT = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(3))
    embedded = model.embedding(tokens_BT).detach().requires_grad_()
    handle = model.embedding.register_forward_hook(lambda *_: embedded)
    model(tokens_BT, rule).logits_BTV[:, position].square().sum().backward()
    handle.remove()
    assert embedded.grad is not None
    return embedded.grad.abs().sum(dim=(0, 2))


@pytest.mark.parametrize("name", family())
def test_no_later_token_influences_a_position_under_causal_rules(name: str):
    model = spread_routers(build_model(variant(name), seed=1).double()).eval()
    for rule in rules(name)[1:] or ("top-k",):
        for position in (0, 7, 23):
            moved_T = influence(model, rule, position)
            assert (moved_T[: position + 1] > 0).any()
            assert (moved_T[position + 1 :] == 0).all()


@pytest.mark.parametrize("name", family())
def test_what_a_position_computes_does_not_depend_on_what_follows_under_causal_rules(name: str):
    """Gradients do not see a choice, such as which tokens pass; changed tokens do."""
    model = spread_routers(build_model(variant(name), seed=1).double()).eval()
    generator = torch.Generator().manual_seed(0)
    for rule in rules(name)[1:] or ("top-k",):
        for _ in range(5):
            tokens_BT = torch.randint(0, 64, (2, 24), generator=generator)
            other_BT = tokens_BT.clone()
            other_BT[:, 12:] = torch.randint(0, 64, (2, 12), generator=generator)
            before, after = (model(each, rule).logits_BTV[:, :12] for each in (tokens_BT, other_BT))
            assert torch.allclose(before, after, atol=1e-12)


@pytest.mark.parametrize("name", family(*(name for name in VARIANTS if name not in EXPERT)))
def test_top_k_is_not_causal_by_design_so_it_cannot_generate(name: str):
    model = spread_routers(build_model(variant(name), seed=1).double()).eval()
    generator = torch.Generator().manual_seed(0)
    changed = 0
    for _ in range(20):
        tokens_BT = torch.randint(0, 64, (1, 24), generator=generator)
        other_BT = tokens_BT.clone()
        other_BT[:, 12:] = torch.randint(0, 64, (1, 12), generator=generator)
        before, after = (model(each, "top-k").logits_BTV[:, :12] for each in (tokens_BT, other_BT))
        changed += not torch.allclose(before, after, atol=1e-6)
    assert changed > 0


@pytest.mark.parametrize("name", family())
def test_a_sequence_computes_the_same_alone_and_among_others(name: str):
    model = spread_routers(build_model(variant(name), seed=2).double()).eval()
    tokens_BT = torch.randint(0, 64, (6, 24), generator=torch.Generator().manual_seed(6))
    for rule in rules(name):
        together = model(tokens_BT, rule).logits_BTV
        alone = torch.cat([model(tokens_T[None], rule).logits_BTV for tokens_T in tokens_BT])
        assert torch.allclose(together, alone, atol=1e-10)


@pytest.mark.parametrize("name", family())
def test_parameters_are_those_of_the_built_model(name: str):
    config = variant(name)
    assert sum(parameter.numel() for parameter in build_model(config, 0).parameters()) == total_params(config)


def realised_work(config: ModelConfig, model: Transformer, tokens_BT: Tensor) -> tuple[list[RecursionWork], int]:
    """What each recursion computed of one sequence, and the pairs that masks left out though they were computed."""
    length = tokens_BT.shape[1]
    routed = model.encode(tokens_BT)[1]
    whole = torch.arange(length)
    chosen = [whole] * config.recursion.count
    if routed is not None:
        chosen = [selection.positions_BK[0] for selection in routed.selections]
    work = list(planned_work(config, length, [len(positions) for positions in chosen]))
    wasted = config.num_unshared_layers * (length**2 - length * (length + 1) // 2)
    for recursion, positions in enumerate(chosen):
        count = len(positions)
        if recursion and config.recursion.kv != "recursion-wise":
            pairs = int((positions + 1).sum())
            work[recursion] = RecursionWork(tokens=count, pairs=pairs)
            wasted += config.block_depth * (count * (int(positions.max()) + 1) - pairs)
        else:
            wasted += config.block_depth * (count**2 - count * (count + 1) // 2)
    return work, wasted


@pytest.mark.parametrize("name", family())
def test_exact_flops_are_what_pytorch_counts_once_the_masked_pairs_are_taken_off(name: str):
    config = variant(name)
    model = build_model(config, seed=5)
    tokens_BT = torch.randint(0, 64, (1, 24), generator=torch.Generator().manual_seed(1))
    work, wasted = realised_work(config, model, tokens_BT)
    expected = forward_flops(config, 24, work)
    # The counter reports nothing for the fused CPU attention kernel; the plain one counts every query-key pair.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        output = model(tokens_BT)
    masked = 4 * config.num_heads * config.d_head * wasted
    assert forward.get_total_flops() - masked == expected
    if isinstance(config.routing, ExpertChoice) and config.routing.auxiliary == "router":
        return  # A stopped gradient makes its backward pass cheaper than twice the forward.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        (output.logits_BTV.sum() + (output.routed.loss if output.routed else 0)).backward()
    total = forward.get_total_flops() + backward.get_total_flops()
    assert total - FORWARD_AND_BACKWARD * masked == FORWARD_AND_BACKWARD * expected


def batch_of_step(step: int) -> np.ndarray:
    """Sequences that count upwards from a random start, so that there is something to learn."""
    starts = np.random.default_rng(step).integers(0, 64, size=(4, 1))
    return (starts + np.arange(25)) % 64


def trained(config: ModelConfig, stop: int, micro_batch: int | None = None) -> tuple[Transformer, list[float]]:
    torch.set_num_threads(1)
    model = build_model(config, seed=0)
    steps = train_steps(
        model,
        build_optimizer(model, TRAIN),
        TRAIN,
        batch_of_step,
        steps=range(stop),
        cooldown=None,
        micro_batch=micro_batch,
    )
    return model, [metrics.to_floats()["loss"] for metrics in steps]


@pytest.mark.parametrize("name", family())
def test_the_same_configuration_gives_the_same_bits_and_resumes_to_them(name: str, tmp_path):
    config = variant(name)
    undisturbed, losses = trained(config, 8)
    model = build_model(config, seed=0)
    optimizer = build_optimizer(model, TRAIN)
    for metrics in train_steps(model, optimizer, TRAIN, batch_of_step, steps=range(8), cooldown=None):
        if metrics.step == 4:
            save_checkpoint(tmp_path / "at-4", model, optimizer, 4)
            break
    resumed = build_model(config, seed=99)
    resumed_optimizer = build_optimizer(resumed, TRAIN)
    step = load_checkpoint(tmp_path / "at-4", resumed, resumed_optimizer)
    rest = train_steps(resumed, resumed_optimizer, TRAIN, batch_of_step, steps=range(step, 8), cooldown=None)
    assert [metrics.to_floats()["loss"] for metrics in rest] == losses[4:]
    for key, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize("name", family())
def test_the_micro_batch_changes_rounding_only(name: str):
    whole, losses = trained(variant(name), 3)
    halves, losses_of_halves = trained(variant(name), 3, micro_batch=2)
    assert losses == pytest.approx(losses_of_halves, abs=1e-5)
    for (key, value), other in zip(whole.named_buffers(), halves.buffers(), strict=True):
        assert torch.allclose(value.float(), other.float(), atol=1e-5), key


@pytest.mark.parametrize("name", ["vanilla", "mor-3", "mor-hybrid-kv", "token-3"])
def test_keeping_fewer_activations_changes_no_bit(name: str):
    losses = []
    for keep in (True, False):
        model = build_model(variant(name), seed=0)
        model.checkpoint_activations = not keep
        steps = train_steps(model, build_optimizer(model, TRAIN), TRAIN, batch_of_step, steps=range(3), cooldown=None)
        losses.append([metrics.to_floats()["gradient_norm"] for metrics in steps])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", family())
def test_evaluation_measures_each_rule_and_the_depth_that_tokens_reached(name: str):
    config = variant(name)
    model, _ = trained(config, 5)
    batches = [batch_of_step(100 + step) for step in range(3)]
    result = evaluate(model, TRAIN, batches, np.full(64, 2))
    assert (result.loss_half is not None) == (name in EXPERT)
    assert sum(result.depth_histogram) == pytest.approx(1.0)
    assert result.realised_capacity[0] == 1.0
    depths = np.arange(1, config.recursion.count + 1)
    assert result.depth_mean == pytest.approx(float(np.dot(depths, result.depth_histogram)))
    if name not in ROUTED:
        whole = planned_work(config, 24, config.tokens_per_recursion())
        assert result.forward_flops_per_token == pytest.approx(float(forward_flops(config, 24, whole) / 24))
