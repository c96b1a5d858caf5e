"""One Llama layer: RMSNorm, grouped-query attention with rotary positions, SwiGLU.

Shapes: B sequences, K tokens of a (packed) sequence, D model width, H query heads, G key and value heads, C head width,
F hidden width, T context length. A packed sequence is a subset of a sequence's tokens in their original order; each
token keeps its original position for RoPE, and attention is causal among the packed tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mor_core.config import ModelConfig


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), times a learned gain that starts at 1."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x_BKD: Tensor) -> Tensor:
        return F.rms_norm(x_BKD, (x_BKD.shape[-1],), self.weight, self.eps)


def rotary_table(config: ModelConfig) -> Tensor:
    """Cosines and sines of position * theta^(-2i/C), as [2, T, C/2] (RoFormer, arXiv 2104.09864, section 3.4.2)."""
    exponents = torch.arange(0, config.d_head, 2, dtype=torch.float64) / config.d_head
    positions = torch.arange(config.context_length, dtype=torch.float64)
    angles_TC = torch.outer(positions, config.rope_theta**-exponents)
    return torch.stack((angles_TC.cos(), angles_TC.sin())).float()


def rotate(x_BKHC: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pair (i, i + C/2) of each head by its token's angle, the layout of Llama's weights.

    rotary: cosines and sines, each [B or 1, K, 1, C/2].
    """
    cos, sin = rotary
    first, second = x_BKHC.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Causal grouped-query attention among the tokens it is given. Queries, keys and values are one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.d_head = config.num_heads, config.num_kv_heads, config.d_head
        self.qkv = nn.Linear(config.d_model, (self.num_heads + 2 * self.num_kv_heads) * self.d_head, bias=False)
        self.out = nn.Linear(self.num_heads * self.d_head, config.d_model, bias=False)

    def forward(self, x_BKD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        qkv = self.qkv(x_BKD).unflatten(-1, (-1, self.d_head))
        qk, v_BKGC = qkv.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=2)
        # The tables are fp32; under bf16 the rotation is computed in fp32 and rounded once.
        q_BKHC, k_BKGC = rotate(qk, rotary).to(qkv.dtype).split((self.num_heads, self.num_kv_heads), dim=2)
        y_BHKC = F.scaled_dot_product_attention(
            q_BKHC.transpose(1, 2),
            k_BKGC.transpose(1, 2),
            v_BKGC.transpose(1, 2),
            is_causal=True,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )
        return self.out(y_BHKC.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BKD: Tensor) -> Tensor:
        gate_BKF, up_BKF = self.gate_up(x_BKD).chunk(2, dim=-1)
        return self.down(F.silu(gate_BKF) * up_BKF)


class Layer(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x_BKD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x_BKD = x_BKD + self.attention(self.attention_norm(x_BKD), rotary)
        return x_BKD + self.mlp(self.mlp_norm(x_BKD))
