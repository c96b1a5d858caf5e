"""Hugging Face's Llama as a model of one's own: `model = "examples.llama_of_transformers:llama"` in a sweep file."""

from typing import ClassVar

from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


class Llama:
    """A ladder of small Llamas with tied embeddings, of the shapes of mor-sweep's own 12k to 85k."""

    version = "1"
    sizes: ClassVar = {  # name -> what `build` takes
        "12k": {"width": 16, "layers": 4, "heads": 2, "hidden": 44},
        "26k": {"width": 24, "layers": 4, "heads": 2, "hidden": 64},
        "45k": {"width": 32, "layers": 4, "heads": 2, "hidden": 84},
        "85k": {"width": 44, "layers": 4, "heads": 2, "hidden": 116},
    }

    def build(
        self, *, vocab_size: int, context_length: int, width: int, layers: int, heads: int, hidden: int
    ) -> nn.Module:
        config = LlamaConfig(
            vocab_size=vocab_size,
            max_position_embeddings=context_length,
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            initializer_range=0.1,
            tie_word_embeddings=True,
            use_cache=False,
        )
        return LlamaForCausalLM(config)


llama = Llama()
