"""Weights to and from transformers' own Llama: the same logits, losses and gradients on both sides."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mor_core.config.model import ExpertChoice, Recursion, SharingStrategy, TokenChoice
from mor_core.data.tokens.tokenizer import train_tokenizer
from mor_core.interop.hugging_face import export_llama, initialise, llama_tensors
from mor_core.interop.llama_config import PretrainedError
from mor_core.interop.llama_folder import read_llama
from mor_core.model.transformer import Transformer, build_model

TOLERANCE = 1e-5
SHAPES = {
    "grouped queries": {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48},
    "one key head": {"num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 32},
    "full attention": {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 32},
    "wide heads": {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32, "head_dim": 12},
}


def llama(num_layers: int = 3, **settings: Any) -> LlamaForCausalLM:
    """A small Llama whose weights and norms all differ."""
    torch.manual_seed(0)
    shape = SHAPES["grouped queries"] | {"vocab_size": 61, "intermediate_size": 40, "max_position_embeddings": 32}
    config = LlamaConfig(num_hidden_layers=num_layers, tie_word_embeddings=True, **(shape | settings))
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.1)
    return model


def ours(folder: Path, **arm: Any) -> Transformer:
    """The folder's weights as a model of this project."""
    pretrained = read_llama(folder)
    model = build_model(pretrained.arm(context_length=24, **arm), seed=1)
    initialise(model, pretrained, "stepwise", seed=0)
    return model.eval()


def saved(model: LlamaForCausalLM, folder: Path, **how: Any) -> Path:
    model.save_pretrained(folder, **how)
    return folder


def tokens(vocab_size: int = 61) -> Tensor:
    return torch.randint(0, vocab_size, (3, 24), generator=torch.Generator().manual_seed(2))


def logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(tokens(model.config.vocab_size)).logits_BTV


def llama_logits(folder: Path) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(tokens(model.config.vocab_size)).logits


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_loss_and_gradients_equal_those_of_llama_on_the_same_weights(shape: str, tmp_path: Path):
    theirs = llama(**SHAPES[shape], rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-4)
    mine = ours(saved(theirs, tmp_path / "llama"))
    output, expected = mine(tokens()), theirs(tokens(), labels=tokens())
    loss = F.cross_entropy(output.logits_BTV[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())
    torch.testing.assert_close(output.logits_BTV, expected.logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(loss, expected.loss, atol=TOLERANCE, rtol=0)
    loss.backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in mine.named_parameters() if parameter.grad is not None}
    named = llama_tensors(mine.config, gradients)
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert named.keys() == wanted.keys()
    for name, gradient in named.items():
        torch.testing.assert_close(
            gradient, wanted[name], atol=TOLERANCE, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert min(gradient.abs().max() for gradient in named.values()) > 100 * TOLERANCE


@pytest.mark.parametrize("theta", [10000.0, 150.0])
def test_a_vanilla_model_has_the_same_logits_in_transformers(theta: float, tmp_path: Path):
    config = read_llama(saved(llama(), tmp_path / "shape")).arm(context_length=24)
    model = build_model(replace(config, rope_theta=theta, norm_eps=1e-3, init_std=0.1), seed=4)
    export_llama(model, tmp_path / "out")
    torch.testing.assert_close(llama_logits(tmp_path / "out"), logits(model), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("sharing", ["cycle", "sequence", "middle-cycle", "middle-sequence"])
@pytest.mark.parametrize("count", [2, 3])
def test_a_recursive_model_has_the_same_logits_in_transformers(sharing: SharingStrategy, count: int, tmp_path: Path):
    pretrained = read_llama(saved(llama(num_layers=8), tmp_path / "llama"))
    model = build_model(pretrained.arm(context_length=24, recursion=Recursion(count=count, sharing=sharing)), seed=3)
    initialise(model, pretrained, "average", seed=0)
    export_llama(model, tmp_path / "out")
    torch.testing.assert_close(llama_logits(tmp_path / "out"), logits(model), atol=TOLERANCE, rtol=0)
    again = read_llama(tmp_path / "out")
    assert again.config.num_layers == model.config.num_layers


def test_weights_in_several_files_read_like_those_in_one(tmp_path: Path):
    theirs = llama()
    whole = read_llama(saved(theirs, tmp_path / "whole"))
    parts = read_llama(saved(theirs, tmp_path / "parts", max_shard_size="40KB"))
    assert len(set(parts.files.values())) > 2
    assert parts.config == whole.config
    assert torch.equal(logits(ours(tmp_path / "parts")), logits(ours(tmp_path / "whole")))


def test_half_precision_weights_are_read_exactly(tmp_path: Path):
    theirs = llama().to(torch.bfloat16)
    model = ours(saved(theirs, tmp_path / "half"))
    assert torch.equal(model.embedding.weight, theirs.model.embed_tokens.weight.float())


def test_exporting_what_was_imported_gives_the_same_tensors(tmp_path: Path):
    saved(llama(), tmp_path / "in")
    export_llama(ours(tmp_path / "in"), tmp_path / "out")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_llama(tmp_path / "in").config.context_length == 32
    assert read_llama(tmp_path / "out").config.context_length == 24


def test_an_exported_tokenizer_loads_and_ends_text_where_ours_does(tmp_path: Path):
    tokenizer = train_tokenizer(["a few words, a few more"] * 20, 300)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = ours(saved(llama(vocab_size=300), tmp_path / "in"))
    export_llama(model, tmp_path / "out", tmp_path / "tokenizer.json")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.encode("a few words") == tokenizer.encode("a few words").ids
    assert loaded.eos_token_id == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.eos_token_id == 0


@pytest.mark.parametrize("routing", [ExpertChoice(), TokenChoice()])
def test_a_routed_model_is_not_exported(routing: ExpertChoice | TokenChoice, tmp_path: Path):
    pretrained = read_llama(saved(llama(num_layers=8), tmp_path / "llama"))
    arm = pretrained.arm(context_length=24, recursion=Recursion(count=2), routing=routing)
    with pytest.raises(PretrainedError, match="routed model has no Llama"):
        export_llama(build_model(arm, seed=0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_whose_recursions_share_keys_is_not_exported(tmp_path: Path):
    pretrained = read_llama(saved(llama(num_layers=8), tmp_path / "llama"))
    model = build_model(pretrained.arm(context_length=24, recursion=Recursion(count=2, kv="shared")), seed=0)
    with pytest.raises(PretrainedError, match="kv shared has no Llama"):
        export_llama(model, tmp_path / "out")


def test_an_export_never_replaces_a_folder_and_leaves_nothing_behind(tmp_path: Path):
    model = ours(saved(llama(), tmp_path / "in"))
    (tmp_path / "out").mkdir()
    with pytest.raises(PretrainedError, match="exists already"):
        export_llama(model, tmp_path / "out")
    with pytest.raises(ValueError, match="no tokenizer"):
        export_llama(model, tmp_path / "new", tmp_path / "nowhere.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
