"""The formulas against the built model and PyTorch's own counter."""

import dataclasses
import itertools
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mor_core.config.model import ExpertChoice, ModelConfig, Recursion, TokenChoice
from mor_core.config.sizes import PAPER_SIZES, SHALLOW_LADDER, SIX_LAYER_LADDER, SIZES, SMALL_LADDER, model_config
from mor_core.flops import (
    CONVENTIONS,
    Convention,
    RecursionWork,
    forward_flops,
    kv_bytes_per_layer,
    kv_bytes_read_per_token,
    layer_params,
    planned_work,
    router_params,
    token_flops,
    total_params,
    training_flops,
    training_flops_per_token,
    unique_params,
    unrolled_params,
    warmup_surplus,
)
from mor_core.model.transformer import build_model
from tests.helpers.models.variants import VARIANTS, variant

ARMS = {
    "vanilla": (Recursion(), None),
    "recursive-2": (Recursion(count=2), None),
    "recursive-3-sequence": (Recursion(count=3, sharing="sequence"), None),
    "mor-2": (Recursion(count=2), ExpertChoice()),
    "mor-3": (Recursion(count=3), ExpertChoice()),
    "mor-4-cycle": (Recursion(count=4, sharing="cycle"), ExpertChoice()),
}


def arm(name: str, size: str = "35k", context_length: int = 24) -> ModelConfig:
    recursion, routing = ARMS[name]
    return model_config(SIZES[size], vocab_size=64, context_length=context_length, recursion=recursion, routing=routing)


@pytest.mark.parametrize("name", ARMS)
def test_parameters_are_those_of_the_built_model(name: str):
    config = arm(name)
    model = build_model(config, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == total_params(config)
    assert total_params(config) - unique_params(config) == model.embedding.weight.numel()
    applications = [sum(p.numel() for p in model.layers[layer].parameters()) for layer in config.layer_map]
    assert sum(applications) == config.num_layers * layer_params(config)
    extra = config.num_layers - config.num_unique_layers
    assert unrolled_params(config) - unique_params(config) == extra * layer_params(config)


@pytest.mark.parametrize("name", ARMS)
def test_exact_flops_are_what_pytorch_counts_once_causal_attention_replaces_the_full_square(name: str):
    config = arm(name)
    batch = 3
    model = build_model(config, seed=0)
    tokens_BT = torch.randint(0, config.vocab_size, (batch, config.context_length + 1))
    # The counter reports nothing for the fused CPU attention kernel; the plain one counts every query-key pair.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(tokens_BT[:, :-1])
        loss = F.cross_entropy(output.logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
        (loss + output.routed.loss if output.routed else loss).backward()
    counted = counter.get_total_flops()
    lengths = [config.context_length] * config.num_unshared_layers
    lengths += [k for k in config.tokens_per_recursion() for _ in range(config.block_depth)]
    above_diagonal = sum(length * length - length * (length + 1) // 2 for length in lengths)
    not_computed = 3 * 4 * config.num_heads * config.d_head * above_diagonal * batch
    assert training_flops(config, batch * config.context_length, "exact") == counted - not_computed


@pytest.mark.parametrize(
    ("size", "recursions", "routed", "megaflops"),
    [
        # Bae et al., arXiv 2507.10524v3, appendix D's formula; the values reproduce the token counts of Table 9.
        ("360M", 1, False, 833.618),
        ("360M", 4, False, 885.719),
        ("360M", 2, True, 623.493),
        ("360M", 3, True, 555.636),
        ("360M", 4, True, 553.452),
        ("135M", 1, False, 309.658),
        ("135M", 3, False, 330.301),
        ("135M", 3, True, 216.596),
        ("730M", 1, False, 1635.779),
        ("730M", 3, True, 1110.092),
        ("1.7B", 3, False, 3707.765),
        ("1.7B", 2, True, 2615.149),
    ],
)
def test_paper_convention_gives_the_papers_forward_flops(size: str, recursions: int, routed: bool, megaflops: float):
    config = model_config(
        SIZES[size],
        vocab_size=49152,
        context_length=2048,
        recursion=Recursion(count=recursions),
        routing=ExpertChoice() if routed else None,
    )
    assert float(training_flops_per_token(config, "paper")) / 1e6 == pytest.approx(megaflops, abs=5e-4)


def test_the_papers_forward_flops_with_shared_keys_leave_out_their_projections_and_attend_to_whole_prefixes():
    recursion = Recursion(count=3, kv="shared")
    for routing in (ExpertChoice(), TokenChoice()):
        config = model_config(
            SIZES["360M"], vocab_size=49152, context_length=2048, recursion=recursion, routing=routing
        )
        assert float(training_flops_per_token(config, "paper")) / 1e6 == pytest.approx(536.248, abs=5e-4)


@given(st.integers(0, 90), st.sampled_from(CONVENTIONS))
def test_capacity_warmup_adds_flops_until_it_ends_and_none_after(steps: int, convention: Convention):
    routing = ExpertChoice(capacity_warmup_steps=40)
    config = model_config(SIZES["35k"], vocab_size=64, context_length=24, recursion=Recursion(count=3), routing=routing)
    surplus = [warmup_surplus(config, each, convention) for each in (steps, steps + 1)]
    unrouted = model_config(SIZES["35k"], vocab_size=64, context_length=24, recursion=Recursion(count=3))
    at_most = training_flops_per_token(unrouted, convention) * 24
    if convention == "exact":
        at_most += 3 * 2 * router_params(config) * 24
    if convention == "6nd":
        assert surplus == [0, 0]
    elif steps >= 40:
        assert surplus[0] == surplus[1] == warmup_surplus(config, 40, convention) > 0
    else:
        assert 0 <= surplus[1] - surplus[0] <= at_most - training_flops_per_token(config, convention) * 24


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_routing_and_sharing_never_cost_more_than_the_unrolled_model(convention):
    vanilla, recursive, mor = (
        training_flops_per_token(arm(name, context_length=2048), convention)
        for name in ("vanilla", "recursive-2", "mor-2")
    )
    assert mor < vanilla
    assert recursive <= vanilla


def test_a_recursive_model_costs_as_much_as_the_vanilla_model_of_its_depth():
    for convention in ("exact", "paper"):
        assert training_flops_per_token(arm("recursive-2"), convention) == training_flops_per_token(
            arm("vanilla"), convention
        )


def test_six_nd_counts_unique_parameters_and_exact_flops_are_a_fraction_of_a_whole_sequence():
    config = arm("mor-3")
    assert training_flops_per_token(config, "6nd") == 6 * unique_params(config)
    assert training_flops_per_token(config, "exact") * config.context_length == Fraction(
        training_flops(config, config.context_length, "exact")
    )


def test_an_unknown_convention_is_refused_by_name():
    with pytest.raises(ValueError, match="8nd"):
        training_flops_per_token(arm("vanilla"), "8nd")  # pyright: ignore[reportArgumentType]


def test_the_papers_four_sizes_have_the_papers_parameters():
    millions = {
        size.name: unique_params(model_config(size, vocab_size=49152, context_length=2048)) / 1e6
        for size in PAPER_SIZES
    }
    assert {name: round(value) for name, value in millions.items()} == {
        "135M": 106,
        "360M": 315,
        "730M": 654,
        "1.7B": 1611,
    }


@pytest.mark.parametrize(
    ("ladder", "recursions"), [(SMALL_LADDER, (2, 3)), (SHALLOW_LADDER, (2,)), (SIX_LAYER_LADDER, (2, 4))]
)
def test_the_ladder_is_smooth_deep_enough_to_share_and_named_by_its_parameters(ladder, recursions):
    counts = [unique_params(model_config(size, vocab_size=512, context_length=128)) for size in ladder]
    assert all(1.15 < larger / smaller < 1.85 for smaller, larger in itertools.pairwise(counts))
    for size, count in zip(ladder, counts, strict=True):
        params, _, layers = size.name.partition("-")
        number, unit = float(params[:-1]), {"k": 1e3, "M": 1e6}[params[-1]]
        assert count == pytest.approx(number * unit, rel=0.05)
        assert layers in ("", f"{size.num_layers}L")
        for count in recursions:
            recursion = Recursion(count=count, sharing="middle-cycle")
            config = model_config(size, vocab_size=512, context_length=128, recursion=recursion)
            assert config.num_layers == size.num_layers


@pytest.mark.parametrize(
    ("name", "kv"),
    [(name, kv) for name in ARMS for kv in ("recursion-wise", "shared", "hybrid") if kv != "hybrid" or "mor" in name],
)
def test_keys_and_values_read_are_those_of_the_query_key_pairs(name: str, kv: str):
    """A generated token reads what its queries see: the pairs of a sequence, over tokens and mean prefix."""
    length, config = 4096, arm(name, context_length=4096)
    if config.recursion.count > 1:
        config = dataclasses.replace(config, recursion=dataclasses.replace(config.recursion, kv=kv))
    work = planned_work(config, length, config.tokens_per_recursion())
    pairs = config.num_unshared_layers * length**2 / 2 + config.block_depth * sum(float(each.pairs) for each in work)
    read = kv_bytes_read_per_token(config, 2) * length * length / 2
    assert read == pytest.approx(pairs * kv_bytes_per_layer(config, 2), rel=2e-3)


def test_a_shallower_depth_reads_fewer_keys_and_values():
    config = arm("mor-2")
    assert kv_bytes_read_per_token(config, 2, [1.0, 0.25]) < kv_bytes_read_per_token(config, 2, [1.0, 0.5])
    assert kv_bytes_read_per_token(config, 2, [1.0, 0.5]) == kv_bytes_read_per_token(config, 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_flops_of_single_tokens_sum_up_to_those_of_a_sequence(name: str):
    config, length = variant(name), 7
    flops, whole = token_flops(config), length * (length + 1) // 2
    tokens = [length - i if flops.block_token else length for i in range(config.recursion.count)]
    pairs = [whole - 2 * i if flops.block_token else whole for i in range(config.recursion.count)]
    summed = length * (flops.unshared_token + flops.head) + whole * flops.unshared_pair
    if flops.block_token:
        summed += sum(count * of_one for count, of_one in zip(tokens, flops.block_token, strict=True))
        summed += sum(pairs) * flops.block_pair
    work = [RecursionWork(tokens=count, pairs=seen) for count, seen in zip(tokens, pairs, strict=True)]
    assert summed == forward_flops(config, length, work)
