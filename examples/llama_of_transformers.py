"""Hugging Face's Llama as a model of one's own: `model = "examples.llama_of_transformers:llama"` in a sweep file."""

from typing import ClassVar

from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


class Llama:
    """A ladder of small Llamas with tied embeddings. FLOPs are counted as mor-sweep does: only pairs that attend."""

    version = "1"
    sizes: ClassVar = {  # name -> what `build` takes
        name: {"width": width, "hidden": 4 * round(2 * width / 3)}
        for name, width in {"2.8k": 8, "6.4k": 12, "12k": 16, "17k": 20, "26k": 24, "45k": 32, "85k": 44}.items()
    }

    def build(self, *, vocab_size: int, context_length: int, width: int, hidden: int) -> nn.Module:
        config = LlamaConfig(
            vocab_size=vocab_size,
            max_position_embeddings=context_length,
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.1,
            tie_word_embeddings=True,
            use_cache=False,
        )
        return LlamaForCausalLM(config)

    def training_flops_per_token(self, *, vocab_size: int, context_length: int, width: int, hidden: int) -> int:
        layer = 3 * width * width + 3 * width * hidden  # One key and value head of the two.
        return 6 * (4 * layer + vocab_size * width) + 4 * 6 * width * (context_length + 1)


llama = Llama()
