"""Which pretrained layer each layer of a recursive or routed model starts from."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mor_core.config.model import (
    ExpertChoice,
    LayerSelection,
    ModelConfig,
    Recursion,
    SharingStrategy,
    TokenChoice,
    raised_depth,
)
from mor_core.config.sizes import shrunk_depth
from mor_core.interop.hugging_face import export_llama, initialise
from mor_core.interop.layer_selection import source_layers
from mor_core.interop.llama_config import PretrainedError
from mor_core.interop.llama_folder import PretrainedLlama, read_llama
from mor_core.model.transformer import Transformer, build_model

SELECTIONS = get_args(LayerSelection)


def arm(num_layers: int, count: int, sharing: SharingStrategy = "middle-cycle") -> ModelConfig:
    return ModelConfig(
        vocab_size=11,
        context_length=8,
        num_layers=num_layers,
        d_model=8,
        num_heads=2,
        num_kv_heads=1,
        d_head=4,
        d_ff=12,
        recursion=Recursion(count=count, sharing=sharing),
    )


def single(model: ModelConfig, num_pretrained: int, selection: LayerSelection, seed: int = 0) -> list[int]:
    return [layer for (layer,) in source_layers(model, num_pretrained, selection, seed)]


def planted(num_layers: int, folder: Path) -> PretrainedLlama:
    """A vanilla model in which every number of layer i is i + 1."""
    model = build_model(arm(num_layers, 1), seed=0)
    with torch.no_grad():
        for number, layer in enumerate(model.layers):
            for parameter in layer.parameters():
                parameter.fill_(number + 1)
    export_llama(model, folder)
    return read_llama(folder)


def starts(model: Transformer) -> list[float]:
    """The one number that each unique layer is full of, less 1."""
    values = []
    for layer in model.layers:
        numbers = torch.cat([parameter.detach().flatten() for parameter in layer.parameters()])
        assert (numbers == numbers[0]).all()
        values.append(float(numbers[0]) - 1)
    return values


@pytest.mark.parametrize(
    ("sharing", "selection", "expected"),
    [
        # Eight layers in two recursions: the paper's rules by hand.
        ("cycle", "stepwise", [0, 2, 5, 7]),
        ("cycle", "average", [2, 3, 4, 5]),
        ("cycle", "lower", [0, 1, 2, 3]),
        ("cycle", "upper", [4, 5, 6, 7]),
        ("sequence", "stepwise", [0, 2, 5, 7]),
        ("sequence", "average", [0.5, 2.5, 4.5, 6.5]),
        ("middle-cycle", "stepwise", [0, 1, 4, 6, 7]),  # 3.5 rounds to the even 4
        ("middle-cycle", "average", [0, 2.5, 3.5, 4.5, 7]),
        ("middle-cycle", "lower", [0, 1, 2, 3, 7]),
        ("middle-cycle", "upper", [0, 4, 5, 6, 7]),
        ("middle-sequence", "average", [0, 1.5, 3.5, 5.5, 7]),
    ],
)
def test_the_weights_of_each_layer_are_those_that_the_rule_names(
    sharing: SharingStrategy, selection: LayerSelection, expected: list[float], tmp_path: Path
):
    model = build_model(arm(8, 2, sharing), seed=5)
    initialise(model, planted(8, tmp_path / "llama"), selection, seed=0)
    assert starts(model) == expected


def test_embedding_and_final_norm_are_copied(tmp_path: Path):
    source = build_model(arm(5, 1), seed=9)
    torch.nn.init.normal_(source.norm.weight)
    export_llama(source, tmp_path / "llama")
    model = build_model(arm(8, 3), seed=1)
    initialise(model, read_llama(tmp_path / "llama"), "random", seed=3)
    assert torch.equal(model.embedding.weight, source.embedding.weight)
    assert torch.equal(model.norm.weight, source.norm.weight)


@pytest.mark.parametrize("routing", [ExpertChoice(), ExpertChoice(auxiliary="router"), TokenChoice(router="mlp")])
def test_a_routed_model_gets_the_layers_of_a_recursive_one_and_keeps_its_fresh_routers(
    routing: ExpertChoice | TokenChoice, tmp_path: Path
):
    pretrained = planted(8, tmp_path / "llama")
    model = build_model(pretrained.arm(context_length=8, recursion=Recursion(count=3), routing=routing), seed=7)
    names = {name for name, _ in model.named_parameters()} - set(dict(build_model(arm(8, 3), 0).named_parameters()))
    fresh = {name: value.clone() for name, value in model.state_dict().items() if name in names}
    initialise(model, pretrained, "upper", seed=0)
    assert starts(model) == [0, 5, 6, 7]
    assert fresh
    assert all(torch.equal(model.state_dict()[name], value) for name, value in fresh.items())


def test_a_raised_depth_repeats_layers_and_a_shrunk_one_leaves_some_out():
    # 32 layers in 4 recursions: raised to 34 by the paper; 30 in 3: shrunk to 29 by the released code.
    raised = source_layers(arm(34, 4), 32, "average", seed=0)
    assert raised[0] == (0,)
    assert raised[-1] == (31,)
    assert sum(map(len, raised)) == 34
    assert {layer for tied in raised for layer in tied} == set(range(32))
    shrunk = source_layers(arm(29, 3), 30, "average", seed=0)
    assert len({layer for tied in shrunk for layer in tied}) == 29


def test_a_shorter_vanilla_model_takes_layers_straight_from_the_pretrained_ones():
    assert single(arm(10, 1), 32, "stepwise") == [0, 3, 7, 10, 14, 17, 21, 24, 28, 31]
    assert single(arm(3, 1), 8, "lower") == [0, 1, 2]
    assert single(arm(3, 1), 8, "upper") == [5, 6, 7]


def test_a_random_choice_follows_its_seed_alone():
    choices = [single(arm(32, 3), 32, "random", seed) for seed in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]


def test_a_pretrained_model_without_middle_layers_is_refused():
    with pytest.raises(PretrainedError, match="2 pretrained layers leave none to share"):
        source_layers(arm(8, 2), 2, "stepwise", seed=0)


@settings(max_examples=300, deadline=None)
@given(
    num_pretrained=st.integers(3, 40),
    asked=st.integers(6, 40),
    count=st.integers(1, 4),
    sharing=st.sampled_from(get_args(SharingStrategy)),
    fit=st.sampled_from([raised_depth, shrunk_depth]),
    selection=st.sampled_from(SELECTIONS),
    seed=st.integers(0, 99),
)
def test_layers_come_in_order_from_the_pretrained_ones_and_unshared_ones_keep_their_place(
    num_pretrained, asked, count, sharing, fit, selection, seed
):
    model = arm(fit(asked, count, sharing), count, sharing)
    sources = source_layers(model, num_pretrained, selection, seed)
    assert len(sources) == model.num_unique_layers
    assert all(0 <= layer < num_pretrained for tied in sources for layer in tied)
    means = [sum(tied) / len(tied) for tied in sources]
    assert means == sorted(means)
    if model.num_unshared_layers:
        assert (sources[0], sources[-1]) == ((0,), (num_pretrained - 1,))
    if selection == "average":
        applications = [model.layer_map.count(layer) for layer in range(model.num_unique_layers)]
        assert [len(tied) for tied in sources] == applications
    else:
        assert {len(tied) for tied in sources} == {1}


@settings(max_examples=100, deadline=None)
@given(num_layers=st.integers(1, 40), selection=st.sampled_from(SELECTIONS), seed=st.integers(0, 9))
def test_a_vanilla_model_of_the_same_depth_is_the_pretrained_one_whatever_the_selection(num_layers, selection, seed):
    assert single(arm(num_layers, 1), num_layers, selection, seed) == list(range(num_layers))
