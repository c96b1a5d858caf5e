"""Attention of blocks of queries, norms and rotations against torch's own."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from mor_core.model import attention
from mor_core.model.attention import causal_attention, prefix_attention, prefix_of
from mor_core.model.layers import RMSNorm, rotate
from mor_core.model.sparse_prefix import sparse_prefix_of

SHAPES = [(2, 2, 2, 8, 4), (1, 4, 2, 11, 6), (2, 3, 1, 3, 4)]
"""B, H, G, T, C: blocks of 4 tokens that divide, that leave a rest, and one that is not full."""


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK_TOKENS", 4)


def block_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention._BlockAttention.apply(q, k, v, None)


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def sample(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """q, k, v as a layer makes them: views of one tensor whose heads lie inside its tokens."""
    batch, heads, groups, length, width = shape
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, length, heads + 2 * groups, width, generator=generator, dtype=torch.float64).to(dtype)
    return [x.transpose(1, 2).detach().requires_grad_() for x in qkv.split((heads, groups, groups), dim=2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_the_fused_kernel(shape: tuple[int, ...]) -> None:
    qkv = sample(shape, torch.float64)
    found, expected = block_attention(*qkv), reference(*qkv)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    for pair in zip(
        torch.autograd.grad(found, qkv, direction), torch.autograd.grad(expected, qkv, direction), strict=True
    ):
        torch.testing.assert_close(*pair)


def test_gradients_agree_with_finite_differences() -> None:
    assert torch.autograd.gradcheck(block_attention, sample((1, 2, 1, 6, 2), torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_is_as_near_to_exact_as_the_fused_kernel(shape: tuple[int, ...]) -> None:
    exact = sample(shape, torch.float64)
    target = reference(*exact)
    wanted = [target, *torch.autograd.grad(target.sum(), exact)]

    def error(function: partial[Tensor]) -> float:
        qkv = sample(shape, torch.bfloat16)
        output = function(*qkv)
        results = [output, *torch.autograd.grad(output.sum(), qkv)]
        return max(
            float((x.detach().double() - y.detach()).norm() / y.detach().norm().clamp(min=1))
            for x, y in zip(results, wanted, strict=True)
        )

    assert error(partial(causal_attention)) < 2 * error(partial(reference)) < 0.05


def test_a_token_does_not_depend_on_later_ones() -> None:
    q, k, v = sample((1, 2, 1, 10, 4), torch.bfloat16)
    before = causal_attention(q, k, v)
    with torch.no_grad():
        changed = causal_attention(*(torch.cat((x[:, :, :6], x[:, :, 6:] + 1), dim=2) for x in (q, k, v)))
    assert torch.equal(before[:, :, :6], changed[:, :, :6])
    assert not torch.equal(before[:, :, 6:], changed[:, :, 6:])


POSITIONS = torch.tensor([[0, 2, 3, 7, 10], [1, 4, 5, 6, 8]])
"""Packed queries of two sequences of 11 tokens: runs of 4 and 1."""


def packed(dtype: torch.dtype) -> list[Tensor]:
    """Queries at POSITIONS, keys and values of whole sequences; 4 heads share 2 keys."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 4, 5, 6), (2, 2, 11, 6), (2, 2, 11, 6)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def dense_prefix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.arange(11) <= POSITIONS[:, None, :, None]
    return F.scaled_dot_product_attention(
        q, k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1), attn_mask=mask
    )


@pytest.mark.parametrize("blocks_are_used", [True, False])
def test_packed_queries_see_the_keys_up_to_their_own_position(
    blocks_are_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attention.QUERIES_PER_RUN, "cpu", 4)
    monkeypatch.setattr(attention, "_takes_blocks", lambda _: blocks_are_used)
    qkv = packed(torch.float64)
    found, expected = prefix_attention(*qkv, prefix_of(POSITIONS, 11, 6, torch.float64)), dense_prefix(*qkv)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    for pair in zip(
        torch.autograd.grad(found, qkv, direction), torch.autograd.grad(expected, qkv, direction), strict=True
    ):
        torch.testing.assert_close(*pair)


def test_a_run_of_queries_looks_no_further_than_its_furthest_position() -> None:
    prefix = prefix_of(torch.tensor([[2, 3, 9], [3, 4, 5]]), 11, 6, torch.float64)
    assert prefix.keys == (10,)
    assert [mask.shape for mask in prefix.masks] == [(2, 1, 3, 10)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(1, 700), share=st.floats(0.01, 1.0), padded=st.booleans())
def test_the_blocks_that_a_gpu_visits_hold_every_visible_key_and_no_block_is_without_one(
    seed: int, length: int, share: float, padded: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = max(1, int(share * length))
    positions_BK = torch.rand(2, length, generator=generator).argsort(dim=1)[:, :queries]
    if not padded:  # Rows of padding repeat positions that were not selected, in no order.
        positions_BK = positions_BK.sort(dim=1).values
    mask = sparse_prefix_of(positions_BK, length)
    visible_BKT = torch.arange(length) <= positions_BK.unsqueeze(-1)
    for sequence in range(2):
        for block in range(-(-queries // 128)):
            places = slice(block * 128, min(block * 128 + 128, queries))
            seen_SK = F.pad(visible_BKT[sequence, places], (0, -length % 128)).unflatten(1, (-1, 128))
            everywhere = {s for s in range(seen_SK.shape[1]) if (s + 1) * 128 <= length and seen_SK[:, s].all()}
            somewhere = {s for s in range(seen_SK.shape[1]) if seen_SK[:, s].any()}
            full = mask.full_kv_indices[sequence, 0, block, : mask.full_kv_num_blocks[sequence, 0, block]].tolist()
            partial = mask.kv_indices[sequence, 0, block, : mask.kv_num_blocks[sequence, 0, block]].tolist()
            assert set(full) == everywhere
            assert set(partial) == somewhere - everywhere
            assert len(full) + len(partial) == len(somewhere)


def test_attention_over_those_blocks_is_the_dense_masked_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(2, heads, tokens, 16, generator=generator) for heads, tokens in ((4, 200), (2, 300), (2, 300))
    )
    positions_BK = torch.rand(2, 300, generator=generator).argsort(dim=1)[:, :200].sort(dim=1).values
    mask = torch.arange(300) <= positions_BK[:, None, :, None]
    keys, values = (each.repeat_interleave(2, dim=1) for each in (k, v))
    expected = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    found = flex_attention(q, k, v, block_mask=sparse_prefix_of(positions_BK, 300), enable_gqa=True)
    torch.testing.assert_close(found, expected)


def test_a_norm_on_a_cpu_has_the_values_and_gradients_of_torchs_own() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64).requires_grad_()
    norm = RMSNorm(8, 1e-5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(8, generator=generator, dtype=torch.float64))
    found, expected = norm(x), F.rms_norm(x, (8,), norm.weight, 1e-5)
    torch.testing.assert_close(found, expected)
    direction = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    for pair in zip(
        torch.autograd.grad(found, [x, norm.weight], direction),
        torch.autograd.grad(expected, [x, norm.weight], direction),
        strict=True,
    ):
        torch.testing.assert_close(*pair)


def test_a_norm_is_not_narrowed_where_autocast_covers_its_gradient_too() -> None:
    x, direction = torch.randn(2, 3, 4, 16, generator=torch.Generator().manual_seed(3))
    norm, x = RMSNorm(16, 1e-5), x.requires_grad_()
    alone = torch.autograd.grad(norm(x), x, direction)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        covered = torch.autograd.grad(norm(x), x, direction)
    assert torch.equal(alone[0], covered[0])


def test_rotation_keeps_lengths_and_its_gradients_agree_with_finite_differences() -> None:
    angles = torch.rand(1, 5, 1, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()
    rotary = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    x = torch.randn(2, 5, 2, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(rotate(x, rotary).norm(dim=-1), x.norm(dim=-1))
    assert torch.autograd.gradcheck(lambda each: rotate(each, rotary), [x])
