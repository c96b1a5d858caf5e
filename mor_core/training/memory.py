"""Peak memory of training a model: bytes of tensors alive at the same time. Pure, no torch; bench/train_step
measures it.

The formula follows what one step of `mor_core` keeps, and how much of the loss is computed at a time, which is chosen
here. It leaves out what a kernel takes and frees inside one operation, what the allocator holds on to, and compiled
code, which keeps less.
"""

from typing import Literal

from mor_core.config.model import ModelConfig
from mor_core.config.own_model import Model, OwnModel
from mor_core.config.training import TrainConfig
from mor_core.flops import total_params

Device = Literal["cpu", "cuda"]
"""What a choice depends on."""

CHUNK_TOKENS: dict[Device, int] = {"cpu": 1024, "cuda": 4096}
"""Tokens of one matrix product of the loss. Each chunk reads and writes the weight's whole gradient, which many tokens
repay."""

PIECE_ENTRIES: dict[Device, int] = {"cpu": 2**19, "cuda": 2**24}
"""Logits that are in fp32 at once: 2 MB stay in a processor's cache; 64 MB are enough work for each kernel of a GPU."""

FP32, BF16 = 4, 2
"""Bytes of a number."""


def training_memory_bytes(
    model: Model,
    train: TrainConfig,
    device: Device,
    *,
    micro_batch: int | None = None,
    checkpoint_activations: bool = False,
) -> int:
    """Bytes at the peak of a step over micro-batches of `micro_batch` sequences (None: the whole batch).

    fp32 weights and AdamW's two moments always; activations until their backward pass; the loss's logits of a chunk
    with the head's gradient, or all gradients at the end. Under bf16, copies of the weights in bf16 as well.
    """
    sequences = min(micro_batch or train.batch_size, train.batch_size)
    tokens = sequences * model.context_length
    number = FP32 if train.precision == "fp32" else BF16
    params = total_params(model)
    copies = 0 if train.precision == "fp32" else BF16 * params
    if isinstance(model, OwnModel):  # As counted in fp32, the logits and their gradient included.
        return (
            4 * FP32 * params
            + copies
            + sequences * (model.activation_bytes + FP32 * model.context_length * model.vocab_size)
        )
    layer = _layer_bytes_per_token(model, number, device)
    applied = sequences * (
        model.num_unshared_layers * model.context_length + model.block_depth * sum(model.tokens_per_recursion())
    )
    # A checkpointed layer keeps its input in fp32; one layer at a time is computed again.
    kept = layer * applied
    if checkpoint_activations:
        kept = FP32 * model.d_model * applied + _shared_keys_bytes(model, tokens, number)
    # And once: the embedding, the final norm, and the layer that is being computed.
    activations = kept + tokens * (layer + (2 * FP32 + number) * model.d_model)
    head = max(_loss_bytes(model, tokens, number, device), _first_backward_bytes(model, tokens, number))
    return max(3 * FP32 * params + copies + activations + head, 4 * FP32 * params + copies)


def _layer_bytes_per_token(model: ModelConfig, number: int, device: Device) -> int:
    """What one application of a layer keeps for its backward pass.

    Twice (for attention and for the MLP): the norm of the residual stream in fp32, on a GPU the stream itself as well,
    and the norm as the product reads it. Then queries, keys and values before and after their rotation, the attended
    values, and gate, up, their product and SiLU.
    """
    q, kv = model.num_heads * model.d_head, model.num_kv_heads * model.d_head
    norms = 2 * ((FP32 if device == "cpu" else 2 * FP32) + number) * model.d_model
    return norms + number * ((q + 2 * kv) + (q + kv) + q + 4 * model.d_ff)


def _shared_keys_bytes(model: ModelConfig, tokens: int, number: int) -> int:
    """Keys and values that later recursions attend to, and their gradients; without checkpoints a layer's own."""
    if model.recursion.kv == "recursion-wise":
        return 0
    return 2 * number * tokens * model.block_depth * 2 * model.num_kv_heads * model.d_head


def _loss_bytes(model: ModelConfig, tokens: int, number: int, device: Device) -> int:
    """In the loss: a chunk's logits, the head's gradient in fp32 with a chunk's share of it, and the hidden states'."""
    logits = number * min(tokens, CHUNK_TOKENS[device]) * model.vocab_size
    share = 0 if number == FP32 else BF16 * model.vocab_size * model.d_model
    return logits + FP32 * model.vocab_size * model.d_model + share + number * tokens * model.d_model


def _first_backward_bytes(model: ModelConfig, tokens: int, number: int) -> int:
    """As the backward pass begins: the head's gradient and its scaled copy, the hidden states' in both precisions."""
    return 2 * FP32 * model.vocab_size * model.d_model + (number + FP32) * tokens * model.d_model
