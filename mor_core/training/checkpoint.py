"""Checkpoints: safetensors and JSON, never pickle. A manifest of sha256 sums is verified before anything is loaded.

A checkpoint folder holds `weights.safetensors` (parameters and router thresholds), `optimizer.safetensors` (absent
where only weights were kept) and `manifest.json`. It appears by one rename, so a folder with the final name is whole;
the sums catch what happens to it later.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mor_core.model.transformer import Transformer

SCHEMA = "mor-sweep.checkpoint/1"
MANIFEST, WEIGHTS, OPTIMIZER = "manifest.json", "weights.safetensors", "optimizer.safetensors"


class CheckpointError(Exception):
    """A checkpoint that is missing, torn, altered or of another shape; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a verified checkpoint holds."""

    step: int
    """Optimiser steps taken."""
    files: dict[str, str]
    """File name -> sha256 of its bytes."""


def save_checkpoint(folder: Path, model: Transformer, optimizer: torch.optim.Optimizer | None, step: int) -> Manifest:
    """Write a checkpoint and make it appear at `folder` by one rename; replaces a folder already there."""
    temporary = folder.with_name(f"{folder.name}.writing.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        manifest = _write(temporary, model, optimizer, step)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # What a full disk cut short must not keep it full.
    _fsync(folder.parent)
    return manifest


def _write(folder: Path, model: Transformer, optimizer: torch.optim.Optimizer | None, step: int) -> Manifest:
    """The files of a checkpoint, on disk for certain."""
    _save(folder / WEIGHTS, dict(model.state_dict()))
    if optimizer is not None:
        _save(folder / OPTIMIZER, _optimizer_tensors(model, optimizer))
    manifest = Manifest(step=step, files={path.name: _sha256(path) for path in sorted(folder.iterdir())})
    text = json.dumps({"schema": SCHEMA, "step": step, "files": manifest.files}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text)
    for path in (*folder.iterdir(), folder):
        _fsync(path)
    return manifest


def verify_checkpoint(folder: Path) -> Manifest:
    """Read the manifest and compare every file with its sha256. Raises CheckpointError."""
    try:
        data = json.loads((folder / MANIFEST).read_text())
        manifest = Manifest(step=int(data["step"]), files=dict(data["files"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: not a readable manifest ({error})") from error
    if data.get("schema") != SCHEMA:
        raise CheckpointError(f"{folder / MANIFEST}: schema {data.get('schema')!r}, expected {SCHEMA!r}")
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise CheckpointError(f"{folder / MANIFEST}: {name!r} is not a plain file name")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing")
        if _sha256(folder / name) != expected:
            raise CheckpointError(f"{folder / name}: its sha256 is not the manifest's; the file was changed or torn")
    return manifest


def load_checkpoint(folder: Path, model: Transformer, optimizer: torch.optim.Optimizer | None) -> int:
    """Verify a checkpoint and load it into a model of the same shape; returns its step. Raises CheckpointError.

    With optimizer=None only the weights are read.
    """
    manifest = verify_checkpoint(folder)
    wanted = [WEIGHTS] if optimizer is None else [WEIGHTS, OPTIMIZER]
    for name in wanted:
        if name not in manifest.files:
            raise CheckpointError(f"{folder / name}: this checkpoint holds {', '.join(sorted(manifest.files))} only")
    device = str(model.embedding.weight.device)
    weights = load_file(folder / WEIGHTS, device=device)
    moments = {} if optimizer is None else load_file(folder / OPTIMIZER, device=device)
    # Everything is compared before anything is copied: a refused checkpoint leaves the model as it was.
    _check_shapes(folder / WEIGHTS, weights, {name: value.shape for name, value in model.state_dict().items()})
    if optimizer is not None:
        _check_shapes(folder / OPTIMIZER, moments, _optimizer_shapes(model))
        _restore_optimizer(model, optimizer, moments)
    model.load_state_dict(weights)
    return manifest.step


def _check_shapes(path: Path, tensors: dict[str, Tensor], expected: dict[str, torch.Size]) -> None:
    found = {name: value.shape for name, value in tensors.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            there, wanted = (list(each[name]) if name in each else "nothing" for each in (found, expected))
            raise CheckpointError(f"{path}: not a checkpoint of this model ({name}: {there}, expected {wanted})")


def _optimizer_shapes(model: Transformer) -> dict[str, torch.Size]:
    shapes: dict[str, torch.Size] = {}
    for name, parameter in model.named_parameters():
        shapes |= {f"{name}/exp_avg": parameter.shape, f"{name}/exp_avg_sq": parameter.shape}
        shapes[f"{name}/step"] = torch.Size()
    return shapes


def _optimizer_tensors(model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name: `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step`."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(model: Transformer, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {key: tensors[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
