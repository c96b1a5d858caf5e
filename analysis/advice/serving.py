"""What a trained model costs per token that it serves: FLOPs, or bytes moved between memory and processor.

To generate a token the weights are read once for all sequences that are decoded together, and keys and values once for
the token's own sequence (numbers of b bytes, sequences of T tokens on average):

    bytes per token = b (weights passed / sequences + KV read per token of context x T)
    sequences       = memory for keys and values / (b x KV kept per token of context x T)

A routed token passes the shared block as often as its depth says, and reads the keys and values of the recursions that
it reaches, so that a lower realised depth lowers both. Passes through the block are taken as full, whatever recursions
its tokens are at (depth-wise batching, `mor_core.inference.engine`). Training is bound by its FLOPs; in bytes they
count as what the machine could have moved in the time that it takes to compute them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from analysis.runs.points import TableError
from analysis.statistics.quadratic import Floats
from analysis.surface.contour import Contour, SizeCurve, size_curve, straight_curve
from mor_core.errors import Fix, UserError

FORWARD_SHARE = {"paper": 1.0}
"""Share of the forward pass in training FLOPs by convention; a third where the convention counts the backward pass."""
H100_FLOPS_PER_BYTE = 295.0
"""An NVIDIA H100 SXM: 989.4 dense bf16 TFLOP/s over 3.35 TB/s (data sheet)."""
MEMORY_COLUMNS = ("total_params", "kv_numbers_kept", "kv_numbers_read")
"""What a run table must have for anything that counts bytes, besides `unique_params` and `recursions`."""
Per = Literal["flops", "bytes"]


class DemandError(UserError):
    """A demand that contradicts itself or leaves something out."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What will be served, on what machine, and what is to be small. Raises DemandError."""

    tokens: float
    """Tokens that go through the trained model."""
    per: Per = "flops"
    """What is made small: training and serving FLOPs, or bytes moved."""
    context: float | None = None
    """Tokens that a sequence holds on average while it is served, prompt included."""
    kv_cache_bytes: float | None = None
    """Memory for keys and values, wherever the weights lie; None for no limit."""
    memory_bytes: float | None = None
    """Memory for keys and values and the weights beside them; None for no limit."""
    bytes_per_number: float = 2.0
    """Of weights, keys and values; 2 in bf16."""
    flops_per_byte: float = H100_FLOPS_PER_BYTE
    """FLOPs that the machine computes in the time in which it moves a byte."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tokens) and self.tokens >= 0):
            raise DemandError(f"served tokens: found {self.tokens:g}, expected a number from 0.")
        for name in ("context", "kv_cache_bytes", "memory_bytes", "bytes_per_number", "flops_per_byte"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise DemandError(f"{name.replace('_', ' ')}: found {value:g}, expected a number above 0.")
        if self.kv_cache_bytes and self.memory_bytes:
            raise DemandError(
                "found a budget for keys and values and one for all memory, expected one of them: the first leaves "
                "the weights out, the second holds them too."
            )
        if self.per == "bytes" and not self.limited:
            raise DemandError(
                "bytes per token depend on how many sequences are decoded together: give the memory for keys and "
                "values (kv cache bytes), or all of it (memory bytes)."
            )
        if self.limited and self.context is None:
            raise DemandError("a memory budget needs a context: tokens that a served sequence holds on average.")

    @property
    def limited(self) -> bool:
        """True where memory limits how many sequences are served together."""
        return self.kv_cache_bytes is not None or self.memory_bytes is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryUse:
    """Numbers (not bytes) of an arm as functions of its unique, non-embedding parameters."""

    weights_kept: SizeCurve
    """Weights that lie in memory, embedding included."""
    weights_passed: SizeCurve
    """Weights that a token passes on average: those of the shared block as often as it goes through."""
    kv_kept: SizeCurve
    """Keys and values that a token of a sequence leaves in memory."""
    kv_read: SizeCurve
    """Keys and values that a generated token reads for each token of its sequence."""
    kv_scatter: float
    """Largest relative difference between the keys and values kept by a shape and the power law taken through them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedArm:
    """What serving an arm takes."""

    flops_ratio: float = 1.0
    """FLOPs of a served token over those of a forward pass at the planned depths."""
    memory: MemoryUse | None = None
    """None where the table does not say."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoding:
    """Serving from memory at some sizes, each (m,)."""

    sequences: Floats
    """How many are decoded together; below 1 the model cannot be served."""
    weight_bytes: Floats
    """Bytes of weights per generated token."""
    kv_bytes: Floats
    """Bytes of keys and values per generated token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Price:
    """What tokens cost in FLOPs or bytes at numbers of parameters (m,); inf where a model cannot be served."""

    training: Callable[[Floats], Floats]
    """Of a token that is trained on."""
    serving: Callable[[Floats], Floats]
    """Of a token that is served."""


def served_arms(runs: pl.DataFrame, *, with_memory: bool = False) -> dict[str, ServedArm]:
    """By arm, from a run table; `with_memory` insists on what bytes are counted from. Raises TableError."""
    ratios = _flops_ratios(runs)
    curves = _memory_curves(runs, with_memory)
    return {
        arm: ServedArm(flops_ratio=ratios.get(arm, 1.0), memory=curves.get(arm))
        for arm in dict.fromkeys((*ratios, *curves))
    }


def _flops_ratios(runs: pl.DataFrame) -> dict[str, float]:
    """The median over an arm's cells, FLOPs exact on both sides; empty for a table that does not say.

    A routed arm goes on by thresholds when it serves, so that its depth is what it turns out to be.
    """
    if not {"forward_flops_per_token", "flops_exact", "tokens"} <= set(runs.columns):
        return {}
    planned = pl.col("flops_exact").cast(pl.Float64) / pl.col("tokens") / 3
    ratio = (pl.col("forward_flops_per_token") / planned).alias("ratio")
    ratios = runs.select("arm", ratio).drop_nulls().group_by("arm").agg(pl.col("ratio").median())
    return {arm: float(ratio) for arm, ratio in ratios.iter_rows()}


def trained_context(runs: pl.DataFrame) -> float | None:
    """Tokens of the sequences that were trained on; None where the table does not say, or says several."""
    if "context_length" not in runs.columns:
        return None
    lengths = runs["context_length"].unique().to_list()
    return float(lengths[0]) if len(lengths) == 1 else None


def _memory_curves(runs: pl.DataFrame, needed: bool) -> dict[str, MemoryUse]:
    missing = [name for name in MEMORY_COLUMNS if name not in runs.columns or runs[name].null_count() == runs.height]
    if missing and needed:
        raise TableError(
            f"The run table does not say {', '.join(missing)}, from which bytes are counted",
            fix=Fix(
                setting="columns",
                words="in {} map total_params=COLUMN and kv=COLUMN, and for recursive arms unrolled_params, recursions "
                "and depth",
            ),
        )
    if missing:
        return {}
    return {
        str(arm): _memory_use(points)
        for (arm,), points in _memory_frame(runs).group_by("arm", maintain_order=True)
        if points["params"].n_unique() > 1
    }


def _memory_frame(runs: pl.DataFrame) -> pl.DataFrame:
    """arm, params and the quantities of `MemoryUse`, one row a run that says them all."""
    depth = pl.col("depth_mean") if "depth_mean" in runs.columns else pl.lit(None, dtype=pl.Float64)
    block = (pl.col("unrolled_params") - pl.col("unique_params")) / (pl.col("recursions") - 1)
    passed = pl.col("total_params") + (pl.coalesce(depth, pl.col("recursions")) - 1) * block
    quantities = {
        "params": pl.col("unique_params"),
        "weights_kept": pl.col("total_params"),
        "weights_passed": pl.when(pl.col("recursions") <= 1).then(pl.col("total_params")).otherwise(passed),
        "kv_kept": pl.col("kv_numbers_kept"),
        "kv_read": pl.col("kv_numbers_read"),
    }
    return runs.select(
        "arm", *(quantity.cast(pl.Float64).alias(name) for name, quantity in quantities.items())
    ).drop_nulls()


def _memory_use(frame: pl.DataFrame) -> MemoryUse:
    params, kept = frame["params"].to_numpy(), frame["kv_kept"].to_numpy()
    kv_kept = straight_curve(params, kept)
    return MemoryUse(
        weights_kept=size_curve(params, frame["weights_kept"].to_numpy()),
        weights_passed=size_curve(params, frame["weights_passed"].to_numpy()),
        kv_kept=kv_kept,
        kv_read=straight_curve(params, frame["kv_read"].to_numpy()),
        kv_scatter=float(np.abs(kv_kept(params) / kept - 1).max()),
    )


def decoding(arm: ServedArm, demand: Demand, params: Floats) -> Decoding | None:
    """Serving `params` (m,) from limited memory; None where nothing limits it."""
    if not demand.limited:
        return None
    assert arm.memory is not None, "see served_arms(with_memory=True)"
    assert demand.context is not None
    number, context = demand.bytes_per_number, demand.context
    room = np.full_like(params, demand.kv_cache_bytes or 0.0)
    if demand.memory_bytes is not None:
        room = np.maximum(demand.memory_bytes - number * arm.memory.weights_kept(params), 0.0)
    sequences = room / (number * arm.memory.kv_kept(params) * context)
    served = sequences >= 1
    return Decoding(
        sequences=sequences,
        weight_bytes=number * arm.memory.weights_passed(params) / np.where(served, sequences, 1.0),
        kv_bytes=number * arm.memory.kv_read(params) * context,
    )


def price_of(arm: ServedArm, demand: Demand, contour: Contour, convention: str) -> Price:
    """What the tokens of an arm cost, where `contour` gives its training FLOPs per token in `convention`."""
    share = FORWARD_SHARE.get(convention, 1 / 3)

    def serving(params: Floats) -> Floats:
        moved = decoding(arm, demand, params)
        cost = contour.flops_per_token(params) * share * arm.flops_ratio
        if moved is None:
            return cost
        if demand.per == "bytes":
            cost = moved.weight_bytes + moved.kv_bytes
        return np.where(moved.sequences >= 1, cost, np.inf)

    def training(params: Floats) -> Floats:
        cost = contour.flops_per_token(params)
        # A backward pass costs twice a forward one, whether or not the convention counts it.
        return cost if demand.per == "flops" else cost * 3 * share / demand.flops_per_byte

    return Price(training=training, serving=serving)
