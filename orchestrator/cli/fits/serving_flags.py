"""Flags that describe how a trained model will be served, and the demand that they add up to."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import polars as pl

    from analysis.advice.serving import Demand, ServedArm


class Per(StrEnum):
    """The quantity of which the cheapest model takes the least."""

    flops = "flops"
    bytes = "bytes"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What is made small, and within which memory."""

    per: Annotated[
        Per, typer.Option(help="What training and serving should take least of: flops, or bytes moved when decoding.")
    ] = Per.flops
    """The objective."""
    kv_cache_bytes: Annotated[
        float | None, typer.Option(help="Memory for keys and values: how many sequences are decoded together.")
    ] = None
    """A budget without the weights."""
    memory_bytes: Annotated[
        float | None, typer.Option(help="The same with the weights beside them, such as 80e9; one of the two.")
    ] = None
    """A budget with the weights."""
    context: Annotated[
        float | None,
        typer.Option(help="Tokens that a served sequence holds on average; what was trained on by default."),
    ] = None
    """Tokens of a sequence."""
    bytes_per_number: Annotated[float, typer.Option(help="Of weights, keys and values; 2 in bf16.")] = 2.0
    """Precision."""
    flops_per_byte: Annotated[
        float, typer.Option(help="FLOPs that the machine computes while it moves a byte; 295 on an H100 in bf16.")
    ] = 295.0
    """Balance of the machine."""


def demand_of(memory: Memory, served: float, runs: "pl.DataFrame") -> "Demand":
    """The demand of the flags; sequences as long as in training where no flag says otherwise. Raises DemandError."""
    from analysis.advice.serving import Demand, trained_context

    return Demand(
        tokens=served,
        per=memory.per.value,
        context=trained_context(runs) if memory.context is None else memory.context,
        kv_cache_bytes=memory.kv_cache_bytes,
        memory_bytes=memory.memory_bytes,
        bytes_per_number=memory.bytes_per_number,
        flops_per_byte=memory.flops_per_byte,
    )


def arms_served(runs: "pl.DataFrame", demand: "Demand") -> "Mapping[str, ServedArm]":
    """What serving each arm takes. Raises TableError where the table does not say."""
    from analysis.advice.serving import served_arms

    return served_arms(runs, with_memory=demand.limited)
