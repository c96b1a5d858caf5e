"""Weights from and to Hugging Face's Llama layout: up-training starts from them, and others can load what was trained.

Their layers keep queries, keys, values, gate and up as five matrices, this project's as two; both hold the halves of a
head's rotary pairs apart, so rows need no reordering. Names and shapes are in `llama_names`.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mor_core.config.model import LayerSelection, ModelConfig
from mor_core.data.tokens.tokenizer import GivenTokenizer, read_tokenizer
from mor_core.interop.layer_selection import source_layers
from mor_core.interop.llama_config import CONFIG, PretrainedError, written_config
from mor_core.interop.llama_folder import WEIGHTS, PretrainedLlama
from mor_core.interop.llama_names import EMBEDDING, HEAD, NORM, layer_name, layer_shapes
from mor_core.model.transformer import Transformer

PARTS = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}
"""Each tensor of a layer here, and the tensors there whose rows it holds one after another."""


@torch.no_grad()
def initialise(model: Transformer, pretrained: PretrainedLlama, selection: LayerSelection, seed: int) -> None:
    """Fill a model of any arm from pretrained layers; routers keep the weights they have.

    Which layer starts from which is `source_layers`; means are taken in fp32. `seed` is used by random selection only.
    Raises PretrainedError where the shapes differ, before anything is changed.
    """
    pretrained.check_fits(model.config)
    sources = source_layers(model.config, pretrained.config.num_layers, selection, seed)
    embedding = _read(pretrained, EMBEDDING)
    if HEAD in pretrained.files and not torch.equal(_read(pretrained, HEAD), embedding):
        raise PretrainedError(
            f"{pretrained.files[HEAD]}: {HEAD} differs from {EMBEDDING} although config.json ties them; "
            "this project's output head is the embedding, so these weights do not fit."
        )
    model.embedding.weight.copy_(embedding)
    model.norm.weight.copy_(_read(pretrained, NORM))
    for layer, tied in zip(model.layers, sources, strict=True):
        layer.load_state_dict({f"{part}.weight": _mean(pretrained, part, tied) for part in PARTS})


def export_llama(model: Transformer, folder: Path, tokenizer: Path | None = None) -> None:
    """Write a model as a folder that transformers' AutoModelForCausalLM loads, whole or not at all.

    A recursive model is unrolled: a shared layer is written once for each application. `tokenizer` is a tokenizer.json
    (or a folder with one) to lay beside the weights. Raises PretrainedError where the folder exists, and for models
    that no Llama equals: routed ones, and those whose recursions share keys and values.
    """
    folder = folder.absolute()
    check_exportable(model.config, folder)
    given_tokenizer = None if tokenizer is None else read_tokenizer(tokenizer)
    temporary = folder.with_name(f".{folder.name}.writing.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write(temporary, model, given_tokenizer)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def llama_tensors(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This project's parameters (or anything with their names and shapes, such as gradients) under Llama's names.

    Unrolled layer l gets the rows of the unique layer it uses; nothing is copied.
    """
    named = {EMBEDDING: tensors["embedding.weight"], NORM: tensors["norm.weight"]}
    shapes = layer_shapes(config)
    for unrolled, unique in enumerate(config.layer_map):
        for part, names in PARTS.items():
            pieces = tensors[f"layers.{unique}.{part}.weight"].split([shapes[name][0] for name in names])
            named |= {layer_name(unrolled, name): piece for name, piece in zip(names, pieces, strict=True)}
    return named


def _mean(pretrained: PretrainedLlama, part: str, layers: tuple[int, ...]) -> Tensor:
    """One of this project's tensors, averaged over pretrained layers."""
    fused = [torch.cat([_read(pretrained, layer_name(i, name)) for name in PARTS[part]]) for i in layers]
    return torch.stack(fused).mean(dim=0)


def _read(pretrained: PretrainedLlama, name: str) -> Tensor:
    with safe_open(pretrained.files[name], framework="pt") as file:
        return file.get_tensor(name).float()


def check_exportable(config: ModelConfig, folder: Path) -> None:
    """Raise PretrainedError where no Llama equals the model, or the folder exists already."""
    if config.routing is not None:
        raise PretrainedError(
            "A routed model has no Llama that equals it: Llama gives every token every layer; export a vanilla or "
            "recursive model."
        )
    if config.recursion.kv != "recursion-wise":
        raise PretrainedError(
            f"A model with kv {config.recursion.kv} has no Llama that equals it: each of Llama's layers computes keys "
            "and values of its own; export a model with kv recursion-wise."
        )
    if folder.exists():
        raise PretrainedError(f"{folder} exists already; give a new folder to export to.")


def _write(folder: Path, model: Transformer, given_tokenizer: GivenTokenizer | None) -> None:
    tensors = llama_tensors(model.config, model.state_dict())
    # safetensors refuses tensors that share memory, as those of tied layers do.
    save_file({name: value.cpu().clone() for name, value in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    end = None if given_tokenizer is None else given_tokenizer.end_of_text_id
    _write_json(folder / CONFIG, written_config(model.config, dtype, end))
    if given_tokenizer is not None:
        shutil.copyfile(given_tokenizer.file, folder / "tokenizer.json")
        _write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": given_tokenizer.end_of_text,
                "model_max_length": model.config.context_length,
            },
        )
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
