"""One Llama layer: RMSNorm, grouped-query attention with rotary positions, SwiGLU.

Shapes: B sequences, K tokens of a (packed) sequence, D model width, H query heads, G key and value heads, C head width,
F hidden width, T context length. A packed sequence is a subset of a sequence's tokens in their original order; each
token keeps its original position for RoPE, and attention is causal among the packed tokens, or, where a recursion
attends to the keys of an earlier one (`KeySource`), over the T tokens up to each query's own position.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask

from mor_core.config.model import ModelConfig
from mor_core.model.attention import Prefix, as_read, causal_attention, prefix_attention


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), times a learned gain that starts at 1."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x_BKD: Tensor) -> Tensor:
        # Half precision needs sums that are wider than it is, which torch's own has.
        if x_BKD.device.type == "cpu" and x_BKD.dtype.itemsize >= 4 and not torch.compiler.is_compiling():
            if not torch.is_grad_enabled():
                return _normed(x_BKD, self.eps)[0] * self.weight
            return _RMSNormOnCPU.apply(x_BKD, self.weight, self.eps)  # pyright: ignore
        return F.rms_norm(x_BKD, (x_BKD.shape[-1],), self.weight, self.eps)


class _RMSNormOnCPU(torch.autograd.Function):
    """The same in few passes over memory: torch fuses it on a GPU and in compiled code, but not here."""

    @staticmethod
    def forward(ctx: Any, x_BKD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        normed_BKD, inverse_BK1 = _normed(x_BKD, eps)
        ctx.save_for_backward(normed_BKD, weight_D, inverse_BK1)
        return normed_BKD * weight_D

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_norm_gradients(ctx, *grad_outputs), None


def _normed(x_BKD: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x), and 1 / rms(x)."""
    norm_BK1 = torch.linalg.vector_norm(x_BKD, dim=-1, keepdim=True)
    inverse_BK1 = norm_BK1.square_().div_(x_BKD.shape[-1]).add_(eps).rsqrt_()
    return x_BKD * inverse_BK1, inverse_BK1


@once_differentiable
def _norm_gradients(ctx: Any, dy_BKD: Tensor) -> tuple[Tensor, Tensor]:
    """With n = x / rms(x) and g = dy * weight: dx = (g - n mean(g n)) / rms(x), dweight = sum(dy n)."""
    normed_BKD, weight_D, inverse_BK1 = ctx.saved_tensors
    products_BKD = dy_BKD * normed_BKD
    # Autocast would narrow any other product.
    sums_BK1 = torch.mv(products_BKD.flatten(0, -2), weight_D).view(inverse_BK1.shape)
    dx_BKD = (dy_BKD * weight_D).addcmul_(normed_BKD, sums_BK1, value=-1 / len(weight_D)).mul_(inverse_BK1)
    return dx_BKD, products_BKD.flatten(0, -2).sum(dim=0)


def rotary_table(config: ModelConfig) -> Tensor:
    """Cosines and sines of position * theta^(-2i/C), as [2, T, C] (RoFormer, arXiv 2104.09864, section 3.4.2).

    Both are there for either member of a pair; the first member's sine is negative.
    """
    exponents = torch.arange(0, config.d_head, 2, dtype=torch.float64) / config.d_head
    positions = torch.arange(config.context_length, dtype=torch.float64)
    angles_TC = torch.outer(positions, config.rope_theta**-exponents)
    cos_TC, sin_TC = angles_TC.cos(), angles_TC.sin()
    return torch.stack((torch.cat((cos_TC, cos_TC), dim=1), torch.cat((-sin_TC, sin_TC), dim=1))).float()


def rotate(x_BKHC: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pair (i, i + C/2) of each head by its token's angle, the layout of Llama's weights.

    rotary: cosines and sines, each [B or 1, K, 1, C], in fp32 at least: bf16 is rounded once, at the end.
    """
    # Compiled code fuses the passes that autograd's own gradient takes. (And torch 2.11 compiles a wrong gradient for a
    # Function that returns what an operation in place has left, as _Rotation does.)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _rotated(x_BKHC, *rotary).to(x_BKHC.dtype)
    return _Rotation.apply(x_BKHC, *rotary)  # pyright: ignore


def rotate_in_place(x_BKHC: Tensor, rotary: tuple[Tensor, Tensor]) -> None:
    """The same where no gradient is wanted and nobody needs what was there before."""
    x_BKHC.copy_(_rotated(x_BKHC, *rotary))


class _Rotation(torch.autograd.Function):
    """Its gradient is turned back by the same angle, in fewer than half the passes that autograd's own would take."""

    @staticmethod
    def forward(ctx: Any, x_BKHC: Tensor, cos_BK1C: Tensor, sin_BK1C: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BK1C, sin_BK1C)
        return _rotated(x_BKHC, cos_BK1C, sin_BK1C).to(x_BKHC.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (dy_BKHC,) = grad_outputs
        return _rotated(dy_BKHC, *ctx.saved_tensors, direction=-1).to(dy_BKHC.dtype), None, None


def _rotated(x_BKHC: Tensor, cos_BK1C: Tensor, sin_BK1C: Tensor, direction: int = 1) -> Tensor:
    """In the precision of the angles, or of x where that is wider."""
    first, second = x_BKHC.chunk(2, dim=-1)
    partners_BKHC = torch.cat((second, first), dim=-1)
    return (x_BKHC * cos_BK1C).addcmul_(partners_BKHC, sin_BK1C, value=direction)


class KeyValues(NamedTuple):
    """One layer's keys (rotated) and values of the tokens it was given."""

    k_BGKC: Tensor
    v_BGKC: Tensor


class KeySource(NamedTuple):
    """Keys and values that a later application of a layer attends to (paper sections 2.2.2 and 4.3)."""

    first: KeyValues
    """Of the whole sequence, from the layer's first application."""
    prefix: Prefix | BlockMask | None
    """None where every token is a query, so that plain causal attention says it all."""
    refresh_BK: Tensor | None
    """hybrid: positions whose keys and values are computed anew from the packed tokens."""
    valid_BK: Tensor | None
    """False on padding of the packed tokens, which refreshes nothing; None where nothing is padded."""


class Attention(nn.Module):
    """Causal grouped-query attention. Queries, keys and values are one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.d_head = config.num_heads, config.num_kv_heads, config.d_head
        self.qkv = nn.Linear(config.d_model, (self.num_heads + 2 * self.num_kv_heads) * self.d_head, bias=False)
        self.out = nn.Linear(self.num_heads * self.d_head, config.d_model, bias=False)

    def forward(
        self, x_BKD: Tensor, rotary: tuple[Tensor, Tensor], source: KeySource | None = None
    ) -> tuple[Tensor, KeyValues]:
        """The block's output and the keys and values it attended to."""
        if source is not None and source.refresh_BK is None:
            q_BHKC, kv = self.queries(x_BKD, rotary), source.first
        else:
            q_BHKC, kv = self.project(x_BKD, rotary)
        if source is not None and source.refresh_BK is not None:
            kv = _refreshed(source, kv)
        y_BHKC = self._attend(q_BHKC, kv, source.prefix if source is not None else None)
        return self.out(y_BHKC.transpose(1, 2).flatten(2)), kv

    def project(self, x_BKD: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, KeyValues]:
        """Queries, keys and values, rotated where that is due."""
        qkv = self.qkv(x_BKD).unflatten(-1, (-1, self.d_head))
        qk, v_BKGC = qkv.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=2)
        q_BKHC, k_BKGC = rotate(qk, rotary).split((self.num_heads, self.num_kv_heads), dim=2)
        return q_BKHC.transpose(1, 2), KeyValues(as_read(k_BKGC.transpose(1, 2)), as_read(v_BKGC.transpose(1, 2)))

    def queries(self, x_BKD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Queries alone: keys and values come from elsewhere and are not computed."""
        q = F.linear(x_BKD, self.qkv.weight[: self.num_heads * self.d_head]).unflatten(-1, (-1, self.d_head))
        return rotate(q, rotary).transpose(1, 2)

    def _attend(self, q_BHKC: Tensor, kv: KeyValues, prefix: Prefix | BlockMask | None) -> Tensor:
        if prefix is None:
            return causal_attention(q_BHKC, *kv)
        return prefix_attention(q_BHKC, *kv, prefix)


def _refreshed(source: KeySource, fresh: KeyValues) -> KeyValues:
    """The first application's keys and values with those at the packed tokens' positions replaced."""
    assert source.refresh_BK is not None

    def replace(old_BGTC: Tensor, new_BGKC: Tensor) -> Tensor:
        assert source.refresh_BK is not None
        at = source.refresh_BK[:, None, :, None].expand_as(new_BGKC)
        if source.valid_BK is not None:
            new_BGKC = torch.where(source.valid_BK[:, None, :, None], new_BGKC, old_BGTC.gather(2, at))
        return old_BGTC.scatter(2, at, new_BGKC)

    return KeyValues(*(replace(old, new) for old, new in zip(source.first, fresh, strict=True)))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BKD: Tensor) -> Tensor:
        return self.down(self.hidden(x_BKD))

    def hidden(self, x_BKD: Tensor) -> Tensor:
        """What is brought down, [B, K, F]."""
        gate_BKF, up_BKF = self.gate_up(x_BKD).chunk(2, dim=-1)
        return F.silu(gate_BKF) * up_BKF


class Layer(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self, x_BKD: Tensor, rotary: tuple[Tensor, Tensor], source: KeySource | None = None
    ) -> tuple[Tensor, KeyValues]:
        """The residual stream after this layer, and the keys and values that its attention saw."""
        attended_BKD, kv = self.attention(self.attention_norm(x_BKD), rotary, source)
        x_BKD = x_BKD + attended_BKD
        return x_BKD + self.mlp(self.mlp_norm(x_BKD)), kv
