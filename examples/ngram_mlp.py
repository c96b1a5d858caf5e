"""A neural n-gram (Bengio et al. 2003, A Neural Probabilistic Language Model): an MLP over the last tokens' embeddings.

`model = "examples.ngram_mlp:ngram"` in a sweep file. It counts its own FLOPs.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ORDER = 8
"""Tokens that each prediction sees."""


class NgramMLP(nn.Module):
    """Token ids [B, T] to logits [B, T, V]: shifted embeddings side by side, one hidden layer, a linear head."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.hidden = nn.Linear(ORDER * width, 4 * width)
        self.head = nn.Linear(4 * width, vocab_size, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = F.pad(self.embedding(tokens_BT), (0, 0, ORDER - 1, 0))
        length = tokens_BT.shape[1]
        seen = [x_BTD[:, shift : shift + length] for shift in range(ORDER)]
        return self.head(torch.relu(self.hidden(torch.cat(seen, dim=-1))))


class Ngram:
    """A ladder of widths."""

    version = "1"
    sizes: ClassVar = {f"w{width}": {"width": width} for width in (3, 4, 6, 8, 12, 16, 24, 32)}

    def build(self, *, vocab_size: int, context_length: int, width: int) -> nn.Module:
        return NgramMLP(vocab_size, width)

    def training_flops_per_token(self, *, vocab_size: int, context_length: int, width: int) -> int:
        return 6 * (ORDER * width * 4 * width + 4 * width * vocab_size)


ngram = Ngram()
