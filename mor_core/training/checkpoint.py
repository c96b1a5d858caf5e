"""Checkpoints: safetensors and JSON, never pickle. A manifest of sha256 sums is verified before anything is loaded.

A checkpoint folder holds `weights.safetensors` (parameters and router thresholds), `optimizer.safetensors` (AdamW's
moments, or the state of an own model's steps; absent where only weights were kept) and `manifest.json`. It appears by
one rename, so a folder with the final name is whole; the sums catch what happens to it later.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mor_core.files import file_sha256
from mor_core.model.language_model import LanguageModel
from mor_core.training.manifest import (
    MANIFEST,
    OPTIMIZER,
    SCHEMA,
    WEIGHTS,
    CheckpointError,
    Manifest,
    verify_checkpoint,
)
from mor_core.training.optim import Optimizer, OwnSteps


def save_checkpoint(folder: Path, model: LanguageModel, optimizer: Optimizer | None, step: int) -> Manifest:
    """Write a checkpoint and make it appear at `folder` by one rename; replaces a folder already there.

    Raises OSError where it cannot be written; for a full disk it says how many bytes are needed.
    """
    temporary = folder.with_name(f"{folder.name}.writing.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with _saying_what_is_needed(folder, model, optimizer):
            temporary.mkdir()  # Not those above it: a results folder that was moved away must not come back.
            manifest = _write(temporary, model, optimizer, step)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # What a full disk cut short must not keep it full.
    _fsync(folder.parent)
    return manifest


@contextmanager
def _saying_what_is_needed(folder: Path, model: LanguageModel, optimizer: Optimizer | None) -> Iterator[None]:
    """A full disk in the body is an OSError that names the checkpoint and its size."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has no error numbers.
        full = getattr(error, "errno", None) in _FULL or any(f"os error {number}" in str(error) for number in _FULL)
        if not full:
            raise OSError(f"{folder} cannot be written: {error}") from error
        tensors = [
            *model.stored_tensors().values(),
            *(_optimizer_tensors(model, optimizer).values() if optimizer else ()),
        ]
        needed = sum(tensor.nbytes for tensor in tensors)
        raise OSError(
            f"{folder} needs {needed:,} bytes, and no space is left for it: free some and run the same command again"
        ) from error


_FULL = (errno.ENOSPC, errno.EDQUOT)


def _write(folder: Path, model: LanguageModel, optimizer: Optimizer | None, step: int) -> Manifest:
    """The files of a checkpoint, on disk for certain."""
    _save(folder / WEIGHTS, model.stored_tensors())
    if optimizer is not None:
        _save(folder / OPTIMIZER, _optimizer_tensors(model, optimizer))
    manifest = Manifest(step=step, files={path.name: file_sha256(path) for path in sorted(folder.iterdir())})
    text = json.dumps({"schema": SCHEMA, "step": step, "files": manifest.files}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text)
    for path in (*folder.iterdir(), folder):
        _fsync(path)
    return manifest


def load_checkpoint(folder: Path, model: LanguageModel, optimizer: Optimizer | None) -> int:
    """Verify a checkpoint and load it into a model of the same shape; returns its step. Raises CheckpointError.

    With optimizer=None only the weights are read.
    """
    manifest = verify_checkpoint(folder)
    names = [WEIGHTS] if optimizer is None else [WEIGHTS, OPTIMIZER]
    for name in names:
        if name not in manifest.files:
            raise CheckpointError(f"{folder / name}: this checkpoint holds {', '.join(sorted(manifest.files))} only")
    device = str(model.device)
    weights = load_file(folder / WEIGHTS, device=device)
    moments = {} if optimizer is None else load_file(folder / OPTIMIZER, device=device)
    # Everything is compared before anything is copied: a refused checkpoint leaves the model as it was.
    _check_shapes(folder / WEIGHTS, weights, {name: value.shape for name, value in model.stored_tensors().items()})
    if optimizer is not None and not isinstance(optimizer, OwnSteps):
        _check_shapes(folder / OPTIMIZER, moments, _optimizer_shapes(model))
        _restore_optimizer(model, optimizer, moments)
    model.load_state_dict(weights, strict=False)  # What is tied to another tensor is stored once.
    if isinstance(optimizer, OwnSteps):
        optimizer.restore(moments)
    return manifest.step


def _check_shapes(path: Path, tensors: dict[str, Tensor], expected: dict[str, torch.Size]) -> None:
    shapes = {name: value.shape for name, value in tensors.items()}
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            stored_text, expected_text = (
                list(side[name]) if name in side else "nothing" for side in (shapes, expected)
            )
            raise CheckpointError(
                f"{path}: not a checkpoint of this model ({name}: {stored_text}, expected {expected_text})"
            )


def _optimizer_shapes(model: LanguageModel) -> dict[str, torch.Size]:
    shapes: dict[str, torch.Size] = {}
    for name, parameter in model.trained_parameters().items():
        shapes |= {f"{name}/exp_avg": parameter.shape, f"{name}/exp_avg_sq": parameter.shape}
        shapes[f"{name}/step"] = torch.Size()
    return shapes


def _optimizer_tensors(model: LanguageModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name: `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step`; that of own steps by theirs."""
    if isinstance(optimizer, OwnSteps):
        return optimizer.tensors()
    return {
        f"{name}/{key}": value
        for name, parameter in model.trained_parameters().items()
        for key, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(model: LanguageModel, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    for name, parameter in model.trained_parameters().items():
        optimizer.state[parameter] = {key: tensors[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
