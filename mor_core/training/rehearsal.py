"""Faults on purpose, for tests and fire drills: MOR_SWEEP_REHEARSE names one, and no run without it is touched.

    MOR_SWEEP_REHEARSE="hang step=30 attempts=1"       the data loader sleeps for ever before step 30
    MOR_SWEEP_REHEARSE="native-hang step=30"           the same in a native call that keeps the interpreter
    MOR_SWEEP_REHEARSE="slow kind=evaluate"            each batch takes a second more
    MOR_SWEEP_REHEARSE="raise segment=3fa9"            a RuntimeError in segments whose id begins so
    MOR_SWEEP_REHEARSE="device-oom step=5"             torch.OutOfMemoryError, as a GPU raises it
    MOR_SWEEP_REHEARSE="nan step=30"                   training goes on from weights that are not numbers
    MOR_SWEEP_REHEARSE="spike step=29"                 training goes on from an embedding a hundred times as large

`step` (default: any), `attempts` (only the first so many attempts at a segment), `micro_batch` (only passes of more
than so many sequences), `segment` (start of its id), `kind` (stable, decay or evaluate) and `rank` (of the workers that
share a segment; default: 0) narrow where it happens.
"""

import ctypes
import os
import time
from collections.abc import Callable, Mapping

import torch

from mor_core.model.language_model import LanguageModel

VARIABLE = "MOR_SWEEP_REHEARSE"
_FOR_EVER_SECONDS = 10**6
_SLOW_SECONDS = 1.0


def rehearse(model: LanguageModel, where: Callable[[], Mapping[str, str | int]]) -> None:
    """Let the fault that MOR_SWEEP_REHEARSE names happen if it is meant for `where`: a step about to be taken."""
    fault, *conditions = os.environ.get(VARIABLE, "").split() or [""]
    if not fault:
        return
    if not any(condition.startswith("rank=") for condition in conditions):
        conditions.append("rank=0")
    facts = where()
    if not all(_holds(condition, facts) for condition in conditions):
        return
    match fault:
        case "hang":
            time.sleep(_FOR_EVER_SECONDS)
        case "slow":
            time.sleep(_SLOW_SECONDS)
        case "native-hang":
            ctypes.PyDLL(None).sleep(_FOR_EVER_SECONDS)
        case "raise":
            raise RuntimeError("a defect was rehearsed")
        case "device-oom":
            raise torch.OutOfMemoryError("CUDA out of memory was rehearsed")
        case "nan":
            with torch.no_grad():
                _first_matrix(model).fill_(float("nan"))
        case "spike":
            with torch.no_grad():
                _first_matrix(model).mul_(100.0)
        case _:
            raise ValueError(
                f"{VARIABLE}: {fault!r}, expected hang, slow, native-hang, raise, device-oom, nan or spike"
            )


def _first_matrix(model: LanguageModel) -> torch.Tensor:
    """Of our family, the embedding."""
    return next(parameter for parameter in model.parameters() if parameter.dim() >= 2)


def _holds(condition: str, where: Mapping[str, str | int]) -> bool:
    name, _, value = condition.partition("=")
    match name:
        case "segment":
            return str(where["segment"]).startswith(value)
        case "attempts":
            return int(where["attempt"]) <= int(value)
        case "micro_batch":
            return int(where["micro_batch"]) > int(value)
        case "kind":
            return where["kind"] == value
        case "step" | "rank":
            return where[name] == int(value)
        case _:
            raise ValueError(f"{VARIABLE}: {name!r}, expected step, attempts, micro_batch, segment, kind or rank")
