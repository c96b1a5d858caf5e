"""Folders of pretrained weights that cannot be used are refused in one sentence that says why."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mor_core.config.model import ModelConfig, Recursion
from mor_core.interop.hugging_face import export_llama, initialise
from mor_core.interop.llama_config import PretrainedError
from mor_core.interop.llama_folder import PretrainedLlama, read_llama
from mor_core.model.transformer import build_model

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
UNKNOWN = "model.layers.1.self_attn.q_proj.bias"
QUERY = "model.layers.1.self_attn.q_proj.weight"

MODEL = ModelConfig(
    vocab_size=13, context_length=16, num_layers=2, d_model=8, num_heads=2, num_kv_heads=1, d_head=4, d_ff=12
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole and readable folder, for a test to spoil."""
    export_llama(build_model(MODEL, seed=0), tmp_path / "llama")
    return tmp_path / "llama"


def set_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; a change to ... removes the key."""
    path = folder / CONFIG
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def set_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def split_in_two(folder: Path) -> dict[str, str]:
    """Spread the weights over two files with an index; returns the index's map."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    files = {"first.safetensors": names[::2], "second.safetensors": names[1::2]}
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    (folder / WEIGHTS).unlink()
    weight_map = {name: file for file, held in files.items() for name in held}
    set_index(folder, weight_map)
    return weight_map


def set_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refusal(folder: Path) -> str:
    with pytest.raises(PretrainedError) as caught:
        read_llama(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(folder) in sentence
    return sentence


def test_a_whole_folder_is_read(folder: Path):
    pretrained = read_llama(folder)
    assert pretrained.config == MODEL
    assert len(pretrained.fingerprint) == 64


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mistral"}, "only the architecture llama"),
        ({"model_type": ...}, "model_type is not given"),
        ({"hidden_act": "gelu"}, "uses silu"),
        ({"attention_bias": True}, "no biases"),
        ({"mlp_bias": True}, "no biases"),
        ({"tie_word_embeddings": False}, "only tied weights fit"),
        ({"tie_word_embeddings": ...}, "only tied weights fit"),  # transformers takes it as false
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": ...}, "scaled or partial"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "scaled or partial"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "scaled or partial"),
        ({"rope_parameters": "default"}, "scaled or partial"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_parameters says 500000.0"),
        ({"rope_theta": -1, "rope_parameters": ...}, "number above 0"),
        ({"rope_theta": "1e4", "rope_parameters": ...}, "number above 0"),
        ({"rms_norm_eps": None}, "number above 0"),
        ({"vocab_size": "13"}, "whole number"),
        ({"vocab_size": True}, "whole number"),
        ({"num_hidden_layers": 0}, "whole number"),
        ({"intermediate_size": ...}, "intermediate_size is not given"),
        ({"num_attention_heads": 3, "head_dim": ...}, "multiple of num_attention_heads 3"),
        ({"num_key_value_heads": 3}, "multiple of num_kv_heads 3"),
        ({"head_dim": 5}, "d_head 5 must be even"),
        ({"head_dim": 2}, r"q_proj.weight is \[8, 8\], but config.json calls for \[4, 8\]"),
        ({"num_hidden_layers": 3}, r"lacks the tensor model\.layers\.2"),
        ({"num_hidden_layers": 1}, r"holds a tensor model\.layers\.1"),
        ({"vocab_size": 14}, r"embed_tokens.weight is \[13, 8\], but config.json calls for \[14, 8\]"),
    ],
)
def test_a_config_of_another_model_is_refused(folder: Path, changes: dict[str, Any], reason: str):
    set_config(folder, **changes)
    with pytest.raises(PretrainedError, match=reason):
        read_llama(folder)
    refusal(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_parameters": ..., "rope_theta": 5e5}, {"rope_theta": 5e5}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": ...}, {"rope_theta": 5e5}),
        ({"rope_parameters": ..., "rope_theta": ..., "rope_scaling": None}, {"rope_theta": 1e4}),
        ({"rms_norm_eps": ...}, {"norm_eps": 1e-6}),
        ({"head_dim": None}, {"d_head": 4}),
        ({"head_dim": ...}, {"d_head": 4}),
        ({"hidden_act": ..., "attention_bias": ..., "mlp_bias": ...}, {}),
        ({"max_position_embeddings": 99}, {"context_length": 99}),
    ],
)
def test_both_layouts_and_what_transformers_takes_for_granted_are_read(
    folder: Path, changes: dict[str, Any], expected: dict[str, Any]
):
    set_config(folder, **changes)
    config = read_llama(folder).config
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_key_head_for_each_query_head_is_assumed_where_none_are_counted(folder: Path):
    set_config(folder, num_key_value_heads=...)
    assert r"k_proj.weight is [4, 8], but config.json calls for [8, 8]" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop(QUERY), f"lacks the tensor {QUERY}"),
        (lambda tensors: tensors.update({UNKNOWN: torch.zeros(8)}), f"holds a tensor {UNKNOWN}"),
        (lambda tensors: tensors.update({QUERY: torch.zeros(8, 9)}), "[8, 9], but config.json calls for [8, 8]"),
        (lambda tensors: tensors.update({QUERY: torch.zeros(8, 8, dtype=torch.int8)}), "stored as I8"),
        (lambda tensors: tensors.update({QUERY: torch.zeros(8, 8).to(torch.float8_e4m3fn)}), "stored as F8_E4M3"),
        (lambda tensors: tensors.update({"lm_head.weight": torch.zeros(12, 8)}), "lm_head.weight is [12, 8]"),
    ],
)
def test_tensors_of_another_model_are_refused(folder: Path, change: Callable[[dict[str, Tensor]], Any], reason: str):
    set_tensors(folder, change)
    assert reason in refusal(folder)


def test_a_stored_head_must_be_the_embedding(folder: Path):
    model = build_model(MODEL, seed=1)
    set_tensors(
        folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    )
    initialise(model, read_llama(folder), "stepwise", seed=0)
    before = {name: value.clone() for name, value in build_model(MODEL, seed=2).state_dict().items()}
    model.load_state_dict(before)
    set_tensors(folder, lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(PretrainedError, match="although config"):
        initialise(model, read_llama(folder), "stepwise", seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_rotary_buffers_of_early_releases_are_passed_over(folder: Path):
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    set_tensors(folder, lambda tensors: tensors.update({buffer: torch.ones(2)}))
    assert read_llama(folder).config == MODEL


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kept", [0, 7, 500])
def test_a_torn_file_is_named(folder: Path, name: str, kept: int):
    path = folder / name
    path.write_bytes(path.read_bytes()[:kept])
    assert name in refusal(folder)


@pytest.mark.parametrize("content", ["[]", "3", "[" * 100_000, '{"model_type": "llama"}', '{"weight_map": [1]}'])
@pytest.mark.parametrize("name", [CONFIG, INDEX])
def test_json_of_another_kind_is_named(folder: Path, name: str, content: str):
    if name == INDEX:
        split_in_two(folder)
    (folder / name).write_text(content)
    assert name in refusal(folder)


@pytest.mark.parametrize(
    ("key", "bound"),
    [
        ("num_hidden_layers", 10_000),
        ("hidden_size", 2**20),
        ("intermediate_size", 2**24),
        ("vocab_size", 2**24),
        ("max_position_embeddings", 2**24),
    ],
)
def test_a_shape_beyond_all_bounds_is_refused_with_the_value_and_the_bound(folder: Path, key: str, bound: int):
    set_config(folder, **{key: 10**12})
    assert f"{key} is 1000000000000; expected a whole number from 1 to {bound}" in refusal(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    assert name in refusal(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    assert "There is no folder" in refusal(tmp_path / "nowhere")


def test_pickled_weights_are_refused_and_never_opened(folder: Path):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin: pickled files can run any code" in refusal(folder)


def test_pickled_weights_beside_safetensors_do_not_matter(folder: Path):
    (folder / "pytorch_model.bin").write_bytes(b"whatever")
    assert read_llama(folder).config == MODEL


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/outside.safetensors", "sub/in.safetensors", "..", "", "a\0b"]
)
def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, name: str):
    shutil.copy(folder / WEIGHTS, folder.parent / "outside.safetensors")
    weight_map = split_in_two(folder)
    set_index(folder, weight_map | {QUERY: name})
    assert "is not the plain name of a file" in refusal(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_link_out_of_the_folder_is_not_followed(folder: Path, name: str):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    assert "outside the folder" in refusal(folder)


def test_a_snapshot_of_the_hub_cache_may_link_to_its_blobs(folder: Path, tmp_path: Path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "rev", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in (CONFIG, WEIGHTS):
        shutil.copy(folder / name, blobs / f"hash-of-{name}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"hash-of-{name}")
    assert read_llama(snapshot).fingerprint == read_llama(folder).fingerprint


@pytest.mark.parametrize("name", ["gone.safetensors", "first.safetensors"])
def test_an_index_that_names_the_wrong_file_is_refused(folder: Path, name: str):
    weight_map = split_in_two(folder)
    assert weight_map[QUERY] == "second.safetensors"
    set_index(folder, weight_map | {QUERY: name})
    assert name in refusal(folder)


def test_the_fingerprint_follows_weights_and_shape_and_nothing_else(folder: Path, tmp_path: Path):
    first = read_llama(folder).fingerprint
    set_config(folder, transformers_version="9.9", bos_token_id=7)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert read_llama(tmp_path / "elsewhere").fingerprint == first
    set_config(folder, rms_norm_eps=1e-4)
    changed = read_llama(folder).fingerprint
    set_tensors(folder, lambda tensors: tensors[QUERY].add_(1))
    assert len({first, changed, read_llama(folder).fingerprint}) == 3


def misfit(pretrained: PretrainedLlama, **changes: Any) -> str:
    model = build_model(replace(MODEL, **changes), seed=0)
    before = model.embedding.weight.clone()
    with pytest.raises(PretrainedError) as caught:
        initialise(model, pretrained, "stepwise", seed=0)
    assert torch.equal(model.embedding.weight, before)
    return str(caught.value)


def test_a_model_of_another_shape_is_not_filled(folder: Path):
    pretrained = read_llama(folder)
    assert "vocab_size 20, but the weights in" in misfit(pretrained, vocab_size=20)
    assert "use the tokenizer they were trained with" in misfit(pretrained, vocab_size=20)
    assert "have 12; set d_ff to 12" in misfit(pretrained, d_ff=16)
    assert "rope_theta 500.0" in misfit(pretrained, rope_theta=500.0)
    assert "norm_eps 0.1" in misfit(pretrained, norm_eps=0.1)
    assert "sequences of 17 tokens" in misfit(pretrained, context_length=17)


def test_an_arm_keeps_the_shape_and_fits_the_depth(folder: Path):
    arm = read_llama(folder).arm(context_length=8, num_layers=9, recursion=Recursion(count=3), fit_depth="shrink")
    assert (arm.num_layers, arm.context_length, arm.d_ff, arm.vocab_size) == (8, 8, 12, 13)
    assert read_llama(folder).arm(context_length=8, num_layers=9, recursion=Recursion(count=3)).num_layers == 11
