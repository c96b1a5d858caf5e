"""The tensors of a Hugging Face Llama: names and shapes. No torch.

Sizes: V vocabulary, D width, H query heads, G key and value heads, C head width, F hidden width of the MLP.
"""

import re

from mor_core.config.model import ModelConfig

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

OLD_BUFFER = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Rotary frequencies that early releases of transformers stored with the weights; they follow from the config."""


def layer_name(layer: int, part: str) -> str:
    """The name of one tensor of a layer, such as `mlp.down_proj`."""
    return f"model.layers.{layer}.{part}.weight"


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's tensors, by part."""
    d, f = config.d_model, config.d_ff
    queries, keys = config.num_heads * config.d_head, config.num_kv_heads * config.d_head
    return {
        "input_layernorm": (d,),
        "self_attn.q_proj": (queries, d),
        "self_attn.k_proj": (keys, d),
        "self_attn.v_proj": (keys, d),
        "self_attn.o_proj": (d, queries),
        "post_attention_layernorm": (d,),
        "mlp.gate_proj": (f, d),
        "mlp.up_proj": (f, d),
        "mlp.down_proj": (d, f),
    }


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of the unrolled model, by name; the head is the embedding and has none of its own."""
    layers = range(config.num_layers)
    return {
        EMBEDDING: (config.vocab_size, config.d_model),
        **{layer_name(i, part): shape for i in layers for part, shape in layer_shapes(config).items()},
        NORM: (config.d_model,),
    }
