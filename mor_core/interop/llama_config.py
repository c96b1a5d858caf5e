"""config.json of a Hugging Face Llama, as transformers 4 and 5 write it, to and from a ModelConfig. No torch."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mor_core.config.model import LARGEST, ModelConfig
from mor_core.errors import UserError

CONFIG = "config.json"
ROPE_THETA = 10000.0
"""transformers' rotary base where config.json names none."""


class PretrainedError(UserError):
    """Weights that cannot be used or written; the message says what was found and what to do."""


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The object in a config.json; what it holds is not trusted."""

    path: Path
    values: dict[str, Any]

    def whole(self, key: str, largest: int, default: int | None = None) -> int:
        value = default if self.values.get(key) is None else self.values[key]
        if type(value) is not int or not 1 <= value <= largest:
            raise self.error(key, f"expected a whole number from 1 to {largest}")
        return value

    def positive(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise self.error(key, "expected a number above 0")
        return float(value)

    def expect(self, key: str, expected: object, default: object, why: str) -> None:
        if self.values.get(key, default) != expected:
            raise self.error(key, why)

    def error(self, key: str, why: str) -> PretrainedError:
        value = repr(self.values[key]) if key in self.values else "not given"
        return PretrainedError(f"{self.path}: {key} is {value}; {why}.")


def read_config(path: Path) -> ModelConfig:
    """The vanilla transformer that a config.json describes, with its longest sequence as context.

    A key that is left out has the value that transformers gives it. Raises PretrainedError for a file that is not
    such an object, and for a model that differs from this project's in more than shape.
    """
    settings = _Settings(path=path, values=read_object(path))
    settings.expect("model_type", "llama", None, "only the architecture llama can be read")
    settings.expect("hidden_act", "silu", "silu", "this project's MLP uses silu")
    for key in ("attention_bias", "mlp_bias"):
        settings.expect(key, False, False, "this project's layers have no biases")
    settings.expect(
        "tie_word_embeddings", True, False, "this project's output head is the embedding, so only tied weights fit"
    )
    width = settings.whole("hidden_size", LARGEST["d_model"])
    heads = settings.whole("num_attention_heads", LARGEST["num_heads"])
    if settings.values.get("head_dim") is None and width % heads:
        raise settings.error("hidden_size", f"expected a multiple of num_attention_heads {heads}, or a head_dim")
    shape: dict[str, Any] = {
        "vocab_size": settings.whole("vocab_size", LARGEST["vocab_size"]),
        "context_length": settings.whole("max_position_embeddings", LARGEST["context_length"], 2048),
        "num_layers": settings.whole("num_hidden_layers", LARGEST["num_layers"]),
        "d_model": width,
        "num_heads": heads,
        "num_kv_heads": settings.whole("num_key_value_heads", LARGEST["num_kv_heads"], heads),
        "d_head": settings.whole("head_dim", LARGEST["d_head"], width // heads),
        "d_ff": settings.whole("intermediate_size", LARGEST["d_ff"]),
        "rope_theta": _rope_theta(settings),
        "norm_eps": settings.positive("rms_norm_eps", 1e-6),
        "init_std": settings.positive("initializer_range", 0.02),
    }
    try:
        return ModelConfig(**shape)
    except ValueError as error:
        raise PretrainedError(f"{path}: {error}.") from error


def written_config(model: ModelConfig, dtype: str, end_of_text_id: int | None) -> dict[str, Any]:
    """The config.json of an unrolled model; transformers 4 reads rope_theta and torch_dtype, 5 the other two."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context_length,
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.d_model,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.d_head,
        "intermediate_size": model.d_ff,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "rms_norm_eps": model.norm_eps,
        "initializer_range": model.init_std,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "torch_dtype": dtype,
        "dtype": dtype,
        "bos_token_id": None,
        "eos_token_id": end_of_text_id,
    }


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; PretrainedError where there is none."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{path} is not JSON ({error}); copy it again.") from error
    if not isinstance(values, dict):
        raise PretrainedError(f"{path} holds no JSON object; copy it again.")
    return values


def _rope_theta(settings: _Settings) -> float:
    """The rotary base: `rope_theta`, in transformers 5 within `rope_parameters`. Scaled positions are refused."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = settings.values.get(key) or {}
        kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else None
        if kind != "default" or set(rope) - {"rope_type", "type", "rope_theta"}:
            raise settings.error(key, "scaled or partial rotary positions are not this project's")
    nested = (settings.values.get("rope_parameters") or {}).get("rope_theta")
    theta = settings.positive("rope_theta", ROPE_THETA if nested is None else nested)
    if nested is not None and nested != theta:
        raise settings.error("rope_theta", f"rope_parameters says {nested!r}")
    return theta
